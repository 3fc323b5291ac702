"""The checks that need other processes: DDP and FSDP over gloo, children started by spawn and by fork."""

import os
import tempfile
from collections.abc import Callable

import torch
import torch.distributed
import torch.multiprocessing
from checks import Loss, loss_of
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from catreparam import make_estimator

WORLD = 2
Errors = dict[str, str]


def in_two_processes(checks: list[Callable[[str], None]], names: list[str]) -> Errors:
    """Runs the checks for every name in two spawned gloo processes; the error of each that failed in one of them.

    The processes are sent made estimators, too, and use them.
    """
    context = torch.multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    with tempfile.TemporaryDirectory() as folder:
        sent = [make_estimator(name) for name in names]
        arguments = ([check.__name__ for check in checks], names, sent, os.path.join(folder, "store"), queue)
        processes = [context.Process(target=_rank, args=(rank, *arguments)) for rank in range(WORLD)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        if any(process.exitcode for process in processes):
            return dict.fromkeys(names, f"a process ended with status {[process.exitcode for process in processes]}")
        found = [queue.get() for _ in processes]
    return {name: error for errors in found for name, error in errors.items()}


def ddp(name: str) -> None:
    """Every rank draws for its own rows, and all end with the same averaged gradient."""
    torch.manual_seed(0)
    model = DistributedDataParallel(Loss(name))
    torch.manual_seed(torch.distributed.get_rank())
    model(torch.randn(5, 3)).sum().backward()
    gradient = model.module.layer.weight.grad
    assert gradient is not None
    assert bool(gradient.isfinite().all())
    gathered = [torch.empty_like(gradient) for _ in range(WORLD)]
    torch.distributed.all_gather(gathered, gradient)
    assert all(torch.equal(other, gradient) for other in gathered)
    assert bool((gradient != 0).any())


def fsdp(name: str) -> None:
    """fully_shard: the weights are sharded, a step runs, and the sharded gradient is finite."""
    torch.manual_seed(0)
    mesh = torch.distributed.init_device_mesh("cpu", (WORLD,))
    model = Loss(name)
    fully_shard(model.layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    torch.manual_seed(torch.distributed.get_rank())
    model(torch.randn(5, 3)).sum().backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    gradient = model.layer.weight.grad.full_tensor()
    assert bool(gradient.isfinite().all())
    assert bool((gradient != 0).any())


def in_child(method: str, names: list[str]) -> Errors:
    """Uses every estimator here (threads and all), then in a child started by `method`; errors, or that it hangs."""
    for name in names:
        _use(name)
    context = torch.multiprocessing.get_context(method)
    queue = context.Queue()
    child = context.Process(target=_child, args=(names, [make_estimator(name) for name in names], queue))
    child.start()
    try:
        return queue.get(timeout=120)
    except Exception:
        return dict.fromkeys(names, "the child gave no answer in 120 s")
    finally:
        if child.is_alive():
            child.join(timeout=5)
        child.kill()


def _rank(rank: int, checks: list[str], names: list[str], sent: list, store: str, queue) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=WORLD)
    errors = _use_sent(names, sent)
    for check in checks:
        errors |= _errors({"ddp": ddp, "fsdp": fsdp}[check], names)
    queue.put({name: error[:500] for name, error in errors.items()})  # short enough to wait in the pipe
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
    os._exit(0)  # ordinary ends now and then meet a thread of gloo's that is still there, and abort


def _child(names: list[str], sent: list, queue) -> None:
    torch.set_num_threads(1)  # torch's own threads do not survive a fork: its operations would wait for them for ever
    queue.put(_errors(_use, names) | _use_sent(names, sent))


def _use_sent(names: list[str], sent: list) -> Errors:
    made = dict(zip(names, sent, strict=True))
    return _errors(lambda name: loss_of(made[name], torch.zeros(3, 4)).sum().item(), names)


def _use(name: str) -> None:
    logits = torch.zeros(4000, 4, requires_grad=True)  # enough rows for several threads
    if name == "relax":
        logits = torch.zeros(4, 4, requires_grad=True)
    (gradient,) = torch.autograd.grad(loss_of(make_estimator(name), logits).sum(), logits)
    assert bool(gradient.isfinite().all())


def _errors(check: Callable[[str], None], names: list[str]) -> Errors:
    errors = {}
    for name in names:
        try:
            check(name)
        except Exception as error:
            errors[name] = f"{type(error).__name__}: {error}"
    return errors
