"""Description of the machine and the code version that a measurement ran on."""

import os
import platform
import subprocess
from pathlib import Path

import torch

from acclimate.version import __version__


def describe() -> dict[str, str]:
    """Commit, processor, cores, threads, accelerator and versions, for a report.

    ```python
    describe()["processor"]
    ```
    """
    accelerator = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {
        "commit": commit(),
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "threads": str(torch.get_num_threads()),
        "accelerator": accelerator,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "acclimate": __version__,
    }


def commit() -> str:
    """The commit of the running source tree, marked if the package has uncommitted changes.

    The variable ACCLIMATE_COMMIT names it where the history is not at hand.
    """
    if named := os.environ.get("ACCLIMATE_COMMIT"):
        return named
    tree = Path(__file__).resolve().parents[2]
    if not (tree / ".git").exists():
        return "installed, not from a source tree"

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(tree), *arguments], capture_output=True, text=True, timeout=10
        )
        return done.stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", "acclimate")
        return (git("rev-parse", "HEAD") or "unknown") + (" with changes" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
