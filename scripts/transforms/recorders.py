"""The ways in which torch runs code other than eagerly, apart from compilers: what each has to do for an estimator.

A replay with the same random state must give eager code's loss and gradient, so that its law is that of eager code.
"""

import contextlib
import functools
import io
import itertools
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from checks import check_one_hot, loss_of, sampler_of
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.functional import jacobian
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from catreparam import make_estimator
from catreparam.kernels import dispatch
from catreparam.kernels.compiled import library

SEEDS = (0, 1, 2)
PATHS = ("", "torch", "naive")
LOGITS = torch.tensor([[0.3, -1.0, 0.8, 0.1], [1.2, 0.0, -0.4, 0.6], [-0.7, 0.9, 0.2, -0.3]])


def jit_trace(name: str) -> None:
    """torch.jit.trace, also within it a generator: replays of other batch sizes give the naive path's numbers."""
    for generator in (None, torch.Generator()):
        recorded = torch.jit.trace(_loss(name, generator), (torch.randn(5, 4),), check_trace=False)
        _check_replay(recorded, name, "naive", generator)


def fx(name: str) -> None:
    """make_fx with real, fake and symbolic tensors, and of a gradient."""
    path = "" if library.BUILT else "naive"
    example, logits = torch.randn(5, 4, requires_grad=True), torch.randn(5, 4, requires_grad=True)
    for mode in ("real", "fake", "symbolic"):
        recorded = make_fx(_loss(name), tracing_mode=mode)(example)
        _check_replay(recorded, name, path, size=6 if mode == "symbolic" else 5)
    recorded = make_fx(lambda logits: _gradient(_loss(name), logits)[1])(example)
    with dispatch.using(path):
        wanted = _at(0, lambda logits: _gradient(_loss(name), logits)[1], logits)
    assert torch.allclose(_at(0, recorded, logits), wanted, atol=1e-5), "another gradient"


def stand_ins(name: str) -> None:
    """Meta and fake tensors give losses and gradients of the right shape, dtype and device."""
    for mode, device in ((contextlib.nullcontext(), "meta"), (FakeTensorMode(), "cpu")):
        for generator in (None, torch.Generator()):
            with mode:
                logits = torch.zeros(5, 4, device=device, requires_grad=True)
                loss, gradient = _gradient(_loss(name, generator), logits)
            assert (loss.shape, loss.device.type) == ((5,), device)
            assert (gradient.shape, gradient.device.type, gradient.dtype) == ((5, 4), device, logits.dtype)


def onnx_traced(name: str) -> None:
    """torch.onnx.export(dynamo=False): ONNX Runtime draws one-hot rows, new ones at each call, from the right law."""
    import onnxruntime

    file, options = io.BytesIO(), {"input_names": ["logits"], "dynamic_axes": {"logits": {0: "batch"}}}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(sampler_of(name).eval(), (torch.zeros(4, 3),), file, dynamo=False, **options)
    session = onnxruntime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    logits = torch.tensor([0.5, 0.3, 0.2]).log().expand(2000, 3).numpy()
    draws = [torch.from_numpy(session.run(None, {"logits": logits})[0]) for _ in range(2)]
    for x in draws:
        check_one_hot(x)
    assert not torch.equal(*draws), "the same draw twice"
    distance = (draws[0].mean(0) - torch.tensor([0.5, 0.3, 0.2])).abs().sum() / 2
    assert distance < 0.06, f"total variation {distance:.3f} from softmax(logits)"  # beyond it 1 time in 1e6


def modes(name: str) -> None:
    """Dispatch and function modes, hooks of saved tensors, the flop counter, deterministic algorithms."""
    for enter, path in itertools.product(MODES, PATHS):
        with dispatch.using(path):
            found = _at(0, functools.partial(_gradient_in, enter, _loss(name)), LOGITS)
            wanted = _at(0, functools.partial(_gradient, _loss(name)), LOGITS)
        for one, other in zip(found, wanted, strict=True):
            assert torch.allclose(one, other, atol=1e-5), f"{enter.__name__} changes a number"


def batched_gradients(name: str) -> None:
    """is_grads_batched, vmap of a backward pass and jacobian(vectorize=True): the rows of single backward passes."""
    for path, create_graph in itertools.product(PATHS, (False, True)):
        with dispatch.using(path):
            logits = LOGITS.clone().requires_grad_()
            loss, ones = _loss(name)(logits), torch.eye(len(logits))

            def pull(one: Tensor, batched: bool = False, loss=loss, logits=logits, graph=create_graph) -> Tensor:
                options: dict[str, Any] = {"retain_graph": True, "create_graph": graph, "is_grads_batched": batched}
                return torch.autograd.grad(loss, logits, one, **options)[0]

            wanted = torch.stack([pull(one) for one in ones])
            assert torch.allclose(pull(ones, batched=True), wanted, atol=1e-5), f"{path}: is_grads_batched"
            assert torch.allclose(torch.vmap(pull)(ones), wanted, atol=1e-5), f"{path}: vmap"
            jacobians = [_at(0, lambda x, v=v: jacobian(_loss(name), x, vectorize=v), LOGITS) for v in (False, True)]
            assert torch.allclose(*jacobians, atol=1e-5), f"{path}: jacobian"


def inference(name: str) -> None:
    """torch.inference_mode gives the losses of no_grad; its tensors are logits like any."""
    with torch.no_grad():
        wanted = _at(0, _loss(name), logits := torch.randn(5, 4))
    with torch.inference_mode():
        assert torch.allclose(_at(0, _loss(name), logits.clone()), wanted)
        inside = logits.clone()
    assert torch.allclose(_at(0, _loss(name), inside), wanted)


RECORDERS: dict[str, Callable[[str], None]] = {
    "jit.trace": jit_trace,
    "make_fx": fx,
    "meta, fake": stand_ins,
    "ONNX, traced": onnx_traced,
    "modes, hooks": modes,
    "batched gradients": batched_gradients,
    "inference mode": inference,
}


class _Dispatched(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


class _Overridden(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


def _saved_tensors_hooks() -> AbstractContextManager:
    return torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor.clone(), lambda tensor: tensor)


def _flop_counter() -> AbstractContextManager:
    return FlopCounterMode(display=False)


@contextlib.contextmanager
def _deterministic():
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


MODES = (
    _Dispatched,
    _Overridden,
    _saved_tensors_hooks,
    torch.autograd.graph.save_on_cpu,
    _flop_counter,
    _deterministic,
)


def _loss(name: str, generator: torch.Generator | None = None) -> Callable[[Tensor], Tensor]:
    """logits [batch, 4] -> losses [batch], by an estimator of its own, whose state is new."""
    estimator = make_estimator(name)
    return lambda logits: loss_of(estimator, logits, generator=generator)


def _gradient(run: Callable[[Tensor], Tensor], logits: Tensor) -> tuple[Tensor, Tensor]:
    logits = logits if logits.requires_grad else logits.detach().requires_grad_()
    loss = run(logits)
    return loss.detach(), torch.autograd.grad(loss.sum(), logits)[0]


def _gradient_in(enter: Callable, run: Callable[[Tensor], Tensor], logits: Tensor) -> tuple[Tensor, Tensor]:
    with enter():
        return _gradient(run, logits)


def _at(seed: int, run: Callable, logits: Tensor, generator: torch.Generator | None = None) -> Any:
    """run(logits), with all randomness from a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if generator is not None:
            generator.manual_seed(seed)
        return run(logits)


def _check_replay(
    recorded: Callable, name: str, path: str, generator: torch.Generator | None = None, size: int = 6
) -> None:
    """Losses and gradients are those of a path at the same random state, and other ones at another."""
    logits, losses = torch.randn(size, 4), []
    for seed in SEEDS:
        found = _at(seed, lambda logits: _gradient(recorded, logits), logits, generator)
        with dispatch.using(path):
            wanted = _at(seed, lambda logits: _gradient(_loss(name, generator), logits), logits, generator)
        for one, other in zip(found, wanted, strict=True):
            assert torch.allclose(one, other, atol=1e-5), "not the numbers of eager code"
        losses.append(found[0])
    assert name == "exact" or not all(torch.equal(losses[0], other) for other in losses), "always the same draw"
