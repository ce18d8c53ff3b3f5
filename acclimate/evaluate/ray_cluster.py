"""Work on a grid's tasks with the processes of a Ray cluster."""

from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

import torch

from acclimate.errors import InputError
from acclimate.evaluate.ray_place import packed
from acclimate.evaluate.task import Task, frost_of
from acclimate.runtime.ray_connection import connected, need_ray
from acclimate.runtime.workers import Failure, attempt, check_positive, prepare
from acclimate.version import __version__

RETRIES = 2
"""How often a task is tried again whose process or machine died."""


class RayCluster:
    """An `acclimate.runtime.workers.Engine` whose processes are those of a Ray cluster.

    A process that dies, or a machine, takes no task with it: Ray tries the task again elsewhere.
    Only this process, the driver, sees the results. Bundles and images are sent along, so the
    machines need the same versions of acclimate and torch, but no shared folder.

    ```python
    with RayCluster("auto") as cluster:
        run_grid(grid_run, Path("out"), engine=cluster)
    ```

    Args:
        address: The cluster, as `acclimate.runtime.ray_connection.connected` takes it.
        workers: Tasks at a time; None for one on each GPU, or on each core.
        threads: Torch threads of each task, as of `acclimate.runtime.workers.processes`.

    Raises:
        InputError: a number below 1, Ray is not installed, there is no such cluster, or none of its
            machines has so many cores as a task has threads.

    Attributes:
        workers: Tasks at a time; set when the block begins.
    """

    def __init__(self, address: str | None = None, workers: int | None = None, threads: int = 1):
        check_positive(workers=1 if workers is None else workers, threads=threads)
        self._ray, self._open = need_ray(), connected(address)
        self._chosen = workers
        self.threads: int = threads

    def __enter__(self) -> "RayCluster":
        self._open.__enter__()
        most = max(self._cores(), default=1)
        if self.threads > max(most, 1):  # Ray would wait for such a machine without end
            self.__exit__()
            raise InputError(
                f"no machine of the Ray cluster has {self.threads} cores, but {most:.0f} at most; "
                "give fewer threads."
            )
        resources = self._ray.cluster_resources()
        self.gpus: Any = resources.get("GPU", 0) >= 1
        self.workers: int = self._chosen or self._most(resources)
        return self

    def __exit__(self, *error: object) -> None:
        self._open.__exit__(None, None, None)

    def __call__(
        self, job: Callable[..., Any], tasks: Sequence[Any]
    ) -> Generator[tuple[Any, Any], None, None]:
        """Results in any order; work stops when the generator is closed.

        Args:
            job: One of `acclimate.evaluate.workplace`, given its ``place``.
            tasks: What to work on.
        """
        if not tasks:
            return
        ray = self._ray
        assert isinstance(job, partial)
        place = ray.put(packed(job.keywords["place"], tasks))
        # A process with a GPU would otherwise end after each task.
        options = {"max_calls": 0, "max_retries": RETRIES}
        needs = {"num_cpus": self.threads, "num_gpus": int(self.gpus)}
        remote = ray.remote(**options, **needs)(_work)
        same = (self.threads, self._on_one_machine(), versions())
        waiting, busy = deque(tasks), {}

        def start() -> None:
            if waiting:
                task = waiting.popleft()
                busy[remote.remote(job.func, [place], task, *same)] = task

        try:
            for _ in range(self.workers):
                start()
            while busy:
                (done,), _ = ray.wait(list(busy))
                task, outcome = busy.pop(done), self._outcome(done)
                start()
                yield task, outcome
        finally:
            for each in busy:
                ray.cancel(each, force=True)

    def _outcome(self, done: Any) -> Any:
        errors = self._ray.exceptions
        try:
            return self._ray.get(done)
        except errors.OutOfMemoryError:
            return Failure("memory ran out; take fewer workers, or smaller batches or images")
        except errors.WorkerCrashedError:
            return Failure(f"its process died {RETRIES + 1} times; take fewer workers")
        except errors.RayError as error:
            return Failure(f"{type(error).__name__}: {str(error).partition(chr(10))[0]}")

    def _most(self, resources: Mapping[str, float]) -> int:
        """One task for each GPU, or for so many cores as a task has threads."""
        return int(resources["GPU"] if self.gpus else resources.get("CPU", 1) / self.threads) or 1

    def _on_one_machine(self) -> int:
        """The most tasks that share the memory of one machine."""
        most = (cores // self.threads for cores in self._cores())
        return max(1, min(self.workers, int(max(most, default=1))))

    def _cores(self) -> list[float]:
        """Cores of each machine."""
        machines = (node["Resources"] for node in self._ray.nodes() if node["Alive"])
        return [machine.get("CPU", 0) for machine in machines]


def versions() -> dict[str, str]:
    """What must be the same on all machines, for results to be the same."""
    return {"acclimate": __version__, "torch": str(torch.__version__)}


def _work(
    job: Callable[..., Any],
    place: Sequence[Any],
    task: Task,
    threads: int,
    workers: int,
    expected: Mapping[str, str],
) -> Any:
    """Work on one task in a process of the cluster."""
    if different := [name for name, value in versions().items() if value != expected[name]]:
        return Failure(
            f"its machine has another version of {different[0]} than the driver, "
            f"{versions()[different[0]]}; install {expected[different[0]]} there."
        )
    if task.frost and task.frost != frost_of(task.shifts):
        return Failure(
            "its machine has other pictures of frost than the driver; set ACCLIMATE_FROST alike."
        )
    prepare(threads, workers)
    return attempt(partial(job, place=_fetched(place[0])), task)


@lru_cache(maxsize=1)
def _fetched(place: Any) -> Any:
    """The place of a grid, unpacked once in each process."""
    import ray

    return ray.get(place)
