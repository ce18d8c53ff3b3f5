"""Ctrl-C and SIGTERM that wait until the work at hand is done."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def stop_requests(again: Callable[[int], BaseException]) -> Iterator[Callable[[], int]]:
    """Context in which the first Ctrl-C or SIGTERM is only noted; the second one raises.

    Outside the main thread, where Python allows no handlers, signals act as usual.

    ```python
    with stop_requests(lambda number: KeyboardInterrupt()) as asked:
        while not asked():
            work()
    ```

    Args:
        again: Makes the exception of the second signal from its number.

    Yields:
        A function that returns the number of the signal; 0 if there was none.
    """
    asked = 0

    def note(number: int, _: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise again(number)
        asked = number
        os.write(2, b"\nstopping after this batch; Ctrl-C again stops at once\n")

    if threading.current_thread() is not threading.main_thread():
        yield lambda: 0
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, note) for number in numbers]
    try:
        yield lambda: asked
    finally:
        for number, handler in zip(numbers, before):
            signal.signal(number, handler)
