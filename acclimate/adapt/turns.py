"""Threads that share an adapter take turns."""

from collections.abc import Callable
from functools import wraps
from threading import RLock
from typing import Any, Concatenate, ParamSpec, TypeVar

_Given = ParamSpec("_Given")
_Result = TypeVar("_Result")
_Owner = TypeVar("_Owner", bound="TakesTurns")

building = RLock()
"""Held while an adapter is built: that runs the bundle's own network, with hooks on its layers."""


class TakesTurns:
    """An object whose methods marked `in_turn` wait for each other.

    Copies and pickles have a lock of their own.
    """

    def __init__(self) -> None:
        self._lock = RLock()

    def __getstate__(self) -> dict[str, Any]:
        with self._lock:
            return {name: value for name, value in vars(self).items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._lock = RLock()


def in_turn(
    method: Callable[Concatenate[_Owner, _Given], _Result],
) -> Callable[Concatenate[_Owner, _Given], _Result]:
    """A method that waits until no other thread is in one of the object's methods.

    ```python
    class Counter(TakesTurns):
        @in_turn
        def add(self) -> None: ...
    ```
    """

    @wraps(method)
    def waiting(self: _Owner, *args: _Given.args, **kwargs: _Given.kwargs) -> _Result:
        with self._lock:
            return method(self, *args, **kwargs)

    return waiting
