"""Bytes of the tensors that live at a time while code runs, counted tensor by tensor."""

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Count the bytes of tensors that are made within it, each for as long as it lives.

    The count is the same in every run and on every device, unlike the size of the process. What a
    kernel allocates for itself is not seen.

    ```python
    with LiveBytes() as live:
        loss(model(images)).backward()
    print(live.most)
    ```

    Attributes:
        now: Bytes at the moment.
        most: The most at a time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now: int = 0
        self.most: int = 0
        self._known: dict[int, int] = {}

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        for given in tree_leaves((args, kwargs)):
            self._note(given, new=False)
        result = function(*args, **kwargs)
        for made in tree_leaves(result):
            self._note(made, new=True)
        return result

    def _note(self, value: Any, *, new: bool) -> None:
        if not isinstance(value, Tensor) or value.layout != torch.strided:
            return
        storage = value.untyped_storage()
        if storage._cdata in self._known:
            return
        size = storage.nbytes() if new else 0  # what was there before does not count
        self._known[storage._cdata] = size
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._forget, storage._cdata)

    def _forget(self, storage: int) -> None:
        self.now -= self._known.pop(storage)


def most_bytes(run: Callable[[], Any]) -> int:
    """The most bytes of new tensors that live at a time while a function runs."""
    with LiveBytes() as live:
        run()
    return live.most
