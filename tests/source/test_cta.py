import copy
from dataclasses import replace

import pytest
import torch
from torch import nn
from toy_clip import clip_bundle

from acclimate.adapt import Adapter
from acclimate.backbones import Classifier, build, projected, split
from acclimate.bundle import Bundle
from acclimate.data import load
from acclimate.data.fingerprint import fingerprint
from acclimate.errors import InputError
from acclimate.objectives import alignment_loss
from acclimate.preprocessing import Preprocessing
from acclimate.source.aligned import align
from acclimate.source.alignment import train_alignment
from acclimate.source.calibration import recalibrate
from acclimate.source.images import SourceImages
from acclimate.source.loop import Run, Training
from acclimate.source.presets import PRESETS, SourceSettings, with_epochs
from acclimate.source.train import train
from acclimate.views import SimCLRViews, simclr_views

pytestmark = pytest.mark.usefixtures("few_trials")

NAME = "acclimate:resnet8-w8"
SETTINGS = SourceSettings(
    supervised=Training(epochs=2, batch=32, optimizer="sgd", learning_rate=0.05, warm_up=1),
    contrastive=Training(epochs=1, batch=32, learning_rate=1e-3, warm_up=0.5),
    align=Training(epochs=1, batch=32, learning_rate=1e-3, warm_up=0.5),
    contrastive_temperature=0.5,
    start="copy",
)


def run_in(**fields):
    return Run(precision="fp32", device="cpu", **fields)


def network(features=12, classes=4):
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, features, 5, stride=3),
        nn.BatchNorm2d(features),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(features, classes),
    )


@pytest.fixture(scope="module")
def data():
    whole = load("fashion-mnist-mini", "train")
    return replace(whole, images=whole.images[:128].clone(), labels=whole.labels[:128])


@pytest.fixture(scope="module")
def trained(data):
    return train("cta", NAME, data, SETTINGS, run_in(seed=2))


def test_bundle_round_trips_with_the_same_answers(trained, data, tmp_path):
    trained.save(tmp_path / "bundle")
    loaded = Bundle.load(tmp_path / "bundle")
    images = trained.preprocessing(data.images[:16])
    assert torch.equal(loaded.preprocessing(data.images[:16]), images)
    with torch.no_grad():
        assert torch.equal(loaded.classifier(images), trained.classifier(images))
        assert torch.equal(loaded.twin(images), trained.twin(images))
    assert loaded.classes == data.classes and loaded.architecture == NAME
    assert loaded.provenance == trained.provenance
    assert loaded.provenance["settings"]["align"]["epochs"] == 1
    assert loaded.provenance["seconds"].keys() == {"supervised", "contrastive", "align"}


def test_same_seed_same_weights(trained, data):
    again = train("cta", NAME, data, SETTINGS, run_in(seed=2))
    for ours, theirs in ((again.classifier, trained.classifier), (again.twin, trained.twin)):
        ours, theirs = ours.state_dict(), theirs.state_dict()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_supervised_settings_reach_the_training(trained, data):
    for changes in ({"cutout": 8}, {"crop_padding": 0}, {"label_smoothing": 0.1}):
        changed = train("cta", NAME, data, replace(SETTINGS, **changes), run_in(seed=2))
        weights = changed.classifier.head.weight
        assert not torch.equal(weights, trained.classifier.head.weight), changes


def test_twin_logits_spread_as_the_classifiers(trained, data):
    images = trained.preprocessing(data.images)

    def spread(model):
        logits = model(images) - model.head.bias
        return (logits - logits.mean(1, keepdim=True)).square().mean().sqrt()

    with torch.no_grad():
        assert spread(trained.twin).item() == pytest.approx(
            spread(trained.classifier).item(), rel=1e-2
        )
    ours, theirs = trained.twin.head, trained.classifier.head
    torch.testing.assert_close(
        ours.weight / ours.weight.norm(), theirs.weight / theirs.weight.norm()
    )
    assert torch.equal(ours.bias, theirs.bias)


def test_align_leaves_the_callers_network_alone(data, tmp_path):
    model = network()
    model[0].weight.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    flags = [p.requires_grad for p in model.parameters()]
    bundle = align(model, data.images, settings=SETTINGS, run=run_in())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [p.requires_grad for p in model.parameters()] == flags
    assert not model.training
    bundle.save(tmp_path / "bundle")
    loaded = Bundle.load(tmp_path / "bundle", model=network())
    images = Preprocessing(28)(data.images[:8])
    with torch.no_grad():
        assert torch.equal(loaded.classifier(images), model(images))
        assert torch.equal(loaded.twin(images), bundle.twin(images))
    assert bundle.classes == ("0", "1", "2", "3")


def test_a_twin_of_another_architecture(data, tmp_path):
    bundle = align(
        network(features=32),
        data.images,
        twin=NAME,
        classes="abcd",
        settings=SETTINGS,
        run=run_in(),
    )
    bundle.save(tmp_path / "bundle")
    loaded = Bundle.load(tmp_path / "bundle", model=network(features=32))
    assert loaded.twin_architecture == NAME and loaded.classes == tuple("abcd")
    images = Preprocessing(28)(data.images[:8])
    with torch.no_grad():
        assert torch.equal(loaded.twin(images), bundle.twin(images))


def test_the_classifier_of_a_bundle(tmp_path):
    """Text features are a head, too: the twin of a zero-shot classifier answers by the same."""
    given = clip_bundle(("ant", "bee", "cat"), size=28)
    images = torch.randint(256, (64, 3, 32, 32), dtype=torch.uint8)
    settings = replace(SETTINGS, interpolation=0.5)
    bundle = align(given, images, settings=settings, run=run_in())
    assert bundle.classes == given.classes and bundle.preprocessing == given.preprocessing
    bundle.save(tmp_path / "bundle")
    loaded = Bundle.load(tmp_path / "bundle")  # by its recorded name: no network is given
    unit = given.preprocessing(images[:8, :, :28, :28])
    with torch.no_grad():
        assert torch.equal(loaded.classifier(unit), given.classifier(unit))
        assert torch.equal(loaded.twin(unit), bundle.twin(unit))
        assert not torch.equal(bundle.twin(unit), bundle.classifier(unit))
    head = bundle.twin.head
    assert torch.equal(head.class_weights, given.classifier.head.class_weights)
    adapter = Adapter(loaded, "cta", device="cpu", precision="fp32")
    assert adapter(images[:16]).isfinite().all()
    assert all(name.startswith("model.encoder") for name in adapter._learner.moving)


def test_what_align_refuses(data):
    short = with_epochs(SETTINGS, 0)
    with pytest.raises(InputError, match=r"features \[32\].*classifier's \[12\]"):
        align(network(), data.images, twin=NAME, settings=short, run=run_in())
    with pytest.raises(InputError, match=r"3 class names .* 4 outputs"):
        align(network(), data.images, classes=["a", "b", "c"], settings=short, run=run_in())
    with pytest.raises(InputError, match="batch, 3"):
        align(network(), data.images[0], settings=short, run=run_in())
    with pytest.raises(InputError, match="no head that can be found"):
        align(network()[:-1], data.images, settings=short, run=run_in())
    single = replace(SETTINGS, align=replace(SETTINGS.align, batch=1))
    for images, settings in ((data.images[:1], SETTINGS), (data.images, single)):
        with pytest.raises(InputError, match="two images"):
            align(network(), images, settings=settings, run=run_in())


def test_stages_of_no_epochs_leave_a_twin_that_answers_as_the_classifier(data):
    torch.manual_seed(0)
    model = build("acclimate:preact8-w8", classes=4)  # group norm: no statistics
    bundle = align(model, data.images, settings=with_epochs(SETTINGS, 0), run=run_in())
    images = bundle.preprocessing(data.images[:8])
    torch.testing.assert_close(bundle.twin(images), model(images), rtol=1e-4, atol=1e-5)


def test_classifier_learns(data):
    longer = replace(SETTINGS.supervised, epochs=15, learning_rate=0.2)
    settings = replace(with_epochs(SETTINGS, 0), supervised=longer)
    bundle = train("cta", NAME, data, settings, run := run_in())
    classifier, preprocessing = bundle.classifier, bundle.preprocessing
    losses = [epoch["loss"] for epoch in run.history["supervised"]]
    assert losses[-1] < losses[0] - 0.3
    with torch.no_grad():
        found = classifier(preprocessing(data.images)).argmax(1)
    assert (found == data.labels).double().mean() > 0.3  # chance: 0.1
    assert not classifier.training


def test_a_trainable_classifier_moves_and_its_head_stays(data, tmp_path):
    model = split(network(classes=10))
    settings = replace(SETTINGS, trainable_classifier=True, interpolation=0.3)
    before = copy.deepcopy(model.state_dict())
    bundle = align(
        model, data.images, labels=data.labels, settings=settings, run=run_in(folder=tmp_path)
    )
    after = bundle.classifier.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert any(name.startswith("encoder") and name.endswith("weight") for name in moved)
    assert not any(name.startswith("head") for name in moved)
    again = align(
        model, data.images, labels=data.labels, settings=settings, run=run_in(folder=tmp_path)
    )
    for ours, theirs in ((again.classifier, bundle.classifier), (again.twin, bundle.twin)):
        ours, theirs = ours.state_dict(), theirs.state_dict()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_trainable_classifier_learns_the_labels(data):
    settings = replace(
        SETTINGS,
        contrastive=replace(SETTINGS.contrastive, epochs=0),
        align=replace(SETTINGS.align, epochs=10, learning_rate=1e-2),
        trainable_classifier=True,
    )
    torch.manual_seed(3)
    model = split(build(NAME, classes=10))
    bundle = align(model, data.images, labels=data.labels, settings=settings, run=run_in())
    images = bundle.preprocessing(data.images)
    with torch.no_grad():
        before, after = (
            torch.nn.functional.cross_entropy(net(images), data.labels).item()
            for net in (model, bundle.classifier)
        )
    assert after < before - 0.15


def test_labels_are_checked_before_anything_trains(data, tmp_path):
    settings, run = replace(SETTINGS, trainable_classifier=True), run_in(folder=tmp_path)
    model, images = network(classes=4), data.images
    with pytest.raises(InputError, match="trainable_classifier needs labels"):
        align(model, images, settings=settings, run=run)
    with pytest.raises(InputError, match="127 labels do not fit 128 images"):
        align(model, images, labels=data.labels[:127], settings=settings, run=run)
    for wrong in (4, -1):
        labels = torch.zeros(128, dtype=torch.int64)
        labels[5] = wrong
        with pytest.raises(InputError, match=r"labels must lie in 0\.\.3"):
            align(model, images, labels=labels, settings=settings, run=run)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "change",
    [
        {"labels": "one"},
        {"images": "one"},
        {"cutout": 4},
        {"crop_padding": 1},
        {"label_smoothing": 0.1},
    ],
)
def test_checkpoint_of_another_supervised_stage_is_refused(data, tmp_path, change):
    short = with_epochs(SETTINGS, 1)
    train("cta", NAME, data, short, run_in(folder=tmp_path))
    if "labels" in change:
        labels = data.labels.clone()
        labels[7] = (labels[7] + 1) % 10
        data = replace(data, labels=labels)
    elif "images" in change:
        images = data.images.clone()
        images[7, 0, 0, 0] += 1
        data = replace(data, images=images)
    else:
        short = replace(short, **change)
    with pytest.raises(InputError, match="other settings or data"):
        train("cta", NAME, data, short, run_in(folder=tmp_path))


@pytest.mark.parametrize("other_start", [False, True])
@pytest.mark.parametrize("change", ["temperature", "views", "classifier", "preprocessing"])
def test_checkpoint_of_another_alignment_is_refused(data, tmp_path, change, other_start):
    settings = replace(with_epochs(SETTINGS, 1), contrastive=Training(epochs=0, batch=32))
    twin = network() if other_start else None
    model, preprocessing = network(), Preprocessing(28)
    align(
        model,
        data.images,
        settings=settings,
        twin=twin,
        preprocessing=preprocessing,
        run=run_in(folder=tmp_path),
    )
    if change == "temperature":
        settings = replace(settings, align_temperature=0.4)
    elif change == "views":
        settings = replace(settings, views=SimCLRViews(hue=0.2))
    elif change == "classifier":
        with torch.no_grad():
            model[0].weight[0, 0, 0, 0] += 0.5
    else:
        preprocessing = replace(preprocessing, mean=(0.5, 0.5, 0.5))
    with pytest.raises(InputError, match="other settings or data"):
        align(
            model,
            data.images,
            settings=settings,
            twin=twin,
            preprocessing=preprocessing,
            run=run_in(folder=tmp_path),
        )


def test_alignment_brings_held_out_images_closer(trained, data):
    held_out = load("fashion-mnist-mini", "test").images[:64]
    preprocessing = trained.preprocessing
    torch.manual_seed(5)
    stranger = split(build(NAME, classes=10)).encoder
    branch = projected(Classifier(stranger, trained.classifier.head)).encoder.requires_grad_(True)
    frozen = copy.deepcopy(trained.classifier.state_dict())

    @torch.no_grad()
    def held_out_loss():
        branch.eval()
        views = simclr_views(
            preprocessing.unit(held_out), SimCLRViews(), key=0, index=torch.arange(64), count=2
        )
        first, second = branch(preprocessing.normalize(views)).chunk(2)
        target = trained.classifier.encoder(preprocessing(held_out))
        return alignment_loss(first, second, target, temperature=0.5).item()

    recalibrate(branch, SourceImages(data.images, preprocessing), "fp32")
    before = held_out_loss()
    train_alignment(
        branch,
        trained.classifier,
        SourceImages(data.images, preprocessing),
        replace(SETTINGS.align, epochs=6, learning_rate=3e-3),
        run_in(),
        temperature=0.5,
        views=SimCLRViews(),
    )
    assert held_out_loss() < before - 0.2
    state = trained.classifier.state_dict()
    assert all(torch.equal(value, frozen[name]) for name, value in state.items())


@pytest.mark.parametrize("count", [64, 65, 66, 100])
def test_recalibrated_statistics_are_those_of_the_images(data, count):
    images, preprocessing = data.images[:count].clone(), Preprocessing(28)
    images[:, 1] //= 2
    module = nn.Sequential(nn.BatchNorm2d(3, momentum=0.3), nn.Conv2d(3, 2, 3))
    module[0].running_mean.fill_(9)
    recalibrate(module, SourceImages(images, preprocessing), "fp32", batch=32)
    expected = preprocessing(images)
    # Means of batches of nearly one size; variances are within them.
    deviation = expected.std((0, 2, 3))
    error = (module[0].running_mean - expected.mean((0, 2, 3))) / deviation
    assert error.abs().max() < 0.01
    torch.testing.assert_close(module[0].running_var, expected.var((0, 2, 3)), rtol=0.03, atol=0)
    assert module[0].momentum == 0.3 and not module[0].training and not module.training


def test_recalibration_of_one_batch_is_exact(data):
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5))
    weights = copy.deepcopy(module[0].state_dict())
    recalibrate(module, SourceImages(data.images, Preprocessing(28)), "fp32", batch=128)
    with torch.no_grad():
        found = module[0](Preprocessing(28)(data.images))
    torch.testing.assert_close(module[1].running_mean, found.mean((0, 2, 3)), rtol=1e-3, atol=2e-4)
    torch.testing.assert_close(module[1].running_var, found.var((0, 2, 3)), rtol=1e-3, atol=2e-4)
    assert all(torch.equal(value, weights[name]) for name, value in module[0].state_dict().items())


def test_recalibration_keeps_to_its_limit(data):
    seen = []
    module = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 2, 3))
    module[0].register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    recalibrate(
        module, SourceImages(data.images[:127], Preprocessing(28)), "fp32", batch=16, limit=70
    )
    assert sum(seen) == 70


def test_fingerprint_tells_sets_apart(data):
    assert fingerprint(data.images) == fingerprint(data.images.clone())
    changed = data.images.clone()
    changed[100, 2, 27, 27] ^= 1
    assert fingerprint(changed) != fingerprint(data.images)
    assert fingerprint(data.images[:127]) != fingerprint(data.images)
    assert fingerprint(data.images.flip(0)) != fingerprint(data.images)
    strided = data.images.contiguous()
    assert strided.stride() != data.images.stride()
    assert fingerprint(strided) == fingerprint(data.images)


@pytest.mark.parametrize("at", [0, 4095, 4096, 8999])
def test_fingerprint_sees_every_image_of_a_large_set(at):
    images = torch.zeros(9000, 3, 2, 2, dtype=torch.uint8)
    changed = images.clone()
    changed[at, 1, 1, 1] = 1
    assert fingerprint(changed) != fingerprint(images)


def test_presets():
    paper = PRESETS["paper"]
    assert (paper.contrastive_temperature, paper.align_temperature) == (0.01, 0.5)
    assert {s.epochs for s in (paper.supervised, paper.contrastive, paper.align)} == {50}
    short = with_epochs(PRESETS["small"], 1)
    assert {s.epochs for s in (short.supervised, short.contrastive, short.align)} == {1}
    assert short.align.learning_rate == PRESETS["small"].align.learning_rate
