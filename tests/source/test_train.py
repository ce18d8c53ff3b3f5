"""`acclimate.train` makes the bundle of every recipe; the same one, however often it is stopped."""

import functools
import shutil
from dataclasses import replace

import pytest
import torch
from torch import nn

from acclimate.adapt import Adapter
from acclimate.backbones import split
from acclimate.bundle import Bundle
from acclimate.errors import InputError
from acclimate.methods import METHODS, RECIPES
from acclimate.source.loop import Run, Training
from acclimate.source.presets import SourceSettings, with_epochs
from acclimate.source.train import initial, train
from acclimate.views import SimCLRViews

SETTINGS = SourceSettings()
TRAINS = [name for name, recipe in RECIPES.items() if recipe.objective]


def some_of(recipes, fast):
    """All, those that are not named marked as slow."""
    return [
        name if name in fast else pytest.param(name, marks=pytest.mark.slow) for name in recipes
    ]


@pytest.fixture(scope="module")
def trained(make):
    """A recipe's bundle after an epoch of each stage, and the run that made it."""

    @functools.cache
    def trained(recipe):
        run = Run(seed=2, precision="fp32", device="cpu")
        return make(recipe, run=run), run

    return trained


@pytest.mark.parametrize("recipe", RECIPES)
def test_bundle_says_how_it_was_made(trained, method_of, data, recipe):
    bundle, run = trained(recipe)
    row = RECIPES[recipe]
    assert (bundle.recipe, bundle.method, bundle.form) == (recipe, method_of(recipe), row.form)
    assert bundle.classes == data.classes
    assert list(run.history) == list(row.stages)
    assert list(bundle.provenance["seconds"]) == list(row.stages)
    assert bundle.provenance["seed"] == 2
    assert type(bundle.objective) is (row.objective or type(None))
    assert (bundle.twin is None) == ("align" not in row.stages)
    for module in bundle.modules.values():
        assert not any(parameter.requires_grad for parameter in module.parameters())
        assert not any(part.training for part in module.modules())
        assert all(value.isfinite().all() for value in module.state_dict().values())


@pytest.mark.parametrize("recipe", RECIPES)
def test_loaded_bundle_gives_the_same_frozen_and_adapted_answers(trained, data, tmp_path, recipe):
    bundle, _ = trained(recipe)
    bundle.save(tmp_path / "bundle")
    loaded = Bundle.load(tmp_path / "bundle")
    for field in ("method", "recipe", "form", "options", "architecture", "twin_architecture"):
        assert getattr(loaded, field) == getattr(bundle, field), field
    assert loaded.provenance == bundle.provenance
    few = 2 if recipe in ("ttt", "ttt-mae") else 16
    rows = [(name, row) for name, row in METHODS.items() if row.recipe == recipe]
    for name in ("source", *(name for name, row in rows if not (row.transformer or row.zero_shot))):
        changes = {"device": "cpu", "precision": "fp32"}
        changes |= {"steps": min(2, METHODS[name].settings.steps)}
        ours, theirs = (
            Adapter(each, name, **changes)(data.images[:few]) for each in (bundle, loaded)
        )
        assert torch.equal(ours, theirs), name


@pytest.mark.parametrize("recipe", ["ttt", "uda-ss"])
def test_batch_norm_knows_the_images_that_are_to_be_answered(trained, data, target, recipe):
    bundle, _ = trained(recipe)
    met, other = (target, data.images) if recipe == "uda-ss" else (data.images, target)
    norm = next(m for m in bundle.classifier.modules() if isinstance(m, nn.BatchNorm2d))
    seen = []
    handle = norm.register_forward_hook(lambda norm, inputs, output: seen.append(inputs[0]))
    for images in (met, other):
        bundle.classifier(bundle.preprocessing(images))
    handle.remove()
    right, wrong = (x.detach().transpose(0, 1).flatten(1) for x in seen)
    torch.testing.assert_close(norm.running_mean, right.mean(1), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(norm.running_var, right.var(1), rtol=1e-2, atol=1e-4)
    assert not torch.allclose(norm.running_mean, wrong.mean(1), rtol=1e-3, atol=1e-4)


# That another run ends in the same bits, each recipe's resuming shows too.
@pytest.mark.parametrize("recipe", some_of(RECIPES, {"ttt", "cta"}))
def test_same_seed_same_weights(trained, make, assert_same, recipe):
    torch.rand(7)  # the global generator's state does not matter
    assert_same(make(recipe, seed=2), trained(recipe)[0])
    other = make(recipe, seed=3).classifier.head.weight
    assert not torch.equal(other, trained(recipe)[0].classifier.head.weight)


class StopError(Exception):
    pass


@pytest.mark.parametrize("recipe", RECIPES)
def test_stopped_in_each_stage_and_resumed_ends_in_the_same_bits(
    make, assert_same, tmp_path, recipe
):
    whole = make(recipe, epochs=2, seed=2)
    torch.rand(7)  # the global generator's state does not matter
    for stage in RECIPES[recipe].stages:

        def stop(name, done, total, remark, stage=stage):
            if name == stage and done > total // 2:
                raise StopError

        with pytest.raises(StopError):
            make(recipe, epochs=2, seed=2, folder=tmp_path, progress=stop)
    told = []
    again = make(
        recipe, epochs=2, seed=2, folder=tmp_path, progress=lambda *report: told.append(report)
    )
    assert_same(again, whole)
    steps = [report for report in told if report[0] in RECIPES[recipe].stages]
    # Of the last stage's second epoch: 128 images by 32; a twin learns from those not held out.
    assert len(steps) == (3 if RECIPES[recipe].stages[-1] == "align" else 4)


def mean_of(run, stage):
    losses = [epoch["loss"] for epoch in run.history[stage]]
    return losses[0], losses[-1]


# One of each stage; that each objective can be learned its own tests show, and those end to end.
@pytest.mark.parametrize("recipe", some_of(TRAINS, {"ttt", "ttt-mae", "ttt-flow", "cta-rotation"}))
def test_the_losses_fall(make, recipe):
    run = Run(precision="fp32", device="cpu")
    faster = Training(4, 32, learning_rate=0.03)
    make(recipe, epochs=4, run=run, probe=faster, parts=faster)
    for stage in {"joint", "pretrain", "parts", "probe"} & {*RECIPES[recipe].stages}:
        first, last = mean_of(run, stage)
        assert last < first - 0.02 * abs(first), (stage, first, last)


def test_rec_ttts_teacher_is_the_encoder_that_the_first_stage_trained(make):
    bundle = make("rec-ttt", epochs=2)
    supervised = make("rec-ttt", epochs=2, joint=Training(epochs=0)).classifier.encoder.first
    teacher, trained = bundle.objective.teacher, bundle.classifier.encoder.first
    untrained = split(initial("acclimate:resnet8-w8", 10, Run(), "classifier")).encoder
    for name, weight in teacher.named_parameters():
        assert torch.equal(weight, supervised.get_parameter(name))
        if weight.ndim == 4:
            assert not torch.equal(weight, trained.get_parameter(name))
            assert not torch.equal(weight, untrained.get_parameter(name))


@pytest.fixture(scope="module")
def checkpoints_of(make, tmp_path_factory):
    """The folder in which a recipe's run left its checkpoints; not to be changed."""

    @functools.cache
    def checkpoints_of(recipe):
        folder = tmp_path_factory.mktemp("checkpoints")
        make(recipe, folder=folder)
        return folder

    return checkpoints_of


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("ttt", {"recipe": "clust3"}),
        ("ttt", {"options": {"tap": 1}}),
        ("ttt", {"options": {"padding": 2}}),
        ("ttt", {"weight": 0.5}),
        ("ttt", {"recipe": "uda-ss"}),
        ("uda-ss", {"target": "other"}),
        ("tttpp", {"options": {"temperature": 0.1}}),
        ("tttpp", {"views": SimCLRViews(smallest_crop=0.6)}),
        ("y", {"options": {"temperature": 0.1}}),
        ("rec-ttt", {"options": {"warm_up_steps": 99}}),
        ("ttt-mae", {"options": {"masked": 0.5}}),
        ("ttt-flow", {"options": {"padding": 2}}),
        ("cta-c", {"contrastive_temperature": 0.1}),
        ("ttt", {"data": "relabelled"}),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(
    make, checkpoints_of, data, target, tmp_path, first, second
):
    folder = tmp_path / "run"
    shutil.copytree(checkpoints_of(first), folder)
    if second.get("target"):
        second = {"target": target.flip(0)}
    if second.get("data"):
        second = {"data": replace(data, labels=data.labels.flip(0))}
    with pytest.raises(InputError, match=r"checkpoint of a run with other settings or data; .*\.$"):
        make(**{"recipe": first} | second, folder=folder)
    assert contents(folder) == contents(checkpoints_of(first))  # what lies there was left alone


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_published_options_stand_unless_others_are_given(trained, make):
    assert trained("tttpp")[0].options["temperature"] == 0.5
    assert trained("cta-rotation")[0].options["tap"] is None
    assert trained("cta-c")[0].options["temperature"] == 0.5  # of the settings
    bundle = make("y", epochs=0, options={"temperature": 0.2, "projection": 5})
    assert bundle.options["temperature"] == bundle.objective.temperature == 0.2
    assert bundle.objective.projector[-1].out_features == 5
    assert make("nc-ttt", epochs=0, crop_padding=2).objective.padding == 2


@pytest.mark.parametrize(
    ("recipe", "options", "message"),
    [
        ("ttt", {"copy": 3}, "unknown option 'copy': did you mean copies"),
        ("ttt", {"model": 3}, "unknown option 'model'"),
        ("ttt", {"tap": 9}, "no stage 9"),
        ("ttt", {"tap": "layer9"}, "layer9"),
        ("clust3", {"taps": ("stages.9",)}, "stages.9"),
        ("clust3", {"projectors": 0}, "one projector"),
        ("nc-ttt", {"sigma_in": 1}, "sigma_in < sigma_out"),
        ("rec-ttt", {"taps": (1, 2)}, "three taps"),
        ("ttt-flow", {"couplings": 1}, "two couplings"),
        ("ttt-mae", {"masked": 1}, "masked=1 must hide"),
        ("tttpp", {"queue": 65}, "observe 130 source images, not 128"),
        ("cta-rotation", {"tap": "nowhere"}, "nowhere"),
    ],
)
def test_options_that_cannot_be_meant_are_refused_before_anything_is_trained(
    make, recipe, options, message
):
    run = Run(device="cpu")
    with pytest.raises(InputError, match=message) as caught:
        make(recipe, options=options, run=run)
    assert "\n" not in str(caught.value) and str(caught.value).endswith((".", "?"))
    assert not run.history


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("tttp",), "unknown method"),
        (("source", {"options": {"tap": 2}}), "has no options"),
        (("uda-ss",), "uda-ss is an oracle and needs target images"),
        (("ttt", {"target": "given"}), "ttt must not see target images"),
        (("ttt", {"model": "acclimate:resnet9"}), "resnet9|depth"),
        (("ttt-mae",), "needs timm's VisionTransformer, not"),
        (
            ("ttt", {"model": "torchvision:resnet18", "options": {"tap": "layer1.0.conv1"}}),
            "branched",
        ),
        (("uda-ss", {"target": "flat"}), r"batch, 3, height, width"),
    ],
)
def test_what_train_refuses(data, target, arguments, message):
    name, given = (*arguments, {})[:2]
    given = dict(given)
    if "target" in given:
        given["target"] = target if given["target"] == "given" else target[0]
    model, run = given.pop("model", "acclimate:resnet8-w8"), Run(device="cpu")
    with pytest.raises(InputError, match=message):
        train(name, model, data, with_epochs(SETTINGS, 1), run, **given)
    assert not run.history


def test_a_tap_of_the_twin_by_number_and_by_name(make, tmp_path):
    for tap in (2, "encoder.stages.1"):
        bundle = make("cta-rotation", options={"tap": tap})
        assert bundle.objective.tap == "encoder.stages.1"
        bundle.save(path := tmp_path / str(tap))
        assert Bundle.load(path).objective.tap == "encoder.stages.1"


def test_only_a_twin_has_an_architecture(trained):
    assert trained("cta")[0].twin_architecture == "acclimate:resnet8-w8"
    assert trained("ttt")[0].twin_architecture == "custom"
