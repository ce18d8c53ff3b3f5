"""Train any method on labelled source images: runs the stages of its recipe, in order."""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from acclimate.backbones import FORMS, Classifier, build, recorded_name, split
from acclimate.backbones.clip import untrained_texts
from acclimate.backbones.trace import input_channels
from acclimate.bundle import Bundle
from acclimate.data.datasets import LabelledImages
from acclimate.errors import InputError, unknown_name
from acclimate.methods import RECIPES, Recipe, check_model, method
from acclimate.objectives import Objective
from acclimate.preprocessing import Preprocessing, check_images
from acclimate.randomness import key
from acclimate.resizing import Side, both
from acclimate.runtime.precision import usual_defaults
from acclimate.source.images import SourceImages
from acclimate.source.loop import Run
from acclimate.source.presets import PRESETS, SourceSettings, check_settings
from acclimate.source.stages import OBSERVED, STAGES, Work, measure, observe
from acclimate.source.statistics import measure_statistics
from acclimate.version import __version__


@usual_defaults()
def train(
    name: str,
    model: str,
    data: LabelledImages,
    settings: SourceSettings = PRESETS["small"],
    run: Run | None = None,
    *,
    weights: Path | None = None,
    options: Mapping[str, Any] | None = None,
    target: UInt8[Tensor, "m 3 h w"] | None = None,
) -> Bundle:
    """Train everything that a method needs before deployment.

    ```python
    bundle = acclimate.train("ttt", "acclimate:preact26", data)
    bundle.save("bundle")
    ```

    Args:
        name: Name of a method in `acclimate.methods.METHODS`.
        model: Name of a classifier, as for `acclimate.build`.
        data: Labelled source images.
        settings: Settings of the stages; those of stages that the method does not have are ignored.
        run: Seed, checkpoints, device, progress.
        weights: A checkpoint that initialises the classifier, and a separate twin.
        options: Options of the objective that replace the published ones: ``{"tap": "layer3"}``.
        target: Unlabelled images of the target domain, only for the oracle ``uda-ss``.

    Returns:
        The bundle: everything that `acclimate.Adapter` needs.

    Raises:
        InputError: the method or an option is unknown, the method cannot use the model, target
            images are missing or not needed; or as `acclimate.build` and `.source.loop.train`.
    """
    run = run or Run()
    check_settings(settings)
    row = method(name)
    recipe = RECIPES[row.recipe]
    _check_target(name, row.oracle, target)
    source = SourceImages(data.images, Preprocessing.fit(data.images), data.labels)
    classifier = split(initial(model, len(data.classes), run, "classifier", weights))
    check_images(data.images, input_channels(classifier))
    check_model(name, classifier, source.preprocessing.size)
    start = None
    if settings.start == "separate" and "contrastive" in recipe.stages:
        start = split(initial(model, len(data.classes), run, "twin", weights)).encoder
    work = begin(recipe, classifier, source, settings, run, start=start, options=options)
    if target is not None:
        check_images(target)
        work.target = SourceImages(target, source.preprocessing)
    bundle = make(work, recipe, data.classes, origin=data.name)
    bundle.method, bundle.recipe = name, row.recipe
    bundle.architecture = recorded_name(model)
    if bundle.twin is not None:
        bundle.twin_architecture = bundle.architecture
    return bundle


def untrained(name: str, model: str, size: Side, *, classes: int = 10) -> Bundle:
    """A bundle with random weights, for counting costs and for tests.

    ```python
    cost = acclimate.Adapter(untrained("cta", "acclimate:resnet26", 32), "cta").cost()
    ```

    Args:
        name: Name of a method in `acclimate.methods.METHODS`.
        model: Name of a classifier, as for `acclimate.build`.
        size: Height and width of the images, in pixels.
        classes: Outputs of the head.

    Raises:
        InputError: a name is unknown, or the method cannot use the model.
    """
    row, run, settings = method(name), Run(), PRESETS["small"]
    recipe = RECIPES[row.recipe]
    black = torch.zeros(1, 3, *both(size), dtype=torch.uint8).expand(OBSERVED, -1, -1, -1)
    classifier = split(initial(model, classes, run, "classifier"))
    if row.zero_shot:
        with _seeded(run, "texts"):
            classifier = untrained_texts(classifier.encoder, classifier.feature_dim, classes)
    work = begin(recipe, classifier, SourceImages(black, Preprocessing(size)), settings, run)
    twin = work.twin = work.new_twin() if row.model == "twin" else None
    models = {"classifier": work.classifier} | ({"twin": twin} if twin else {})
    few = work.source.sample(2) if row.settings.source_statistics else None
    return Bundle(
        classifier=work.classifier.requires_grad_(False).eval(),
        twin=twin and twin.requires_grad_(False).eval(),
        statistics=measure_statistics(models, few, run) if few else {},
        preprocessing=work.source.preprocessing,
        classes=tuple(map(str, range(classes))),
        method=name,
        recipe=row.recipe,
        objective=work.objective and work.objective.requires_grad_(False),
        options=work.options,
        form=recipe.form,
        architecture=model,
        twin_architecture=model,
    )


def begin(
    recipe: Recipe,
    classifier: Classifier,
    source: SourceImages,
    settings: SourceSettings,
    run: Run,
    *,
    start: nn.Module | None = None,
    options: Mapping[str, Any] | None = None,
) -> Work:
    """Prepare a training run: the untrained classifier in the recipe's form, and its objective."""
    work = Work(FORMS[recipe.form](classifier), source, settings, run, start=start)
    kind = recipe.objective
    _check_options(kind, options or {})
    if kind is None:
        return work
    work.options = {
        **_shared(kind, settings, len(source.images)),
        **recipe.options,
        **(options or {}),
    }

    def construct(model: Classifier) -> Objective:
        with _seeded(run, "objective"):
            return kind(model, source.preprocessing, **work.options)

    # Built once before training, so that invalid options are reported before the first stage.
    trial = construct(work.new_twin() if "contrastive" in recipe.stages else work.classifier)
    _check_images(trial, len(source.sample(OBSERVED).images))
    work.construct = construct
    return work


def make(work: Work, recipe: Recipe, classes: Sequence[str], *, origin: str) -> Bundle:
    """Run the recipe's stages; the caller sets the bundle's method, recipe and architecture."""
    for stage in recipe.stages:
        STAGES[stage](work)
    observe(work)
    trust, agreement = measure(work)
    models = {"classifier": work.classifier} | ({"twin": work.twin} if work.twin else {})
    statistics = measure_statistics(models, work.source, work.run)
    return Bundle(
        classifier=work.classifier.requires_grad_(False).eval().cpu(),
        twin=None if work.twin is None else work.twin.cpu(),
        preprocessing=work.source.preprocessing,
        classes=tuple(classes),
        objective=None if work.objective is None else work.objective.requires_grad_(False).cpu(),
        options=work.options,
        form=recipe.form,
        trust=trust,
        statistics=statistics,
        provenance=_provenance(work, origin) | ({"agreement": agreement} if agreement else {}),
    )


def initial(
    name: str, classes: int, run: Run, purpose: str, weights: Path | None = None
) -> nn.Module:
    """A network before training, with weights from a file or seeded random ones."""
    with _seeded(run, purpose):
        return build(name, classes=classes, weights=weights)


@contextmanager
def _seeded(run: Run, purpose: str) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(key(run.seed, "initial weights", purpose) & (2**63 - 1))
        yield


def _check_target(name: str, oracle: bool, target: Tensor | None) -> None:
    if oracle and target is None:
        raise InputError(f"{name} is an oracle and needs target images; give some.")
    if target is not None and not oracle:
        raise InputError(f"{name} must not see target images; leave them out.")


def _check_options(kind: type[Objective] | None, options: Mapping[str, Any]) -> None:
    if kind is None and options:
        raise InputError("this method trains no objective, so it has no options; remove them.")
    known = [*inspect.signature(kind).parameters][2:] if kind else []
    for name in options:
        if name not in known:
            raise unknown_name("option", name, known)


def _check_images(objective: Objective, count: int) -> None:
    if count < objective.min_source_images:
        raise InputError(
            f"the objective must observe {objective.min_source_images} source images, not "
            f"{count}; give more images, or choose options that need fewer (a shorter queue)."
        )


def _shared(kind: type[Objective], settings: SourceSettings, images: int) -> dict[str, Any]:
    """Options that follow from the settings, if the objective has them."""
    steps = settings.joint.epochs * max(1, images // settings.joint.batch)
    known = {
        "warm_up_steps": max(1, steps // 10),
        "temperature": settings.contrastive_temperature,
        "views": asdict(settings.views),
        "padding": settings.crop_padding,
    }
    return {name: known[name] for name in inspect.signature(kind).parameters if name in known}


def _provenance(work: Work, origin: str) -> dict[str, Any]:
    """Record of how a bundle was trained."""
    target = {"target_images": len(work.target.images)} if work.target else {}
    return {
        "source": origin,
        "images": len(work.source.images),
        **target,
        "seed": work.run.seed,
        "settings": asdict(work.settings),
        "seconds": {
            stage: round(sum(epoch["seconds"] for epoch in epochs), 1)
            for stage, epochs in work.run.history.items()
        },
        "acclimate": __version__,
        "torch": torch.__version__,
    }
