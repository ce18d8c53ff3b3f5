"""The variants that each bundle of a grid is measured with."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from acclimate.adapt import Adapter, model_of
from acclimate.adapt.chosen import statistics_of
from acclimate.bundle import Bundle
from acclimate.errors import InputError
from acclimate.evaluate.switches import switched_off
from acclimate.evaluate.variant import Variant
from acclimate.methods import METHODS, method


def variants_of(
    bundles: Mapping[str, Path], chosen: Sequence[Variant] = (), *, parts: bool = False
) -> dict[str, list[Variant]]:
    """The variants that each bundle is measured with: those that its recipe is for.

    Without a choice these are all methods that fit the bundle. Beside them stand its classifier
    frozen and with batch statistics, which alone explain much of what others gain. Methods that
    adapt any classifier come with the first bundle of each network.

    Args:
        bundles: Folders by their labels.
        chosen: Variants; without any, all methods as published.
        parts: Whether each comes with its parts switched off in turn, as far as that fits.

    Raises:
        InputError: an unknown method or setting, a chosen variant that fits no bundle or has
            settings that cannot be meant, or a damaged bundle.
    """
    for variant in chosen:
        variant.settings  # noqa: B018 - refuses unknown names before any bundle is read
    found: dict[str, list[Variant]] = {label: [] for label in bundles}
    misfits: dict[Variant, InputError] = {}
    wanted = list(dict.fromkeys(chosen or map(Variant, METHODS)))
    if parts:
        wanted = list(dict.fromkeys([*wanted, *switched_off(wanted)]))
    networks = set()  # by the shapes of their weights: not every one has a name
    for label, path in bundles.items():
        bundle = Bundle.load(path)
        tensors = bundle.classifier.state_dict()
        network = tuple((name, tensor.shape) for name, tensor in tensors.items())
        another = network in networks
        networks.add(network)
        for variant in wanted:
            row = method(variant.method)
            if another and row.recipe == "supervised" and row.settings.steps:
                continue
            try:
                _check_fit(bundle, variant)
            except InputError as error:
                misfits[variant] = error
            else:
                found[label].append(variant)
    fitting = {variant for variants in found.values() for variant in variants}
    for variant in chosen:
        if variant not in fitting:
            raise misfits[variant]
    return found


def _check_fit(bundle: Bundle, variant: Variant) -> None:
    """Refuse a bundle that lacks what a method needs, and changes that cannot be meant."""
    model_of(bundle, variant.method)
    statistics_of(bundle, variant.method, variant.settings)
    if variant.changes:
        Adapter(bundle, variant.method, variant.settings, device="cpu")
