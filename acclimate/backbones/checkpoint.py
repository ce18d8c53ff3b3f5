"""Read the tensors of a checkpoint file or folder. No code in a file is ever run."""

import json
import shlex
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from acclimate.errors import InputError

LARGEST_FILE = 8 * 2**30
DEPTH = 5
"""Number of mappings within each other that are searched for tensors."""
NAMES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "diffusion_pytorch_model.safetensors",
)
"""Files with weights in the folders of accelerate and transformers; the first is taken."""

# What trainers write beside the weights: arguments, paths, dates, metrics, states of generators.
_BESIDE = (
    "argparse.Namespace",
    "datetime.date",
    "datetime.datetime",
    "datetime.timedelta",
    "mmengine.logging.history_buffer.HistoryBuffer",
    *(
        f"{module}.{name}"
        for module in ("pathlib", "pathlib._local")
        for name in ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")
    ),
    "numpy.dtype",
    "numpy.ndarray",
    *(
        f"numpy.{module}.multiarray.{name}"
        for module in ("core", "_core")
        for name in ("_reconstruct", "scalar")
    ),
)
_KEEP_WEIGHTS = (
    "import sys, torch; f = lambda v: v.state_dict() if hasattr(v, 'state_dict') else v; "
    "t = torch.is_tensor; c = f(torch.load(sys.argv[1], 'cpu', weights_only=False)); "
    "c = {k: f(v) for k, v in c.items()}; torch.save({k: v for k, v in c.items() if t(v) or "
    "hasattr(v, 'values') and v and all(map(t, v.values()))}, sys.argv[2])"
)
_OF_SCRIPT = (
    "import sys, torch; torch.save(torch.jit.load(sys.argv[1], 'cpu').state_dict(), sys.argv[2])"
)
_OF_EXPORT = (
    "import sys, torch; torch.save(dict(torch.export.load(sys.argv[1]).state_dict), sys.argv[2])"
)

_EXPORTED_BEFORE_2_8 = "serialized_exported_program.json"


class _LeftOut:
    """Stands for a value beside the weights. Nothing of its own class is built or run."""

    def __new__(cls, *args: object) -> "_LeftOut":
        return object.__new__(cls)

    def __init__(self, *args: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...


# torch.load knows an allowed class by its module and name.
_STANDING_IN: list[Any] = [
    type(name, (_LeftOut,), {"__module__": module, "__qualname__": name})
    for module, _, name in (each.rpartition(".") for each in _BESIDE)
]


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of a checkpoint, by the mapping that they are in."""

    path: Path
    """The file or folder, for messages."""
    entries: Mapping[str, Mapping[str, Tensor]]
    """Tensors by name, for each mapping that has any. The keys are the paths to the mappings, with
    a dot at the end: ``""`` is the outermost, ``"state_dict."`` is below that key."""


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint: a file, an index of several files, or a folder with either.

    ```python
    checkpoint = read_checkpoint(Path("last.ckpt"))
    print(checkpoint.entries["state_dict."].keys())
    ```

    Args:
        path: A .safetensors file; a file of ``torch.save`` with any suffix; the ``.index.json`` of
            a checkpoint in several files; or a folder that accelerate or transformers wrote.

    Raises:
        InputError: it does not exist, is too large, is damaged, is of another kind, or needs code
            to be read.
    """
    path = Path(path)
    file = _file_of(path) if path.is_dir() else path
    if file.suffix.lower() == ".json":
        return Checkpoint(path, {"": _read_index(file)})
    return Checkpoint(path, dict(_entries(_read_file(file))))


def _file_of(folder: Path) -> Path:
    """The file with weights in a folder."""
    if found := [folder / name for name in NAMES if (folder / name).is_file()]:
        if second := [
            n for n in ("model_1.safetensors", "pytorch_model_1.bin") if (folder / n).is_file()
        ]:
            raise InputError(
                f"{folder} holds several networks, {found[0].name} and {second[0]}; give one file."
            )
        return found[0]
    if any(folder.glob("*.distcp")):
        raise InputError(
            f"{folder} is a distributed checkpoint; make one file of it with `python -m "
            f"torch.distributed.checkpoint.format_utils dcp_to_torch {shlex.quote(str(folder))} "
            "weights.pt` and give weights.pt."
        )
    if (folder / "zero_to_fp32.py").is_file():
        raise InputError(
            f"{folder} is a DeepSpeed checkpoint; make one file of it with the folder's own "
            "zero_to_fp32.py and give that file."
        )
    raise InputError(
        f"there is no file with weights in {folder}: it has no {' or '.join(NAMES[:3:2])}; give "
        "the file itself."
    )


def _read_index(index: Path) -> dict[str, Tensor]:
    """Read the files that an index names, which must lie beside it."""
    _check_file(index)
    try:
        files = json.loads(index.read_bytes())["weight_map"]
        names = sorted(set(files.values()))
        if not all(Path(name).name == name for name in names):
            raise ValueError("it names files elsewhere")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(
            f"{index} is no index of a checkpoint in several files ({error}); give a file with "
            "weights."
        ) from error
    tensors: dict[str, Tensor] = {}
    for name in names:
        tensors |= dict(_entries(_read_file(index.parent / name))).get("", {})
    if absent := sorted(set(files) - set(tensors)):
        raise InputError(
            f"the files beside {index} lack {absent[0]!r}, which the index names; copy all of "
            "them again."
        )
    return tensors


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise InputError(f"there is no file with weights at {path}; check the path.")
    if path.stat().st_size > LARGEST_FILE:
        raise InputError(f"{path} is larger than 8 GiB, the limit for weights; check the path.")


def _read_file(path: Path) -> Any:
    """The contents of one file: tensors in nested mappings, beside other values."""
    _check_file(path)
    with path.open("rb") as file:
        head = file.read(256)
    pickled = head[:2] in (b"PK", b"\x80\2")
    if head[8:9] == b"{" or (path.suffix.lower() == ".safetensors" and not pickled):
        try:
            # By its descriptor, for safetensors refuses a path that is no UTF-8.
            with path.open("rb") as file:
                return load_file(f"/dev/fd/{file.fileno()}")
        except (SafetensorError, OSError, ValueError) as error:
            reason = _known(head) or f"cannot be read as a .safetensors file ({error})"
            raise InputError(f"{path} {reason}; save or copy it again.") from error
    if pickled or _is_tar(path):
        return _torch_load(path, zipped=head[:2] == b"PK")
    reason = _known(head) or "cannot be read: it is no .safetensors file and none of torch.save"
    raise InputError(f"{path} {reason}; give a PyTorch checkpoint.")


def _known(head: bytes) -> str:
    """What a file is that is often found in the place of weights."""
    if head.startswith(b"version https://git-lfs"):
        return "cannot be read: it is a pointer of Git LFS; fetch the weights with git lfs pull"
    if head.lstrip()[:1] == b"<":
        return "cannot be read: it is a web page, not the weights"
    return ""


def _is_tar(path: Path) -> bool:
    """Whether it is a file of PyTorch before 0.1.10, which torch.load then refuses."""
    import tarfile

    try:
        return tarfile.is_tarfile(path)
    except (OSError, ValueError):
        return False


def _torch_load(path: Path, *, zipped: bool) -> Any:
    names = _members(path) if zipped else []
    if any(name.endswith("/constants.pkl") for name in names):
        raise _with_command(path, "is a TorchScript archive, which is a program", _OF_SCRIPT)
    if any(name.endswith(("/archive_format", _EXPORTED_BEFORE_2_8)) for name in names):
        raise _with_command(path, "is a program of torch.export", _OF_EXPORT)
    try:
        with (
            path.open("rb") as file,
            warnings.catch_warnings(),
            torch.serialization.safe_globals(_STANDING_IN),
        ):
            warnings.simplefilter("ignore")
            # A path that ends in .safetensors would make torch take the file for such a file.
            mapped = zipped and path.suffix.lower() != ".safetensors"
            # By its descriptor, for torch cannot open a path that is no UTF-8.
            source = f"/dev/fd/{file.fileno()}" if mapped else file
            return torch.load(source, map_location="cpu", weights_only=True, mmap=mapped)
    # The bytes may be anything: whatever goes wrong in torch, the file cannot be read.
    except Exception as error:
        raise _refusal(path, error) from error


def _refusal(path: Path, error: Exception) -> InputError:
    """Why torch.load refuses a file, and how its weights can be had all the same."""
    said = str(error)
    if "GLOBAL " in said or "legacy .tar" in said:
        return _with_command(path, f"holds more than tensors{_needs(path, said)}", _KEEP_WEIGHTS)
    reason = said.strip().partition("\n")[0].partition(". ")[0][:200] or type(error).__name__
    return InputError(f"{path} cannot be read as a checkpoint ({reason}); save or copy it again.")


def _members(path: Path) -> list[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return []


def _with_command(path: Path, what: str, program: str) -> InputError:
    return InputError(
        f"{path} {what}, and reading it could run code; if you trust it, keep its weights alone "
        f'with `python -c "{program}" {shlex.quote(str(path))} weights.pt` and give weights.pt.'
    )


def _needs(path: Path, said: str) -> str:
    """The types that a file asks for, as an insertion into a sentence."""
    named = said.partition("GLOBAL ")[2].split(" ")[0]
    try:
        with torch.serialization.safe_globals(_STANDING_IN):
            names = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:  # only files of today's format can be asked
        names = [named] if named else []
    shown = [name for name in names if name.isprintable()][:3]
    return f" ({', '.join(shown)}{', ...' if len(names) > 3 else ''})" if shown else ""


def _entries(contents: Any) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Each mapping that holds tensors, by its path; a mapping in two places is given once."""
    seen: set[int] = set()
    level = [("", contents)]
    for _ in range(DEPTH):
        following = []
        for place, mapping in level:
            if not isinstance(mapping, Mapping) or id(mapping) in seen:
                continue
            seen.add(id(mapping))
            tensors = {k: v for k, v in mapping.items() if isinstance(k, str) and _plain(v)}
            if tensors:
                yield place, tensors
            following += [(f"{place}{k}.", v) for k, v in mapping.items()]
        level = following


def _plain(value: object) -> bool:
    return isinstance(value, Tensor) and value.layout == torch.strided and not value.is_meta
