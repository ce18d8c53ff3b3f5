import copy
import errno
import hashlib
import json
import os
import random
from dataclasses import replace

import pytest
import torch
from torch import nn

from acclimate import bundle as module
from acclimate.adapt import Adapter
from acclimate.backbones import Classifier, build, projected, split
from acclimate.bundle import Bundle, read_record
from acclimate.bundle_record import SCHEMA
from acclimate.errors import InputError
from acclimate.objectives import Contrastive
from acclimate.preprocessing import Preprocessing
from acclimate.storage import atomic

NAME = "acclimate:resnet8-w4"
PREPROCESSING = Preprocessing(28, (0.1, 0.2, 1 / 3), (0.3, 0.2, 0.1))
IMAGES = torch.rand(2, 3, 28, 28, generator=torch.Generator().manual_seed(0))


def network(hidden=6):
    return nn.Sequential(
        nn.Conv2d(3, hidden, 3, stride=4),
        nn.BatchNorm2d(hidden),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(hidden, 3),
    )


def make(model, **fields):
    """A bundle whose weights and statistics are all random, and differ between the models."""
    torch.manual_seed(0)
    classifier = split(model)
    twin = projected(classifier)
    for tensor in [*classifier.state_dict().values(), *twin.state_dict().values()]:
        if tensor.is_floating_point():
            tensor.copy_(torch.rand_like(tensor) + 0.1)
    options = {"views": {"hue": 0.2}}
    fields = {
        "twin": twin,
        "preprocessing": PREPROCESSING,
        "classes": ("a", "ß", "c"),
        "objective": Contrastive(twin, PREPROCESSING, **options),
        "options": options,
    } | fields
    return Bundle(classifier=classifier.eval(), **fields)


@pytest.fixture
def bundle():
    return make(
        build(NAME, classes=3),
        architecture=NAME,
        twin_architecture=NAME,
        provenance={"seed": 3, "note": "τ"},
        method="cta-paper",
    )


@pytest.fixture
def path(bundle, tmp_path):
    bundle.save(tmp_path / "bundle")
    return tmp_path / "bundle"


def assert_same(found, expected):
    for ours, theirs in ((found.classifier, expected.classifier), (found.twin, expected.twin)):
        assert (ours is None) == (theirs is None)
        if ours is None:
            continue
        a, b = ours.state_dict(), theirs.state_dict()
        assert a.keys() == b.keys()
        assert all(a[name].dtype == b[name].dtype and torch.equal(a[name], b[name]) for name in a)
        assert not ours.training and not any(p.requires_grad for p in ours.parameters())
        assert torch.equal(ours(IMAGES), theirs.eval()(IMAGES))
    for field in (
        "preprocessing",
        "classes",
        "method",
        "recipe",
        "options",
        "form",
        "architecture",
    ):
        assert getattr(found, field) == getattr(expected, field)
    assert found.provenance == expected.provenance
    assert type(found.objective) is type(expected.objective)


def test_round_trip(bundle, path):
    loaded = Bundle.load(path)
    assert_same(loaded, bundle)
    assert loaded.twin_architecture == NAME
    assert sorted(p.name for p in path.iterdir()) == ["bundle.json", "weights.safetensors"]
    assert list(path.parent.iterdir()) == [path]


def test_round_trip_without_a_twin(bundle, tmp_path):
    bundle.twin = None
    bundle.save(str(tmp_path / "deep" / "bundle"))
    assert_same(Bundle.load(str(tmp_path / "deep" / "bundle")), bundle)


def test_two_writes_of_one_bundle_are_equal(bundle, path, tmp_path):
    Bundle.load(path).save(tmp_path / "again")
    for name in ("bundle.json", "weights.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (path / name).read_bytes()


def test_unregistered_network_is_given_back(tmp_path):
    bundle = make(network())
    bundle.save(tmp_path / "bundle")
    with pytest.raises(InputError, match=r"model=net"):
        Bundle.load(tmp_path / "bundle")
    torch.manual_seed(1)
    assert_same(Bundle.load(tmp_path / "bundle", model=network()), bundle)
    with pytest.raises(InputError, match="do not fit"):
        Bundle.load(tmp_path / "bundle", model=network(hidden=7))
    with pytest.raises(InputError):
        Bundle.load(tmp_path / "bundle", model=nn.Sequential(nn.Flatten()))


def test_unregistered_twin_is_given_too(bundle, tmp_path):
    encoder = split(network(hidden=bundle.classifier.feature_dim)).encoder
    bundle.twin = projected(Classifier(encoder, bundle.classifier.head))
    bundle.twin_architecture = module.CUSTOM
    bundle.save(tmp_path / "bundle")
    with pytest.raises(InputError, match=r"twin=net"):
        Bundle.load(tmp_path / "bundle")
    other = network(hidden=bundle.classifier.feature_dim)
    assert_same(Bundle.load(tmp_path / "bundle", twin=other), bundle)


def test_a_layer_used_twice_is_saved(tmp_path):
    shared = nn.Conv2d(3, 3, 3, padding=1)
    model = nn.Sequential(shared, nn.ReLU(), shared, nn.Flatten(), nn.Linear(3 * 28 * 28, 3))
    bundle = make(model, twin=None)
    bundle.save(tmp_path / "bundle")
    fresh = nn.Conv2d(3, 3, 3, padding=1)
    given = nn.Sequential(fresh, nn.ReLU(), fresh, nn.Flatten(), nn.Linear(3 * 28 * 28, 3))
    assert_same(Bundle.load(tmp_path / "bundle", model=given), bundle)


def test_loading_in_inference_mode_gives_normal_tensors(bundle, path):
    with torch.inference_mode():
        loaded = Bundle.load(path)
    tensors = [*loaded.classifier.state_dict().values(), *loaded.twin.state_dict().values()]
    assert not any(tensor.is_inference() for tensor in tensors)
    loaded.twin.requires_grad_(True)(IMAGES).sum().backward()
    assert_same(Bundle.load(path), bundle)


@pytest.mark.parametrize("name", ["bundle.json", "weights.safetensors"])
def test_every_changed_byte_is_refused(path, name):
    content, choice = (path / name).read_bytes(), random.Random(0)
    for place in [*range(10), *(choice.randrange(len(content)) for _ in range(200))]:
        changed = bytearray(content)
        changed[place] ^= choice.randrange(1, 256)
        (path / name).write_bytes(changed)
        with pytest.raises(InputError):
            Bundle.load(path)


@pytest.mark.parametrize("name", ["bundle.json", "weights.safetensors"])
def test_every_truncation_and_extension_is_refused(path, name):
    content, choice = (path / name).read_bytes(), random.Random(1)
    lengths = [0, 1, len(content) - 1, *(choice.randrange(len(content)) for _ in range(200))]
    for changed in [*(content[:length] for length in lengths), content + b" ", content + b"\n"]:
        (path / name).write_bytes(changed)
        with pytest.raises(InputError, match="damaged"):
            Bundle.load(path)


@pytest.mark.parametrize("name", ["bundle.json", "weights.safetensors"])
def test_missing_file(path, name):
    (path / name).unlink()
    with pytest.raises(InputError, match=f"has no {name}"):
        Bundle.load(path)


def test_no_folder_and_no_bundle(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        Bundle.load(tmp_path / "nothing")
    with pytest.raises(InputError, match="no bundle"):
        Bundle.load(tmp_path)
    (tmp_path / "file").write_text("text")
    with pytest.raises(InputError, match="no bundle"):
        Bundle.load(tmp_path / "file")


@pytest.mark.parametrize(
    "text", ["", "[]", "null", "{}", '{"schema": "1"}', '{"schema": 1}', "[" * 100_000, '"\\ud800"']
)
def test_other_json_is_refused(path, text):
    (path / "bundle.json").write_text(text)
    with pytest.raises(InputError, match="damaged"):
        Bundle.load(path)


def rewrite(path, change):
    """Change a saved record as an older or newer version would have written it."""
    record = json.loads((path / "bundle.json").read_text())
    del record["sha256"]
    change(record)

    def text(record):
        return json.dumps(record, indent=2, sort_keys=True, ensure_ascii=False) + "\n"

    record["sha256"] = hashlib.sha256(text(record).encode()).hexdigest()
    (path / "bundle.json").write_text(text(record))
    return text(record)


def only_size_mean_and_std(record):
    kept = ("size", "mean", "std")
    record["preprocessing"] = {name: record["preprocessing"][name] for name in kept}


def test_future_schema(path):
    rewrite(path, lambda record: record.update(schema=SCHEMA + 1))
    with pytest.raises(InputError, match=rf"newer acclimate .*schema {SCHEMA + 1}.*upgrade"):
        Bundle.load(path)
    with pytest.raises(InputError, match="newer acclimate"):
        read_record(path)


def test_a_bundle_of_schema_1_is_read_as_one_of_cta(bundle, path):
    """Schema 1 knew one recipe: ``objective`` held its options alone."""

    def first(record):
        del record["recipe"], record["form"]
        only_size_mean_and_std(record)
        record.update(schema=1, objective={"views": {"hue": 0.2}})

    written = rewrite(path, first)
    loaded = Bundle.load(path)
    assert_same(loaded, bundle)
    assert (loaded.recipe, loaded.form, loaded.method) == ("cta", "plain", "cta-paper")
    assert loaded.objective.views.hue == 0.2
    adapted = (Adapter(each, steps=1, device="cpu")(IMAGES) for each in (loaded, bundle))
    assert torch.equal(*adapted)
    (path / "bundle.json").write_text(written.replace("0.2", "0.3"))
    with pytest.raises(InputError, match="damaged"):
        Bundle.load(path)


def test_a_bundle_of_schema_2_resizes_as_it_did(bundle, path):
    """Schema 2 knew one way to resize."""

    def second(record):
        only_size_mean_and_std(record)
        record.update(schema=2)

    rewrite(path, second)
    loaded = Bundle.load(path)
    assert_same(loaded, bundle)
    assert loaded.preprocessing == PREPROCESSING


def test_all_of_preprocessing_is_kept(tmp_path):
    preprocessing = Preprocessing(
        (32, 24), (0.1,), (0.2,), resize=(40, 30), mode="squash", interpolation="bicubic"
    )
    made = make(build(NAME, classes=3), architecture=NAME, twin=None, objective=None)
    made.preprocessing = preprocessing
    made.save(tmp_path / "other")
    assert Bundle.load(tmp_path / "other").preprocessing == preprocessing


def test_weights_of_another_bundle_are_refused(path, tmp_path):
    make(build(NAME, classes=3), architecture=NAME, twin=None).save(tmp_path / "other")
    (tmp_path / "other" / "weights.safetensors").rename(path / "weights.safetensors")
    with pytest.raises(InputError, match="damaged"):
        Bundle.load(path)


def test_record_is_read_without_the_weights(path):
    (path / "weights.safetensors").unlink()
    record = read_record(path)
    assert record["architecture"] == NAME and record["classes"] == ["a", "ß", "c"]
    assert "sha256" not in record and json.dumps(record)


@pytest.mark.parametrize("kind", ["file", "folder", "bundle"])
def test_existing_path_is_left_alone(bundle, tmp_path, kind):
    path = tmp_path / "here"
    if kind == "file":
        path.write_text("mine")
    elif kind == "folder":
        path.mkdir()
    else:
        bundle.save(path)
    before = sorted(p.name for p in path.iterdir()) if path.is_dir() else path.read_text()
    with pytest.raises(InputError, match="exists already"):
        bundle.save(path)
    assert before == (sorted(p.name for p in path.iterdir()) if path.is_dir() else path.read_text())
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("broken", ["save_file", "write_text", "sync"])
def test_no_space_leaves_nothing(bundle, tmp_path, monkeypatch, broken):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(module if broken == "save_file" else atomic, broken, full)
    with pytest.raises(InputError, match=r"cannot write .*No space left"):
        bundle.save(tmp_path / "bundle")
    assert not list(tmp_path.iterdir())


def test_path_below_a_regular_file(bundle, tmp_path):
    (tmp_path / "file").write_text("here")
    with pytest.raises(InputError, match="cannot write"):
        bundle.save(tmp_path / "file" / "bundle")
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


def test_interrupted_save_leaves_nothing(bundle, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(atomic, "write_text", interrupt)
    with pytest.raises(KeyboardInterrupt):
        bundle.save(tmp_path / "bundle")
    assert not list(tmp_path.iterdir())


def test_projected_answers_as_the_classifier_and_shares_nothing():
    classifier = make(network()).classifier
    twin = projected(classifier).eval()
    torch.testing.assert_close(twin(IMAGES), classifier(IMAGES))
    before = copy.deepcopy(classifier.state_dict())
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(1)
    assert all(torch.equal(value, before[name]) for name, value in classifier.state_dict().items())


def test_class_names_that_are_no_utf_8_survive(bundle, tmp_path):
    names = (os.fsdecode(b"caf\xe9"), "\ud83d", "ü")
    replace(bundle, classes=names).save(tmp_path / "b")
    assert Bundle.load(tmp_path / "b").classes == names
    json.loads((tmp_path / "b" / "bundle.json").read_text(encoding="utf-8"))
