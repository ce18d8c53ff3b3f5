"""A GPU that is only pretended: where code would wait for it, or mix its tensors with the host's.

Tensors say that they lie on the device ``pretended``, and each operation is computed on the CPU, so
that all values are real. PyTorch treats the device as it treats a GPU: a tensor on it and one on
the host are on two devices. What a GPU could not do without the host's waiting for it is noted:
reading a value, a shape that depends on values, an index by a mask, a copy from or to the host.

Operations can be recorded and replayed, as a CUDA graph does it: on the same tensors, whatever
their values are by then, and without the Python code between them.
"""

import sys
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
import torch.utils.backend_registration as registration
from torch.autograd.graph import _engine_run_backward
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map

import acclimate

if not hasattr(registration, "_DummyBackendModule"):
    pytest.skip("this PyTorch has no devices in Python", allow_module_level=True)

NAME = "pretended"
INLINED = {"<listcomp>", "<setcomp>", "<dictcomp>"}
"""They have frames of their own before Python 3.12, and belong to their function from then on."""
WAITING = {
    "_local_scalar_dense",
    "_unique",
    "_unique2",
    "equal",
    "is_nonzero",
    "masked_select",
    "nonzero",
    "repeat_interleave",
    "unique_consecutive",
    "unique_dim",
}
INDEXING = {"_unsafe_index", "index", "index_put", "index_put_"}
COPYING = {"_to_copy", "copy_"}
FREE = {"_unsafe_view", "detach", "empty", "empty_like", "empty_strided", "lift_fresh", "new_empty"}
_PACKAGE = Path(acclimate.__file__).parent


class There(torch.Tensor):
    """A tensor on the pretended device; `values` holds its values."""

    @staticmethod
    def __new__(cls, values):
        return torch.Tensor._make_wrapper_subclass(
            cls,
            values.shape,
            strides=values.stride(),
            storage_offset=values.storage_offset(),
            dtype=values.dtype,
            device=torch.device(NAME, 0),
        )

    def __init__(self, values):
        self.values = values

    def __repr__(self):
        return f"There({self.values})"

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise AssertionError(f"{func} is called outside of the pretended GPU's context")


class PretendedGPU(TorchDispatchMode):
    """Computes what is called with its tensors, and notes what would wait.

    Attributes:
        device: The device.
        waits: What would have waited while it was watched: (operation, place in the package).
        kernels: The number of operations while it was watched, views of tensors not counted.
    """

    def __init__(self):
        super().__init__()
        self.device = torch.device(NAME, 0)
        self.waits, self.kernels = [], 0
        self._watched = False
        self._recorded, self._recording = [], False

    @contextmanager
    def recorded(self):
        """Within it, operations are recorded, and done; see `replay`."""
        self._recorded, self._recording = [], True
        try:
            yield
        finally:
            self._recording = False

    def replay(self):
        """Do the recorded operations again: in place, into the tensors that they made before."""
        for func, args, kwargs, made in self._recorded:
            again = [x for x in tree_iter(func(*args, **kwargs)) if isinstance(x, torch.Tensor)]
            for old, new in zip(made, again, strict=True):
                if old is not None:
                    old.copy_(new)

    @contextmanager
    def watched(self):
        """Within it, waits and kernels are counted."""
        self.waits, self.kernels, self._watched = [], 0, True
        try:
            yield
        finally:
            self._watched = False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        given = [x for x in tree_iter((args, kwargs)) if isinstance(x, torch.Tensor)]
        wanted = kwargs.get("device")
        made_there = wanted is not None and torch.device(wanted).type == NAME
        if not made_there and not any(isinstance(x, There) for x in given):
            return func(*args, **kwargs)
        if self._watched:
            self._note(func, given, args, wanted is not None and not made_there)
        if made_there:
            kwargs["device"] = torch.device("cpu")
        known = {id(x.values): x for x in given if isinstance(x, There)}
        inner = tree_map(lambda x: x.values if isinstance(x, There) else x, (args, kwargs))
        result = func(*inner[0], **inner[1])
        if self._recording and not func.is_view:
            self._record(func, *inner, result)
        if wanted is not None and not made_there:
            return result  # a copy on the host, which the inner copy may have left out

        def back(x):
            if not isinstance(x, torch.Tensor):
                return x
            return known[id(x)] if id(x) in known else There(x)

        return tree_map(back, result)

    def _record(self, func, args, kwargs, result):
        """Keep an operation, and what it made; what it wrote to is among its arguments."""
        given = {_memory(x) for x in tree_iter((args, kwargs)) if isinstance(x, torch.Tensor)}
        made = [x for x in tree_iter(result) if isinstance(x, torch.Tensor)]
        new = [None if _memory(x) in given else x for x in made]
        self._recorded.append((func, args, kwargs, new))

    def _note(self, func, given, args, to_host):
        name = func.__name__.split(".")[0]
        of_host = [x for x in given if not isinstance(x, There)]
        indices = args[1] if name in INDEXING else ()
        self.kernels += not func.is_view and name not in FREE
        if name in WAITING and not (name == "repeat_interleave" and "output_size" in given):
            self._wait(str(func))
        elif any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in indices):
            self._wait(f"{name} by a mask")
        elif name in COPYING and (of_host or to_host):
            self._wait(f"{name} {'to' if to_host else 'from'} the host")
        elif of_host:
            self._wait(f"{name} of the device's tensors and the host's")

    def _wait(self, what):
        frame = sys._getframe(2)
        while frame is not None and (
            _PACKAGE not in Path(frame.f_code.co_filename).parents
            or frame.f_code.co_name in INLINED
        ):
            frame = frame.f_back
        place = ""
        if frame is not None:
            file = Path(frame.f_code.co_filename).relative_to(_PACKAGE)
            place = f"{file.as_posix()}:{frame.f_code.co_name}"
        self.waits.append((what, place))


def _memory(tensor):
    return tensor.untyped_storage()._cdata


class _Module(registration._DummyBackendModule):
    """What PyTorch asks a device's module for: the device is there while one is pretended."""

    present = False

    def is_available(self):
        return self.present

    def device_count(self):
        return int(self.present)

    def get_amp_supported_dtype(self):
        return [torch.bfloat16]

    def get_rng_state(self, device=None):
        return torch.empty(0, dtype=torch.uint8)

    def set_rng_state(self, state, device=None):
        pass


def _run_backward(*args, **kwargs):
    """The way back in the calling thread, even where the caller has left inference mode.

    Autograd has threads for the devices that there were at its first use in the process.
    """
    with torch.autograd.set_multithreading_enabled(False):
        return _engine_run_backward(*args, **kwargs)


_module = _Module()
_registered = []


@contextmanager
def pretended_gpu():
    """A pretended GPU, for a test; modules can be moved to it and back.

    PyTorch's slot for a device of others' is taken for it the first time, for the whole process.
    Attention is computed by the same operations on it and on the CPU, whose fused kernel rounds
    otherwise: what a method's steps make of that is as large as a fault.
    """
    if not _registered:
        registration._setup_privateuseone_for_python_backend(NAME, _module)
        _registered.append(NAME)
    before = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    lifted = torch._C._only_lift_cpu_tensors()
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor makes it here, then copies it there
    _module.present = True
    try:
        in_one_thread = patch.object(torch.autograd, "_engine_run_backward", _run_backward)
        with in_one_thread, sdpa_kernel(SDPBackend.MATH), PretendedGPU() as gpu:
            yield gpu
    finally:
        _module.present = False
        torch._C._set_only_lift_cpu_tensors(lifted)
        torch.__future__.set_overwrite_module_params_on_conversion(before)
