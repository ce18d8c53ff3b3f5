"""What a method takes from a bundle: the model that adapts, the objective, the settings."""

from dataclasses import replace

from torch import Tensor

from acclimate.backbones import Classifier
from acclimate.backbones.batch_norm import Trust
from acclimate.backbones.stages import block_names
from acclimate.bundle import Bundle
from acclimate.errors import InputError
from acclimate.methods import AdapterSettings, check_model, method
from acclimate.objectives import Objective
from acclimate.parts.class_balanced import LEAST_LIMIT, ClassBalanced
from acclimate.parts.normalisation import BatchStatistics

Statistics = dict[str, dict[str, Tensor]]
"""Statistics of source images, by kind and name."""


def settings_for(bundle: Bundle, name: str, settings: AdapterSettings) -> AdapterSettings:
    """The settings with the bundle's own prior and limit where these are None.

    A lower limit that the settings give beside a prior of None stays, and any that they give to
    class statistics. Where the bundle's images
    were not measured, the limit is 1 and the prior a quarter of the number of classes, but at least
    16: a rule of thumb, by which 64 images say little of 1,000 classes.
    """
    normalisation = settings.normalisation
    if not isinstance(normalisation, BatchStatistics):
        return settings
    usual = Trust(prior=max(16.0, len(bundle.classes) / 4))
    trust = bundle.trust.get(method(name).model, usual)
    prior, limit = normalisation.prior, normalisation.limit
    if limit is None:
        limit = max(LEAST_LIMIT, trust.limit)
    elif prior is None and not isinstance(normalisation, ClassBalanced):
        limit = min(limit, trust.limit)
    prior = trust.prior if prior is None else prior
    if (prior, limit) == (normalisation.prior, normalisation.limit):
        return settings
    return replace(settings, normalisation=replace(normalisation, prior=prior, limit=limit))


def objective_of(
    bundle: Bundle, model: Classifier, settings: AdapterSettings, statistics: Statistics
) -> Objective | None:
    """The objective of the steps: trained with the bundle, or made on the spot."""
    if settings.objective is None or not settings.steps:
        return None
    source = {kind: statistics[kind] for kind in settings.objective.source_statistics}
    return settings.objective.build(model, bundle.preprocessing, bundle.objective, **source)


def statistics_of(bundle: Bundle, name: str, settings: AdapterSettings) -> Statistics:
    """The statistics of source images that the settings need, by kind and name.

    Raises:
        InputError: the bundle lacks some, or a head on maps leaves no features to measure.
    """
    found: Statistics = {}
    for kind in settings.source_statistics:
        prefix = f"{method(name).model}.{kind}."
        tensors = {n: t for n, t in bundle.statistics.items() if n.startswith(prefix)}
        if not tensors:
            if kind == "prototypes":
                model_of(bundle, name).feature_dim  # refuses a head on maps  # noqa: B018
            size = bundle.preprocessing.size
            if kind == "moments" and not block_names(model_of(bundle, name).encoder, size):
                raise InputError(
                    f"{name} needs what a vision transformer's blocks give on, and this network is "
                    f"none; choose another method or other parts."
                )
            raise InputError(
                f"{name} needs statistics of source images ({kind}), which this bundle lacks; add "
                f"them with acclimate measure BUNDLE IMAGES, or acclimate.measure in Python."
            )
        found[kind] = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return found


def answers_in_steps(objective: Objective | None, settings: AdapterSettings) -> bool:
    """Whether what a step computes may serve as the answer before it, without a pass of its own."""
    if objective is None or not objective.gives_logits:
        return False
    if isinstance(settings.normalisation, ClassBalanced):
        return False  # an answer's own pass is where images enter the statistics of classes
    reading = (settings.correction, *settings.aftermath)
    return objective.gives_features or not any(
        getattr(part, "needs_features", False) for part in reading
    )


def model_of(bundle: Bundle, name: str) -> Classifier:
    """Which of the bundle's models a method adapts.

    Raises:
        InputError: the bundle lacks what the method needs.
    """
    row = method(name)
    if row.model == "twin" and bundle.twin is None:
        raise InputError(
            f"this bundle has no aligned twin, which {name} needs; make one with acclimate align."
        )
    if row.recipe not in ("supervised", bundle.recipe):
        raise InputError(
            f"this bundle was made for {bundle.recipe}, not for {name}; make one with "
            f"acclimate train {name}."
        )
    model = bundle.classifier
    if row.model == "twin" and bundle.twin is not None:
        model = bundle.twin
    check_model(name, model, bundle.preprocessing.size)
    return model
