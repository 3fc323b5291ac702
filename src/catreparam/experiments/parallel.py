"""Tasks side by side: joblib's processes on one machine by default, a Ray or Dask cluster by the same call."""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch

from catreparam.validation import check_choice, check_count

Task = TypeVar("Task")
Result = TypeVar("Result")

ENGINES = ("processes", "ray", "dask")
RETRIES = 5  # how often workers may die without any task finishing in between


class WorkersLost(RuntimeError):
    """Workers died again and again; what they finished is kept."""


def run_side_by_side(
    function: Callable[[Task], Result],
    tasks: Sequence[Task],
    *,
    jobs: int,
    is_done: Callable[[Task], bool],
    engine: str = "processes",
    address: str = "",
    say: Callable[[str], None] = lambda message: None,
) -> Iterator[tuple[Task, Result]]:
    """Calls function(task) for every task that is not done, `jobs` at a time; yields results as they come.

    `function` itself must write down what it found, durably, before it returns: `is_done` reads that. When a worker
    dies (kill -9, out of memory, a lost node) the tasks that are not done are started again. With jobs = 1 and the
    engine `processes` all happens in this process, without joblib. Each worker computes on one thread.

    Raises: ValueError for an unknown engine; WorkersLost when workers die RETRIES times in a row without a result.
    """
    check_choice("engine", engine, ENGINES)
    check_count("jobs", jobs)
    left = [task for task in tasks if not is_done(task)]
    if jobs == 1 and engine == "processes":
        for task in left:
            yield task, function(task)
        return
    failures = 0
    while left:
        try:
            with _backend(engine, address):
                for index, result in _parallel(function, left, jobs):
                    failures = 0
                    yield left[index], result
            return
        except _lost_worker_errors(engine) as error:
            failures += 1
            left = [task for task in left if not is_done(task)]
            if failures >= RETRIES:
                raise WorkersLost(f"workers died {failures} times in a row; the same command goes on") from error
            say(f"a worker was lost ({type(error).__name__}); starting again what was in flight, {len(left)} to go")


def default_jobs() -> int:
    """One per core that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _parallel(function: Callable[[Task], Result], tasks: Sequence[Task], jobs: int) -> Iterator[tuple[int, Result]]:
    from joblib import Parallel, delayed

    calls = (delayed(_on_one_thread)(function, index, task) for index, task in enumerate(tasks))
    # no batches and nothing dispatched ahead: a task begins when a worker is free for it
    yield from Parallel(n_jobs=jobs, batch_size=1, pre_dispatch="n_jobs", return_as="generator_unordered")(calls)  # type: ignore[misc]


def _on_one_thread(function: Callable[[Task], Result], index: int, task: Task) -> tuple[int, Result]:
    torch.set_num_threads(1)
    return index, function(task)


@contextlib.contextmanager
def _backend(engine: str, address: str) -> Iterator[None]:
    if engine == "processes":
        yield
        return
    from joblib import parallel_config

    if engine == "ray":
        ray = _start_ray(address)
        try:
            with parallel_config("ray"):
                yield
        finally:
            ray.shutdown()
        return
    from dask.distributed import Client

    with Client(address or None, set_as_default=True), parallel_config("dask"):
        yield


def _start_ray(address: str) -> Any:
    import ray
    from ray.util.joblib import register_ray

    ray.init(address=address or None, ignore_reinit_error=True, log_to_driver=False, configure_logging=False)
    register_ray()
    return ray


def _lost_worker_errors(engine: str) -> tuple[type[BaseException], ...]:
    """What tells that a worker, not the task, failed."""
    if engine == "ray":
        from ray.exceptions import RayError

        return (RayError,)
    if engine == "dask":
        from distributed import KilledWorker

        return (KilledWorker,)
    from concurrent.futures.process import BrokenProcessPool

    return (BrokenProcessPool,)  # loky's TerminatedWorkerError is one
