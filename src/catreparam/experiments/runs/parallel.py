"""Tasks side by side: joblib's processes on one machine by default, a Ray or Dask cluster by the same call.

A task is anything that `function` takes and that leaves a durable mark when it is done: a cell, a training, a trial.
"""

import contextlib
import importlib.util
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import torch

from catreparam.extras import install
from catreparam.validation import check_choice, check_count

Task = TypeVar("Task")
Result = TypeVar("Result")

POLL_SECONDS = 1.0
RETRIES = 5  # how often workers may die without any task finishing in between


class WorkersLost(RuntimeError):
    """Workers died again and again; what they finished is kept."""


@dataclass(frozen=True)
class Work(Generic[Task, Result]):
    """What an engine is given: `function(task)` for every task, `jobs` at a time, on a cluster at `address` if any."""

    function: Callable[[Task], Result]
    tasks: Sequence[Task]
    jobs: int
    is_done: Callable[[Task], bool]
    address: str = ""


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

    Raises: ValueError for an engine that is unknown or not installed; WorkersLost when workers die RETRIES times in a
    row without a result.
    """
    check_engine(engine)
    check_count("jobs", jobs)
    left = [task for task in tasks if not is_done(task)]
    if jobs == 1 and engine == "processes":
        for task in left:
            yield task, function(task)
        return
    work, failures = Work(function, left, jobs, is_done, address), 0
    while work.tasks:
        try:
            for index, result in ENGINES[engine](work):
                failures = 0
                yield work.tasks[index], result
            return
        except _lost_worker_errors(engine) as error:
            failures += 1
            work = replace(work, tasks=[task for task in work.tasks if not is_done(task)])
            if failures >= RETRIES:
                raise WorkersLost(f"workers died {failures} times in a row; the same command goes on") from error
            lost = f"a worker was lost ({type(error).__name__})"
            say(f"{lost}; starting again what was in flight, {len(work.tasks)} to go")


def check_engine(engine: str) -> None:
    """Raises ValueError unless there is such an engine and its package is installed."""
    check_choice("engine", engine, ENGINES)
    package = {"ray": "ray", "dask": "distributed"}.get(engine)
    if package and importlib.util.find_spec(package) is None:
        raise ValueError(f"the engine {engine} needs the package {package}: {install('distributed')}")


def _on_dask(work: Work[Any, Any]) -> Iterator[tuple[int, Any]]:
    from dask.distributed import Client, LocalCluster  # pyright: ignore[reportMissingImports]

    with contextlib.ExitStack() as stack:
        local: dict[str, Any] = {"n_workers": work.jobs, "threads_per_worker": 1, "dashboard_address": None}
        cluster: Any = work.address or stack.enter_context(LocalCluster(**local))
        stack.enter_context(Client(cluster, set_as_default=True))
        yield from _polled("dask", work)


def _on_ray(work: Work[Any, Any]) -> Iterator[tuple[int, Any]]:
    import ray  # pyright: ignore[reportMissingImports]
    from ray.util.joblib import register_ray  # pyright: ignore[reportMissingImports]

    ray.init(address=work.address or "local", log_to_driver=False, configure_logging=False)
    try:
        register_ray()
        cpus = int(ray.cluster_resources().get("CPU", work.jobs))  # fewer than before, when a node was lost
        yield from _polled("ray", replace(work, jobs=max(1, min(work.jobs, cpus))))
    finally:
        ray.shutdown()


def _polled(backend: str, work: Work[Any, Any]) -> Iterator[tuple[int, None]]:
    """For backends of joblib that return everything at the end: looks which tasks have left their mark meanwhile."""
    from joblib import parallel_config

    outcome: list[BaseException | None] = []

    def go() -> None:
        try:
            with parallel_config(backend):  # of this thread
                _parallel(work)
            outcome.append(None)
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=go, daemon=True)
    thread.start()
    waiting = dict(enumerate(work.tasks))
    while thread.is_alive() or waiting:
        thread.join(POLL_SECONDS)
        for index in [index for index, task in waiting.items() if work.is_done(task)]:
            del waiting[index]
            yield index, None
        if not thread.is_alive():
            if outcome[0] is not None:
                raise outcome[0]
            break


def _parallel(work: Work[Any, Any], **keywords: Any) -> Any:
    from joblib import Parallel, delayed

    # no batches and nothing dispatched ahead: a task begins when a worker is free for it
    keywords["batch_size"] = 1
    calls = (delayed(_on_one_thread)(work.function, index, task) for index, task in enumerate(work.tasks))
    return Parallel(n_jobs=work.jobs, pre_dispatch="n_jobs", **keywords)(calls)


def _on_one_thread(function: Callable[[Task], Result], index: int, task: Task) -> tuple[int, Result]:
    torch.set_num_threads(1)
    return index, function(task)


def _lost_worker_errors(engine: str) -> tuple[type[BaseException], ...]:
    """What tells that a worker, not the task, failed."""
    if engine == "ray":
        from ray.exceptions import RayError  # pyright: ignore[reportMissingImports]

        return (RayError,)
    if engine == "dask":
        from distributed import KilledWorker  # pyright: ignore[reportMissingImports]

        return (KilledWorker,)
    from concurrent.futures.process import BrokenProcessPool

    return (BrokenProcessPool,)  # loky's TerminatedWorkerError is one


ENGINES: dict[str, Callable[[Work[Any, Any]], Iterator[tuple[int, Any]]]] = {
    "processes": lambda work: _parallel(work, return_as="generator_unordered"),
    "ray": _on_ray,
    "dask": _on_dask,
}
