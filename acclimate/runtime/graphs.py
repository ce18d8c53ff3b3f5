"""CUDA graphs: what a GPU does for a step, recorded once and started as a whole afterwards.

A step of a small network is a thousand kernels of a few microseconds. Python takes longer to start
them than the GPU to run them; a graph starts all of them at once. Only where functions run changes:
a graph holds the same kernels, and gives the same bits.
"""

import gc
import logging
import random
import warnings
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy
import torch
from torch import Tensor

from acclimate.runtime.constants import held

_WARM_UP = 3
"""Runs before a recording, in which libraries prepare themselves; the last is watched for waits."""
_WAITED = "called a synchronizing CUDA operation"
"""What PyTorch's warning says; another one, of the mode itself, comes once in a process."""

_log = logging.getLogger(__name__)

Outputs = tuple[Tensor, ...]
Function = Callable[..., Outputs]


class Recorder:
    """Runs functions of tensors; on a GPU, after a few runs, as a recorded graph.

    ```python
    recorder = Recorder("the adapted batch", device)
    (logits,) = recorder(function, images)  # function(images), and a graph from the fourth time on
    ```

    A function takes tensors and returns a tuple of tensors. A graph repeats what the GPU did while
    it was recorded: everything else that the function reads must be constant, or tensors that
    change in place. What draws from the generators of Python or NumPy is therefore never
    recorded, nor what waits for the GPU, which a graph cannot do; both run as they would without a
    recorder, and a message says so.

    Args:
        name: What runs, for messages.
        device: Where. Nothing is recorded unless it is a GPU.
        most: Number of graphs that are kept; a further one takes the place of the oldest.

    Attributes:
        obstacle: Why nothing is recorded; empty if nothing is known to prevent it.
    """

    def __init__(self, name: str, device: torch.device, *, most: int = 8):
        self.obstacle = "" if device.type == "cuda" else "there is no GPU"
        self._name, self._device, self._most = name, device, most
        self._runs: Counter[Hashable] = Counter()
        self._graphs: dict[Hashable, _Graph] = {}
        self._stream: Any = None
        self._pool: Any = None

    def __call__(self, function: Function, *inputs: Tensor, constants: Hashable = None) -> Outputs:
        """``function(*inputs)``.

        Args:
            function: What to run.
            inputs: Its arguments; their values may change from call to call.
            constants: Names what else the function's result depends on: with other constants, or
                inputs of another shape or type, another graph is recorded.
        """
        if self.obstacle:
            return function(*inputs)
        kind = (tuple((x.shape, x.dtype, x.stride()) for x in inputs), constants)
        with self._apart():
            graph = self._graphs.get(kind)
            if graph is None:
                self._runs[kind] += 1
                if self._runs[kind] <= _WARM_UP:
                    return self._watched(function, inputs, self._runs[kind] == _WARM_UP)
                graph = self._recorded(function, inputs)
                if graph is None:
                    return function(*inputs)
                # Only now: the memory of graphs is shared while one of them lives.
                while len(self._graphs) >= self._most:
                    del self._graphs[next(iter(self._graphs))]
                self._graphs[kind] = graph
            return graph(*inputs)

    def __getstate__(self) -> dict[str, Any]:
        """Copies record anew: graphs belong to one set of tensors."""
        return {**vars(self), "_graphs": {}, "_runs": Counter(), "_stream": None, "_pool": None}

    @contextmanager
    def _apart(self) -> Iterator[None]:
        """On a stream of its own: on the usual one nothing can be recorded."""
        if self._stream is None:
            self._stream = torch.cuda.Stream(self._device)
            self._pool = torch.cuda.graph_pool_handle()
        outside = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(outside)
        try:
            with torch.cuda.stream(self._stream):
                yield
        finally:
            outside.wait_stream(self._stream)

    def _watched(self, function: Function, inputs: Outputs, watch: bool) -> Outputs:
        """Run, and where asked to, find out what keeps the function from being recorded."""
        if not watch:
            return function(*inputs)
        before, drawn = torch.cuda.get_sync_debug_mode(), _drawn()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                outputs = function(*inputs)
            finally:
                torch.cuda.set_sync_debug_mode(before)
        if any(_WAITED in str(each.message) for each in caught):
            self._give_up("it waits for the GPU")
        elif _drawn() != drawn:
            self._give_up("it draws random numbers from Python or NumPy")
        return outputs

    def _recorded(self, function: Function, inputs: Outputs) -> "_Graph | None":
        try:
            return _Graph(function, inputs, self._pool)
        except RuntimeError as error:
            self._give_up(str(error).splitlines()[0])
            return None

    def _give_up(self, obstacle: str) -> None:
        self.obstacle = obstacle
        _log.info(f"{self._name} runs without a CUDA graph, for {obstacle}")


class _Graph:
    """One recording; nothing has run until it is called."""

    def __init__(self, function: Function, inputs: Outputs, pool: Any):
        self._inputs = [x.clone() for x in inputs]
        self._graph = torch.cuda.CUDAGraph()
        torch.cuda.current_stream().synchronize()
        collects = gc.isenabled()
        gc.disable()  # what it destroys may be of the GPU, and that fails while recording
        # What other threads do meanwhile, such as reading images, does no harm.
        self._graph.capture_begin(pool=pool, capture_error_mode="thread_local")
        try:
            with held() as self._constants:
                self._outputs = function(*self._inputs)
        finally:
            self._graph.capture_end()
            if collects:
                gc.enable()

    def __call__(self, *inputs: Tensor) -> Outputs:
        for mine, given in zip(self._inputs, inputs, strict=True):
            mine.copy_(given, non_blocking=True)
        self._graph.replay()
        # The next replay overwrites the graph's own.
        return tuple(output.clone() for output in self._outputs)


def _drawn() -> tuple[object, ...]:
    """The states of the generators that a graph does not know."""
    numbers = numpy.random.get_state(legacy=False)
    return random.getstate(), repr(numbers["state"])
