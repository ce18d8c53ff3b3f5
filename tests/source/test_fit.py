"""`fit`: the losses by hand, and what moves, what stays, in which mode."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn.functional import cosine_similarity, cross_entropy

from acclimate.backbones import FORMS, build, split
from acclimate.errors import InputError
from acclimate.objectives import Contrastive, Reconstruction, Rotation
from acclimate.objectives.objective import Objective
from acclimate.preprocessing import Preprocessing
from acclimate.randomness import key, permutation
from acclimate.source.fit import fit
from acclimate.source.images import SourceImages
from acclimate.source.loop import Run, Training
from acclimate.source.presets import Supervision
from acclimate.views import SimCLRViews, cutout, shifted_crop, simclr_views

PLAIN = Supervision(crop_padding=3, cutout=0, label_smoothing=0.0)
ONE_STEP = Training(epochs=1, batch=24, learning_rate=0.01, warm_up=0)


@pytest.fixture
def source(data):
    images = data.images[:24]
    return SourceImages(images, Preprocessing.fit(images), data.labels[:24])


def network(form="plain"):
    torch.manual_seed(0)
    model = FORMS[form](split(build("acclimate:resnet8-w8", classes=10)))
    for parameter in model.parameters():  # the two halves of a siamese are to differ
        parameter.data += 0.05 * torch.randn_like(parameter)
    return model


def run_in(**fields):
    return Run(seed=4, precision="fp32", device="cpu", **fields)


def first_loss(model, source, **given):
    """Of the only step of the only epoch."""
    run = run_in()
    fit("stage", model, source, ONE_STEP, run, moves=("encoder", "head", "objective"), **given)
    return run.history["stage"][0]["loss"]


def drawn(source, supervision=PLAIN):
    """The epoch's key, the order of its images, and what the classifier sees of them."""
    epoch = key(4, "stage", 0)
    order = permutation(epoch, 24)
    seen = source.images[order]
    seen = shifted_crop(seen, supervision.crop_padding, key=key(epoch, "shifted crop"), index=order)
    if supervision.cutout:
        seen = cutout(seen, supervision.cutout, key=key(epoch, "cutout"), index=order)
    mean, std = (
        torch.tensor(each).view(3, 1, 1)
        for each in (source.preprocessing.mean, source.preprocessing.std)
    )

    def normalise(images):
        return (images / 255 - mean) / std if images.dtype == torch.uint8 else (images - mean) / std

    return epoch, order, normalise(seen), normalise


@pytest.mark.parametrize(
    "supervision", [PLAIN, Supervision(2, 8, 0.0), Supervision(0, 0, 0.2)], ids=repr
)
def test_cross_entropy_by_hand(source, supervision):
    model = network()
    plain = copy.deepcopy(model).train()
    _, order, images, _ = drawn(source, supervision)
    smoothing, expected = supervision.label_smoothing, 0.0
    for logits, label in zip(plain(images).log_softmax(1), source.labels[order]):
        target = torch.full((10,), smoothing / 10)
        target[label] += 1 - smoothing
        expected -= (target * logits).sum().item() / 24
    assert first_loss(model, source, supervision=supervision) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("weight", [1.0, 0.25])
def test_rotation_beside_cross_entropy_by_hand(source, weight):
    model = network()
    objective = Rotation(model, source.preprocessing, tap=2, padding=3)
    plain, branch = copy.deepcopy(model).train(), copy.deepcopy(objective.branch).train()
    epoch, order, images, normalise = drawn(source)
    supervised = cross_entropy(plain(images), source.labels[order])
    views = source.images[order].float() / 255
    views = shifted_crop(views, 3, key=key(epoch, "views"), index=order)
    turned = torch.cat([torch.rot90(views, turns, (2, 3)) for turns in range(4)])
    features = normalise(turned)
    for name, part in plain.encoder.named_children():
        features = part(features) if name != "stages" else part[:2](features)
        if name == "stages":
            break
    rotation = cross_entropy(branch(features), torch.arange(4).repeat_interleave(24))
    found = first_loss(model, source, supervision=PLAIN, objective=objective, weight=weight)
    assert found == pytest.approx((supervised + weight * rotation).item(), rel=1e-4)


def test_contrast_beside_cross_entropy_by_hand(source):
    model = network()
    objective = Contrastive(model, source.preprocessing, temperature=0.5, projection=8)
    plain, projector = copy.deepcopy(model).train(), copy.deepcopy(objective.projector)
    epoch, order, images, normalise = drawn(source)
    supervised = cross_entropy(plain(images), source.labels[order])
    views = simclr_views(
        source.images[order] / 255, SimCLRViews(), key=key(epoch, "views"), index=order, count=2
    )
    z = projector(plain.encoder(normalise(views))).detach()
    terms = []
    for i in range(48):  # SimCLR, Eq. 1
        exponentials = {
            k: math.exp(cosine_similarity(z[i], z[k], dim=0) / 0.5) for k in range(48) if k != i
        }
        terms.append(-math.log(exponentials[(i + 24) % 48] / sum(exponentials.values())))
    found = first_loss(model, source, supervision=PLAIN, objective=objective)
    assert found == pytest.approx(supervised.item() + sum(terms) / 48, rel=1e-4)


def test_every_vote_of_a_siamese_has_its_cross_entropy(source):
    model = network("siamese")
    plain = copy.deepcopy(model).train()
    _, order, images, _ = drawn(source)
    weights, bias = plain.head.weight.chunk(2, dim=1), plain.head.bias / 2
    first = plain.encoder.first(images) @ weights[0].T + bias
    second = plain.encoder.second(images.flip(-1)) @ weights[1].T + bias
    labels = source.labels[order]
    expected = cross_entropy(first, labels) + cross_entropy(second, labels)
    together = cross_entropy(first + second, labels)
    found = first_loss(model, source, supervision=PLAIN)
    assert found == pytest.approx(expected.item(), rel=1e-4)
    assert abs(found - together.item()) > 0.1


def test_reconstruction_beside_cross_entropies_by_hand(source):
    model = network("siamese")
    objective = Reconstruction(model, source.preprocessing, blocks=1)
    with torch.no_grad():  # another network than the first encoder
        for parameter in objective.teacher.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    plain, parts = copy.deepcopy(model).train(), copy.deepcopy(objective).train()
    epoch, order, images, normalise = drawn(source)
    labels, teacher = source.labels[order], parts.teacher.eval()
    supervised = sum(cross_entropy(vote, labels) for vote in plain.votes(images))
    views = source.images[order].float() / 255
    views = normalise(shifted_crop(views, 28 // 8, key=key(epoch, "views"), index=order))

    def stages(encoder, seen):
        kept = []
        hooks = [
            stage.register_forward_hook(lambda _, __, output: kept.append(output))
            for stage in encoder.stages
        ]
        features = encoder(seen)
        for hook in hooks:
            hook.remove()
        return kept, features

    with torch.no_grad():
        mirrored = views.flip(-1)
        first, features = stages(plain.encoder.first, views)
        second, others = stages(plain.encoder.second, mirrored)
        taught, taught_mirrored = (stages(teacher, seen)[0] for seen in (views, mirrored))
        given = [torch.cat(four) for four in zip(first, second, taught, taught_mirrored)]
        decoded = [stage.chunk(4) for stage in parts.decoder(given, origins=4)]
        wanted = zip(taught, taught_mirrored, first, second)
        distance = 0.0
        for targets, founds in zip(wanted, decoded):
            for target, found in zip(targets, founds):
                for one, other in zip(target, found):
                    cosine = cosine_similarity(one.flatten(), other.flatten(), dim=0)
                    distance += (1 - cosine.item()) / 24 / 4
        head, bias = plain.head.weight.chunk(2, dim=1), plain.head.bias / 2
        p = (features @ head[0].T + bias).softmax(1)
        q = (others @ head[1].T + bias).softmax(1)
        mutual = ((p - q) * (p / q).log()).sum(1).mean().item()
    found = first_loss(model, source, supervision=PLAIN, objective=objective)
    assert found == pytest.approx(supervised.item() + distance + mutual, rel=1e-3)


class Probing(Objective):
    """Counts what it is shown, and asks for gradients in every part."""

    def __init__(self):
        super().__init__()
        self.part = nn.BatchNorm2d(3)
        self.shown = []

    def source_draw(self, images, key, index):
        self.shown.append((images.clone(), index.clone()))
        return (images,)

    def forward(self, model, views):
        self.modes = [module.training for module in (model.encoder, model.head, self)]
        return model(self.part(views)).square().mean()


PARTS = ("encoder", "head", "objective")


@pytest.mark.parametrize(
    "moves",
    [("encoder", "head"), ("head",), ("objective",), ("encoder", "objective"), PARTS],
    ids="+".join,
)
def test_only_what_moves_moves_and_the_rest_is_in_evaluation_mode(source, moves):
    model, objective = network(), Probing()
    modules = {"encoder": model.encoder, "head": model.head, "objective": objective}
    before = copy.deepcopy({name: part.state_dict() for name, part in modules.items()})
    supervision = PLAIN if "head" in moves else None
    settings = Training(epochs=2, batch=8, learning_rate=0.05)
    fit(
        "stage", model, source, settings, run_in(), moves=moves, supervision=supervision,
        objective=objective,
    )  # fmt: skip
    assert objective.modes == [name in moves for name in PARTS]
    for name, part in modules.items():
        after = part.state_dict()
        same = {key: torch.equal(value, before[name][key]) for key, value in after.items()}
        assert all(same.values()) if name not in moves else not any(same.values()), (name, same)
    for module in (model, objective):
        assert not any(part.training for part in module.modules())
        assert not any(parameter.requires_grad for parameter in module.parameters())
        assert all(parameter.grad is None for parameter in module.parameters())


def test_an_oracles_objective_sees_as_many_target_images_and_the_classifier_none(source, target):
    others = SourceImages(target, source.preprocessing)
    assert others.labels is None
    model, objective, seen = network(), Probing(), []
    model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    votes, asked = model.votes, []
    model.votes = lambda images: asked.append(images.clone()) or votes(images)
    settings = Training(epochs=3, batch=8, learning_rate=0.01)
    fit(
        "stage", model, source, settings, run_in(), moves=("encoder", "head"),
        supervision=Supervision(0, 0, 0.0), objective=objective, target=others,
    )  # fmt: skip
    known = {picture.numpy().tobytes() for picture in target}
    own = {picture.numpy().tobytes() for picture in source.images}
    found = set()
    for images, index in objective.shown[1:]:  # after the trial of the memory
        pixels = (images * 255).round().to(torch.uint8)
        assert len(pixels) == 16 and len(index.unique()) == 16
        assert {picture.numpy().tobytes() for picture in pixels[:8]} <= own
        assert {picture.numpy().tobytes() for picture in pixels[8:]} <= known
        assert torch.equal(pixels[8:], target[index[8:] - 24])
        found |= {picture.numpy().tobytes() for picture in pixels[8:]}
    assert len(found) > 24  # though an epoch has only 24 source images
    mirrored = {picture.flip(-1).numpy().tobytes() for picture in source.images}
    for images in asked:
        mean, std = (
            torch.tensor(each).view(3, 1, 1)
            for each in (source.preprocessing.mean, source.preprocessing.std)
        )
        pixels = ((images * std + mean) * 255).round().to(torch.uint8)
        assert {picture.contiguous().numpy().tobytes() for picture in pixels} <= own | mirrored


def test_labels_that_are_missing_are_asked_for(source):
    bare = SourceImages(source.images, source.preprocessing)
    with pytest.raises(InputError, match="the stage probe needs labels"):
        fit("probe", network(), bare, ONE_STEP, run_in(), moves=("head",), supervision=PLAIN)


def test_an_objective_alone_needs_none(source):
    bare = SourceImages(source.images, source.preprocessing)
    model = network()
    objective = Rotation(model, source.preprocessing)
    fit("pretrain", model, bare, ONE_STEP, run_in(), moves=("encoder",), objective=objective)
