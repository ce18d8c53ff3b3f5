"""Networks that a function of the user's builds: ``package.module:factory``.

Building one runs that code, so it needs a permission that only the user gives: a bundle records the
name of the function and holds no code.
"""

import importlib
import importlib.util
import inspect
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from acclimate.errors import InputError

TRUST = "ACCLIMATE_TRUST_CODE"
"""Environment variable that allows running the code that models name, if it is 1."""
_NAME = re.compile(r"(?P<module>[A-Za-z_]\w*(\.[A-Za-z_]\w*)*|.+\.py):(?P<function>[A-Za-z_]\w*)")
_CLASSES = ("classes", "num_classes", "n_classes", "num_labels", "nclasses")


@contextmanager
def trusted_code(trusted: bool = True) -> Iterator[None]:
    """Context in which this process, and those it starts, may run the code that models name.

    ```python
    with trusted_code():
        bundle = acclimate.Bundle.load("bundle")  # of mine.net:network
    ```

    Args:
        trusted: False changes nothing.
    """
    before = os.environ.get(TRUST)
    if trusted:
        os.environ[TRUST] = "1"
    try:
        yield
    finally:
        if trusted:
            os.environ.pop(TRUST)
            os.environ.update({TRUST: before} if before is not None else {})


def is_code(name: str) -> bool:
    """Whether a model's name has the form of a function's, and its module or file may exist."""
    match = _NAME.fullmatch(name)
    if not match:
        return False
    module = match["module"]
    if module.endswith(".py"):
        return True
    top = module.partition(".")[0]
    # The top package is looked for, not imported: that alone would run its code.
    here = Path(top).is_dir() or Path(f"{top}.py").is_file()
    return here or top in sys.modules or importlib.util.find_spec(top) is not None


def construct(name: str, classes: int | None) -> nn.Module:
    """Call the function that a name stands for, with the number of classes if it takes one.

    Args:
        name: ``package.module:function`` or ``path/to/file.py:function``. Modules are also looked
            for in the working directory.
        classes: Number of classes; None leaves it to the function.

    Raises:
        InputError: running code is not allowed, the function does not exist or fails, or it returns
            no module.
    """
    match = _NAME.fullmatch(name)
    assert match is not None
    module, function = match["module"], match["function"]
    if os.environ.get(TRUST) != "1":
        raise InputError(
            f"the model {name} is code: {function} of {_where(module)} would be run; if you trust "
            f"it, add --trust-code to the command, or set {TRUST}=1."
        )
    try:
        factory = getattr(_import(module), function, None)
        if not callable(factory):
            raise InputError(f"{module} has no function {function}; check the name {name}.")
        network = factory(**_arguments(factory, name, classes))
    except InputError:
        raise
    except Exception as error:  # the user's code may fail in any way
        raise InputError(
            f"{name} cannot be built: {type(error).__name__}: {error} ({_last_line(error)}); "
            "correct it, or give a network that Python builds."
        ) from error
    if not isinstance(network, nn.Module):
        raise InputError(
            f"{name} returns a {type(network).__name__}, no torch.nn.Module; return the network."
        )
    return network


def _where(module: str) -> str:
    return str(Path(module).absolute()) if module.endswith(".py") else f"the module {module}"


def _import(module: str) -> ModuleType:
    if not module.endswith(".py"):
        here = str(Path.cwd())
        if here not in sys.path:
            sys.path.insert(0, here)
        return importlib.import_module(module)
    path = Path(module).expanduser().absolute()
    if not path.is_file():
        raise InputError(f"there is no file {path}; give the path from the working directory.")
    name = f"acclimate_code_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    loaded = sys.modules[name] = importlib.util.module_from_spec(spec)
    if str(path.parent) not in sys.path:  # so that it imports what lies beside it
        sys.path.insert(0, str(path.parent))
    spec.loader.exec_module(loaded)
    return loaded


def _arguments(factory: Callable[..., Any], name: str, classes: int | None) -> dict[str, Any]:
    """The number of classes, by the name of the parameter that takes it."""
    parameters = inspect.signature(factory).parameters.values()
    plain = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    required = [p.name for p in plain if p.default is p.empty]
    known = [p.name for p in plain if p.name in _CLASSES]
    takes = (known or required)[:1]
    if unknown := [each for each in required if each not in takes]:
        raise InputError(
            f"{name} needs {', '.join(unknown)}; write a function that takes the number of "
            "classes, or nothing."
        )
    if classes is None and required:
        raise InputError(f"{name} needs a number of classes; give one, or a file with weights.")
    return {} if classes is None else dict.fromkeys(takes, classes)


def _last_line(error: Exception) -> str:
    """The file and line at which an error was raised."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return "unknown line"
    return f"{trace.tb_frame.f_code.co_filename}, line {trace.tb_lineno}"
