"""Tensors and a JSON record in one file with a checksum; a changed file is refused.

The file is a safetensors file. Its metadata hold the record and a SHA-256 over the record and every
tensor's name, type, shape and bytes. Training checkpoints are such files.

```python
save(Path("checkpoint.safetensors"), model.state_dict(), {"epoch": 3})
tensors, record = load(Path("checkpoint.safetensors"))
```
"""

import hashlib
import json
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load as load_bytes
from safetensors.torch import save as save_bytes
from safetensors.torch import save_file
from torch import Tensor, nn

from acclimate.errors import InputError
from acclimate.storage.atomic import write_atomically

# What odd contents raise, a text that is nested too deeply and types that torch lacks included.
_ODD = (LookupError, TypeError, ValueError, AttributeError, RuntimeError)


def save(path: Path, tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> None:
    """Write tensors and a record of JSON values atomically.

    Raises:
        InputError: the file cannot be written.
    """
    contents, metadata = _sealed(tensors, record)
    write_atomically(path, lambda temporary: save_file(contents, temporary, metadata))


def to_bytes(tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> bytes:
    """The content of a file as `save` writes it.

    ```python
    of_bytes(to_bytes({"x": torch.ones(3)}, {"epoch": 3}), "the upload")
    ```
    """
    return save_bytes(*_sealed(tensors, record))


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save` wrote.

    Raises:
        InputError: the file is missing, truncated or changed.
    """
    tensors, metadata = read_safetensors(path)
    text = metadata.get("record", "")
    if metadata.get("sha256") != digest(tensors, text):
        raise InputError(f"{path} is damaged: its checksum does not match; delete it and rerun.")
    return tensors, json.loads(text)


def of_bytes(content: bytes, name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the content of a file that `save` wrote.

    This is for files that come by the thousand, or from others: whatever they hold, it is an
    `InputError` or what was sealed; and safetensors' own way to read files, which `load` takes for
    large ones, leaves 64 bytes of memory behind for each tensor (0.8.0).

    Args:
        content: Of the whole file.
        name: What the message calls it.

    Raises:
        InputError: it is truncated, changed, or something else.
    """
    try:
        head = content[8 : 8 + int.from_bytes(content[:8], "little")]
        metadata, tensors = json.loads(head)["__metadata__"], load_bytes(content)
        text = metadata["record"]
        if metadata["sha256"] == digest(tensors, text):
            return tensors, json.loads(text)
    except (SafetensorError, *_ODD) as error:
        raise InputError(f"{name} is damaged or is no safetensors file; delete it.") from error
    raise InputError(f"{name} is damaged: its checksum does not match; delete it.")


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a safetensors file: copies of its tensors, and its metadata.

    Raises:
        InputError: the file is missing or not a complete safetensors file.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} does not exist or is not a file; check the path.")
    try:
        # By its descriptor, for safetensors refuses a path that is no UTF-8.
        with path.open("rb") as opened, safe_open(f"/dev/fd/{opened.fileno()}", "pt") as file:
            metadata = file.metadata() or {}
            # Copies: a memory map would keep the file open and would show later changes to it.
            return {name: file.get_tensor(name).clone() for name in file.keys()}, metadata  # noqa: SIM118
    except (SafetensorError, OSError, UnicodeDecodeError, ValueError) as error:
        raise InputError(
            f"{path} is damaged or is no safetensors file ({error}); restore it from a good copy."
        ) from error


def _sealed(
    tensors: Mapping[str, Tensor], record: Mapping[str, Any]
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Collect tensors and metadata as safetensors writes them."""
    contents = plain(tensors)
    text = json.dumps(record, sort_keys=True)
    return contents, {"record": text, "sha256": digest(contents, text)}


def plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous copies on the CPU. Safetensors refuses tensors that share memory (tied layers)."""
    return {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }


def with_versions(tensors: Mapping[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    """Tensors from a file for ``module.load_state_dict``, with the versions of its layers.

    A file keeps names and tensors alone. Some layers (torchvision's MNASNet) load only with a
    version, and batch norm takes tensors without one for those of PyTorch 0.4.

    ```python
    module.load_state_dict(with_versions(tensors, module))
    ```
    """
    state = OrderedDict(tensors)
    state._metadata = module.state_dict()._metadata  # type: ignore
    return state


def digest(tensors: Mapping[str, Tensor], text: str) -> str:
    """SHA-256 over a text and every tensor's name, type, shape and bytes, sorted by name."""
    total = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        total.update(f"\0{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        total.update(tensor.detach().cpu().flatten().view(torch.uint8).numpy().data)
    return total.hexdigest()
