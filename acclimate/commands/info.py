"""``acclimate info``."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from rich.console import Console

if TYPE_CHECKING:
    from torch import Tensor

_LIBRARIES = ("acclimate", "torchvision", "timm", "hf", "openclip")
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
_NAMES_SHOWN = 5


@dataclass(frozen=True)
class Info:
    """Check a bundle for damage and print its contents."""

    bundle: tyro.conf.Positional[Path]
    """Folder of the bundle."""
    as_json: Annotated[bool, tyro.conf.arg(name="json"), tyro.conf.FlagCreatePairsOff] = False
    """Print everything as JSON."""
    trust_code: bool = False
    """Allow running the function that a bundle names as its architecture."""

    def run(self, console: Console) -> None:
        """Run the command."""
        from acclimate.bundle_record import read_record, read_statistics, read_tensors

        record = read_record(self.bundle)
        tensors = read_tensors(self.bundle, record)
        statistics = read_statistics(self.bundle, record)
        checks = ["the record's checksum", "the weights' checksum"]
        if _can_be_built(record, self.trust_code):
            from acclimate.bundle import Bundle

            Bundle.load(self.bundle)
            checks.append("the weights fit the network")
        found = {
            "statistics": _kinds(statistics),
            "parameters": _parameters(tensors),
            "bytes": sum(file.stat().st_size for file in self.bundle.iterdir()),
            "checks": checks,
        }
        if self.as_json:
            console.print_json(data=record | found)
            return
        for name, text in _lines(record, found):
            console.print(f"{name:<14} {text}", markup=False, highlight=False, soft_wrap=True)


def _can_be_built(record: Mapping[str, Any], trust_code: bool) -> bool:
    """Whether the bundle's networks can be built from their names alone."""
    from acclimate.backbones.code import is_code

    names = filter(None, (record["architecture"], record["twin_architecture"]))
    return all(
        name.partition(":")[0] in _LIBRARIES or (trust_code and is_code(name)) for name in names
    )


def _parameters(tensors: "Mapping[str, Tensor]") -> dict[str, int]:
    """Number of parameters of classifier, twin and objective."""
    counts: Counter[str] = Counter()
    for name, tensor in tensors.items():
        if name.rpartition(".")[2] not in _STATISTICS:
            counts[name.partition(".")[0]] += tensor.numel()
    return dict(counts)


def _kinds(statistics: "Mapping[str, Tensor]") -> list[str]:
    """Kinds of statistics of source images, with the model that they are of."""
    kinds = {tuple(name.split(".", 2)[:2]) for name in statistics}
    return [f"{kind} of the {model}" for model, kind in sorted(kinds)]


def _lines(record: Mapping[str, Any], found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Everything that people want to know, as name and text."""
    from acclimate.bundle_record import preprocessing_of

    made, twin = record["provenance"], record["twin_architecture"]
    parameters = found["parameters"]
    lines = [
        ("architecture", record["architecture"]),
        ("classes", _classes(record["classes"])),
        ("preprocessing", str(preprocessing_of(record))),
        ("method", record["method"]),
        ("recipe", record["recipe"]),
        ("twin", "none" if twin is None else twin),
    ]
    if record["objective"]:
        lines.append(("objective", record["objective"]["name"]))
    if trust := record.get("trust"):
        shown = [
            f"{model} at most {each['limit']:.0%}, prior of {each['prior']:g} images"
            for model, each in trust.items()
        ]
        lines.append(("batch weight", "; ".join(shown)))
    if kinds := found["statistics"]:
        lines.append(("statistics", "; ".join(kinds)))
    if isinstance(agreement := made.get("agreement"), Mapping):
        figures = "; ".join(f"{name} {_figure(value)}" for name, value in agreement.items())
        lines.append(("agreement", figures))
    if "source" in made:
        versions = ", ".join(
            f"{each} {made[each]}" for each in ("seed", "acclimate", "torch") if each in made
        )
        lines.append(("made from", f"{made['source']}, {versions}"))
    counts = ", ".join(f"{part} {count:,}" for part, count in parameters.items())
    return [
        *lines,
        ("parameters", counts),
        ("size on disk", f"{found['bytes'] / 1e6:.1f} MB"),
        ("checked", ", ".join(found["checks"])),
    ]


def _classes(names: list[str]) -> str:
    shown = ", ".join(name if len(name) <= 20 else f"{name[:19]}…" for name in names[:_NAMES_SHOWN])
    return f"{len(names)}: {shown}" + (", ..." if len(names) > _NAMES_SHOWN else "")


def _figure(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
