"""Which architectures of torchvision and timm can be split and adapted, and why others cannot.

    python studies/architectures.py --results results/architectures

All of torchvision's classifiers, and of timm's the one of each family whose name says that it is
the smallest, then the second of each, and so on. Weights are random: the study asks what runs, not
what is gained. Each network is split at the smallest image size that it accepts; then
``head(encoder(x))`` is compared with the network's own logits, and batches of four images are
adapted to. Each row is written at once, and the same command goes on after an interruption.
"""

import csv
import multiprocessing
import re
import resource
import signal
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import zip_longest
from pathlib import Path

import torch
from torch import Tensor, nn

from acclimate.adapt import Adapter
from acclimate.backbones import Classifier, build, projected, split
from acclimate.bundle import Bundle
from acclimate.commands.script import start, write_table
from acclimate.errors import InputError
from acclimate.objectives import Contrastive
from acclimate.preprocessing import Preprocessing

CLASSES = 10
IMAGES = 4
SIZES = (32, 64, 96, 112, 128, 160, 192, 224, 240, 256, 288, 299, 320, 336, 384, 448, 512)
SIZE_WORDS = (
    ("test",),
    ("zepto", "atto", "nano", "pico", "femto", "tiny", "t", "xxs", "xxt", "xt", "ti"),
    ("xs", "mini", "micro", "lite", "small", "s"),
    (),
    ("medium", "m", "base", "b"),
    ("large", "l", "xlarge", "xl", "huge", "giant", "gigantic", "enormous", "so400m", "so150m"),
)
"""Words in names, by size; names without any are in the middle."""
WORKS = "works"
NOT_RUN = "-"
CONTEXT = multiprocessing.get_context("fork")
"""A fork has torch and timm imported already; nothing has used threads."""


@dataclass(frozen=True)
class Arguments:
    """Where results go, and limits."""

    results: Path
    """Folder for architectures.csv."""
    timm: int = 320
    """Number of timm's architectures."""
    seconds: int = 60
    """Limit of processor time for each architecture."""
    gigabytes: int = 4
    """Limit of memory."""
    largest: int = 60_000_000
    """Parameters of the largest network that is tried; larger ones need too much memory here."""


@dataclass(frozen=True)
class Row:
    """What became of one architecture."""

    name: str
    family: str
    parameters: int
    size: int
    head: str
    features: str
    difference: str
    source: str
    ptbn: str
    tent: str
    cta: str
    seconds: float


class TimeUp(BaseException):
    """The time limit; no ``except Exception`` catches it."""


def main(arguments: Arguments) -> None:
    """Measure what is still missing, and append it."""
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    limit = arguments.gigabytes * 2**30
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    path = arguments.results / "architectures.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    done = list(csv.DictReader(path.open(newline=""))) if path.exists() else []
    known = {row["name"] for row in done}
    for name, family in chosen(arguments):
        if name in known:
            continue
        row = apart(name, family, arguments)
        done.append({key: str(value) for key, value in asdict(row).items()})
        write_table(path, done)
        print(name, row.head, row.source, row.tent, row.cta, row.seconds, flush=True)


def chosen(arguments: Arguments) -> Iterator[tuple[str, str]]:
    """Name and family of every architecture that is tried."""
    from torchvision import models

    for name in models.list_models(module=models):
        yield f"torchvision:{name}", "torchvision"
    families = timm_families().items()
    by_size = ([(f"timm:{name}", family) for name in names] for family, names in families)
    rounds = (row for rank in zip_longest(*by_size) for row in rank if row is not None)
    for _, row in zip(range(arguments.timm), rounds):
        yield row


def timm_families() -> dict[str, list[str]]:
    """All of timm's architectures by family, first those whose names say that they are small."""
    import timm
    from timm.models._registry import _model_to_module

    families = defaultdict(list)
    for name in sorted(timm.list_models(), key=size_in_name):
        families[_model_to_module[name]].append(name)
    return dict(sorted(families.items()))


def size_in_name(name: str) -> tuple[int, tuple[int, ...], str]:
    """A key that sorts by the sizes that names speak of: words, then numbers."""
    words = name.split("_")
    ranks = [rank for rank, sizes in enumerate(SIZE_WORDS) for word in words if word in sizes]
    numbers = tuple(int(number) for number in re.findall(r"\d+", name))
    return max(ranks, default=SIZE_WORDS.index(())), numbers, name


def parameters_of(name: str) -> int:
    """Number of parameters, counted without memory for them; 0 where that does not work."""
    library, _, model = name.partition(":")
    if library == "torchvision":
        from torchvision import models

        return models.get_model_weights(model)["DEFAULT"].meta["num_params"]
    try:
        with torch.device("meta"):
            network = build(name, classes=CLASSES)
    except Exception:
        return 0
    return sum(parameter.numel() for parameter in network.parameters())


def apart(name: str, family: str, arguments: Arguments) -> Row:
    """`measured` in a process of its own: without memory some kernels end theirs."""
    receiver, sender = CONTEXT.Pipe(duplex=False)

    def run() -> None:
        sender.send(measured(name, family, parameters_of(name), arguments))

    process = CONTEXT.Process(target=run)
    process.start()
    sender.close()
    try:
        row = receiver.recv()
    except EOFError:
        process.join()
        head = f"ended its process: {signal.strsignal(-(process.exitcode or 0)) or 'no signal'}"
        row = Row(name, family, 0, 0, head, "", "", NOT_RUN, NOT_RUN, NOT_RUN, NOT_RUN, 0.0)
    process.join()
    return row


def measured(name: str, family: str, parameters: int, arguments: Arguments) -> Row:
    """Split one architecture and adapt it."""
    start = time.process_time()
    row = Row(name, family, parameters, 0, "", "", "", NOT_RUN, NOT_RUN, NOT_RUN, NOT_RUN, 0.0)
    if parameters > arguments.largest:
        return replace(row, head="not tried: too large for the memory here")
    try:
        with limited(arguments.seconds):
            row = tried(row)
    except InputError as error:
        row = replace(row, head=f"refused: {error}")
    except TimeUp:
        row = replace(row, head=f"not finished in {arguments.seconds} seconds")
    except Exception as error:
        row = replace(row, head=failed(error))
    return replace(row, seconds=round(time.process_time() - start, 1))


def tried(row: Row) -> Row:
    """Split, compare, adapt."""
    torch.manual_seed(0)
    network = build(row.name, classes=CLASSES).eval()
    size = smallest_size(network)
    classifier = split(network)
    preprocessing = Preprocessing(size)
    images = torch.rand(IMAGES, 3, size, size, generator=torch.Generator().manual_seed(1))
    normalised = preprocessing(images)
    with torch.no_grad():
        expected = network(normalised)
        difference = float((classifier(normalised) - expected).abs().max())
    bundle = Bundle(classifier, None, preprocessing, tuple(map(str, range(CLASSES))))
    row = replace(
        row,
        size=size,
        head=kind_of(classifier),
        features=str(getattr(classifier.head, "in_features", None) or "maps"),
        difference=f"{difference:.1e}" if difference else "0",
    )
    source = outcome(lambda: Adapter(bundle, "source", precision="fp32")(images), expected)
    with_steps = {
        method: outcome(lambda method=method: Adapter(bundle, method, precision="fp32")(images))
        for method in ("ptbn", "tent")
    }
    return replace(row, source=source, **with_steps, cta=outcome(lambda: cta(bundle, images)))


def cta(bundle: Bundle, images: Tensor) -> Tensor:
    """A step of CTA from a twin that was not trained."""
    twin = projected(bundle.classifier)
    objective = Contrastive(twin, bundle.preprocessing)
    bundle = replace(bundle, twin=twin, objective=objective)
    return Adapter(bundle, "cta", precision="fp32", steps=1)(images)


def outcome(answer: Callable[[], Tensor], expected: Tensor | None = None) -> str:
    """Whether there are finite logits, and the expected ones; else the reason."""
    try:
        logits = answer()
    except InputError as error:
        return f"refused: {error}"
    except Exception as error:
        return failed(error)
    if not logits.isfinite().all():
        return "failed: not finite"
    if expected is not None:
        scale = float(expected.abs().max())
        if not torch.allclose(logits, expected, rtol=1e-4, atol=1e-4 * scale):
            return f"differs by {float((logits - expected).abs().max()) / scale:.1e} of the largest"
    return WORKS


def failed(error: Exception) -> str:
    """An error that is no refusal, in one line."""
    if "allocate memory" in str(error) or isinstance(error, MemoryError):
        return "not tried: too large for the memory here"
    return f"failed: {type(error).__name__}: {error}".partition("\n")[0]


def kind_of(classifier: Classifier) -> str:
    """What the head is, in words."""
    if isinstance(classifier.head, nn.Linear):
        return "linear"
    return {"PointwiseHead": "1x1 convolution", "RecordedHead": "recorded"}.get(
        type(classifier.head).__name__, type(classifier.head).__name__
    )


def smallest_size(network: nn.Module) -> int:
    """The smallest image size that the network accepts."""
    for size in SIZES:
        try:
            with torch.no_grad():
                network(torch.zeros(2, 3, size, size))
        except Exception:
            continue
        return size
    raise InputError(f"no image of {SIZES[0]} to {SIZES[-1]} pixels is accepted; find its size.")


@contextmanager
def limited(seconds: int) -> Iterator[None]:
    """Within it, a limit of processor time."""

    def stop(*_: object) -> None:
        raise TimeUp

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


if __name__ == "__main__":
    start(main, Arguments)
