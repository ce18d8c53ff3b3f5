"""What ``acclimate doctor`` looks at: one function a check, each with a remedy where one helps."""

import math
import os
import platform
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

import torch

from acclimate.data import cache
from acclimate.errors import InputError
from acclimate.runtime.budget import free_bytes, show_bytes
from acclimate.runtime.device import find_device
from acclimate.runtime.precision import autocast, resolve
from acclimate.storage.targets import check_writable
from acclimate.version import __version__

EXTRAS: Mapping[str, tuple[tuple[str, ...], str]] = {
    "hf": (("transformers",), "classifiers of transformers"),
    "heif": (("pillow-heif",), "HEIC and AVIF photographs"),
    "foa": (("cmaes",), "the method foa"),
    "onnx": (("onnx", "onnxscript", "onnxruntime"), "export to ONNX"),
    "clip": (("open_clip_torch",), "CLIP by the names of open_clip"),
    "serve": (
        ("fastapi", "uvicorn", "prometheus_client", "python-multipart"),
        "acclimate serve",
    ),
    "client": (("httpx",), "the service's Python client"),
    "otel": (
        ("opentelemetry-sdk", "opentelemetry-exporter-otlp-proto-http"),
        "traces of the service",
    ),
    "ray": (("ray",), "grids on a Ray cluster"),
    "analyse": (("scikit-learn", "scipy"), "acclimate analyse"),
}
"""The extras of the package: the packages of each, and what they bring."""

_LITTLE_MEMORY, _LITTLE_DISK = 2e9, 2e9
_DRIVER = Path("/proc/driver/nvidia/version")
_QUOTA = Path("/sys/fs/cgroup/cpu.max")

State = Literal["good", "absent", "note", "fault"]


@dataclass(frozen=True)
class Finding:
    """What a check found."""

    name: str
    """What was looked at."""
    value: str
    """What it is like here."""
    state: State = "good"
    """``"absent"`` is not installed, ``"note"`` could be better, ``"fault"`` does not work."""
    remedy: str = ""
    """What to do, as a sentence."""


def look() -> list[Finding]:
    """All findings about this machine, in the order in which they are shown."""
    device = find_device(None)
    return [
        Finding("acclimate", __version__),
        Finding("python", f"{platform.python_version()} ({sys.executable})"),
        torch_build(),
        torchvision_fits(),
        accelerator(),
        threads(),
        Finding("precision", _precision(device)),
        memory(device),
        cached(),
        works(device),
        *map(extra, EXTRAS),
    ]


def torch_build() -> Finding:
    """Torch's version, and the accelerator that it was built for."""
    hip = getattr(torch.version, "hip", None)
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU only"
    return Finding("torch", f"{torch.__version__}, built for {f'ROCm {hip}' if hip else build}")


def torchvision_fits() -> Finding:
    """Whether torchvision can be imported beside this torch."""
    try:
        import torchvision

        torch.ops.torchvision.nms  # noqa: B018  # missing where its compiled part does not fit
    except (ImportError, RuntimeError, AttributeError) as error:
        return Finding(
            "torchvision",
            str(error).splitlines()[0],
            "fault",
            "Install both anew in one command: pip install --upgrade torch torchvision.",
        )
    return Finding("torchvision", torchvision.__version__)


def accelerator() -> Finding:
    """The GPUs that torch can use; a remedy where there is one that it cannot."""
    if torch.cuda.is_available():
        names = [
            f"{each.name}, {show_bytes(each.total_memory)}"
            for each in map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
        ]
        return Finding("gpu", "; ".join(names))
    if not _DRIVER.exists():
        return Finding("gpu", "none: everything runs on the CPU")
    if torch.version.cuda is None:
        return Finding(
            "gpu",
            "there is a driver, but this torch is for CPUs only",
            "note",
            "Install a torch with CUDA: see pytorch.org, Get Started.",
        )
    return Finding(
        "gpu",
        f"there is a driver, but torch with CUDA {torch.version.cuda} cannot use it",
        "fault",
        "Update the driver, or install a torch for the CUDA version that nvidia-smi shows; in a "
        "container, start it with --gpus all.",
    )


def threads() -> Finding:
    """Torch's threads beside the cores that this process may use."""
    cores, used = usable_cores(), torch.get_num_threads()
    value = f"{used}, cores {cores}"
    if used > cores:
        remedy = f"Set OMP_NUM_THREADS={cores}: more threads than cores wait for each other."
        return Finding("threads", value, "note", remedy)
    if used < cores and "OMP_NUM_THREADS" in os.environ:
        remedy = f"OMP_NUM_THREADS is set; with {cores}, one adapter would use all cores."
        return Finding("threads", value, "note", remedy)
    return Finding("threads", value)


def usable_cores(quota: Path = _QUOTA) -> int:
    """Cores that this process may use: those it may run on, at most what its container has."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    try:
        most, period = quota.read_text().split()
        return max(1, min(cores, math.ceil(int(most) / int(period))))
    except (OSError, ValueError):  # no limit
        return cores


def _precision(device: torch.device) -> str:
    if resolve("auto", device) == "bf16":
        return "bf16, which this device multiplies natively"
    return "float32: this device does not multiply bf16 natively"


def memory(device: torch.device) -> Finding:
    """Memory that is free for passes."""
    free = free_bytes(device)
    if math.isinf(free):
        return Finding("free memory", "the system does not say")
    if free < _LITTLE_MEMORY:
        remedy = "Use --memory-limit, or smaller batches; activations are then computed anew."
        return Finding("free memory", show_bytes(free), "note", remedy)
    return Finding("free memory", show_bytes(free))


def cached(folder: Path | None = None) -> Finding:
    """The cache of decoded images: where, how large, and what is free there."""
    folder = cache.folder(folder)
    elsewhere = "Set ACCLIMATE_CACHE to a folder with room that can be written."
    try:
        check_writable(folder)
        size = sum(each.stat().st_size for each in folder.rglob("*") if each.is_file())
        parent = next(each for each in (folder, *folder.absolute().parents) if each.exists())
        free = shutil.disk_usage(parent).free
    except (InputError, OSError) as error:
        return Finding("cache", str(error), "fault", elsewhere)
    value = f"{folder}, {show_bytes(size)}; {show_bytes(free)} free"
    if free < _LITTLE_DISK:
        return Finding(
            "cache", value, "note", f"Remove files there, all can be made anew. {elsewhere}"
        )
    return Finding("cache", value)


def works(device: torch.device) -> Finding:
    """Whether a small network can be trained and gives finite answers on the device."""
    from acclimate.backbones import build

    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)).to(device)
    try:
        network = build("acclimate:resnet8-w4", classes=3).to(device)
        with autocast(device, "auto"):
            answers = network(images)
            answers.logsumexp(1).sum().backward()
        finite = all(
            bool(p.grad.isfinite().all()) for p in network.parameters() if p.grad is not None
        )
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        return Finding("a gradient step", f"{device}: {reason}", "fault", _ON_CPU)
    if not finite:
        return Finding("a gradient step", f"{device}: not finite", "fault", _ON_CPU)
    return Finding("a gradient step", f"works on {device}")


_ON_CPU = "Give --device cpu, and install torch anew for this machine."


def extra(name: str) -> Finding:
    """Whether the packages of an extra are installed."""
    packages, brings = EXTRAS[name]
    found = {package: _version(package) for package in packages}
    if missing := [package for package, number in found.items() if number is None]:
        remedy = f"For {brings}: pip install 'acclimate[{name}]'."
        return Finding(name, f"not installed: {', '.join(missing)}", "absent", remedy)
    return Finding(name, f"{', '.join(f'{p} {n}' for p, n in found.items())}: {brings}")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
