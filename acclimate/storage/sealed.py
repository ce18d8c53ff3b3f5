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
from safetensors.torch import save_file
from torch import Tensor, nn

from acclimate.errors import InputError
from acclimate.storage.atomic import write_atomically


def save(path: Path, tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> None:
    """Write tensors and a record of JSON values atomically.

    Raises:
        InputError: the file cannot be written.
    """
    contents = plain(tensors)
    text = json.dumps(record, sort_keys=True)
    metadata = {"record": text, "sha256": digest(contents, text)}

    write_atomically(path, lambda temporary: save_file(contents, temporary, metadata))


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
