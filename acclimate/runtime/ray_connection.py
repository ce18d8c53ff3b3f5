"""Connect to a Ray cluster, or start one on this machine."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from acclimate.errors import InputError


def need_ray() -> ModuleType:
    """The package ray.

    Raises:
        InputError: it is not installed.
    """
    try:
        import ray
    except ImportError as error:
        raise InputError(
            "the engine ray needs Ray: pip install 'acclimate[ray]', or leave --engine ray out."
        ) from error
    return ray


@contextmanager
def connected(address: str | None = None) -> Iterator[ModuleType]:
    """Context in which this program is connected to a Ray cluster; yields the package ray.

    ```python
    with connected("auto") as ray:
        print(ray.cluster_resources())
    ```

    A cluster that is started here sends Ray's usage statistics to no one, unless
    RAY_USAGE_STATS_ENABLED says otherwise.

    Args:
        address: The cluster, e.g. ``"auto"`` or ``"10.0.0.1:6379"``. None takes the one of the
            variable RAY_ADDRESS, or one that runs on this machine, or starts one here until the
            end of the block; ``"local"`` always starts one. If this program is connected to one
            already, that is taken, and stays.

    Raises:
        InputError: Ray is not installed, or there is no such cluster.
    """
    ray = need_ray()
    if ray.is_initialized():
        yield ray
        return
    _connect(ray, address)
    try:
        yield ray
    finally:
        ray.shutdown()


def _connect(ray: ModuleType, address: str | None) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    named = address or os.environ.get("RAY_ADDRESS", "")
    try:
        host, colon, port = named.removeprefix("ray://").rpartition(":")
        if colon:  # Ray itself would try for many minutes
            socket.create_connection((host, int(port)), timeout=10).close()
        ray.init(address, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    except (OSError, ValueError, RuntimeError) as error:
        where = f"at {named}" if named else "here"
        raise InputError(
            f"there is no Ray cluster {where}: start one with ray start --head, or leave "
            f"--ray-address out for one on this machine ({str(error).partition(chr(10))[0]})."
        ) from error
