"""What each transform has to do for an estimator: one check a transform, which raises if it fails."""

import contextlib
import copy
import io
import pickle
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from catreparam import ESTIMATORS, expectation, make_estimator, takes_objective
from catreparam.estimators import fewest_samples


def loss_of(estimator, logits: Tensor, count: int | None = None, **given: Any) -> Tensor:
    """[*batch, 4] -> [*batch]: a curved objective through `expectation`, which takes every estimator."""
    count = fewest_samples(estimator) if count is None else count

    def objective(x: Tensor) -> Tensor:
        first, second, third, fourth = x.unbind(-1)
        value = first + 2 * second - third + fourth / 2
        return value**2 + value

    return expectation(objective, logits, estimator=estimator, num_samples=count, **given)


class Sampler(torch.nn.Module):
    """logits -> one-hot x."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.estimator = make_estimator(name)

    def forward(self, logits: Tensor) -> Tensor:
        return self.estimator(logits)


class Loss(torch.nn.Module):
    """features [batch, 3] -> loss [batch], through a layer that learns."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.layer, self.estimator = torch.nn.Linear(3, 4), make_estimator(name)

    def forward(self, features: Tensor) -> Tensor:
        return loss_of(self.estimator, self.layer(features))


def compile_dynamic(name: str) -> None:
    """fullgraph, forward and backward: gradients are finite for several batch sizes, and sizes share their graph.

    The graph is run as it is: a quick form of `compile_inductor`, which makes code of it.
    """
    _compile(name, lambda graph, _: graph.forward)


def compile_inductor(name: str) -> None:
    """The same with inductor's code: what `torch.compile` does by default."""
    _compile(name, torch._inductor.compile)


def export(name: str) -> None:
    """torch.export with a dynamic batch axis; the program draws one-hot rows for another batch size."""
    shapes = {"logits": {0: torch.export.Dim("batch", min=2)}}
    program = torch.export.export(sampler_of(name), (torch.zeros(4, 3),), dynamic_shapes=shapes)
    check_one_hot(program.module()(torch.zeros(9, 3)))


def onnx(name: str) -> None:
    """The dynamo exporter; ONNX Runtime draws one-hot rows, others each time, from the right law."""
    import onnxruntime

    sampler = sampler_of(name).eval()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = str(Path(folder) / "model.onnx")
        batch = torch.export.Dim("batch", min=2)
        with torch.no_grad(), contextlib.redirect_stdout(io.StringIO()):
            shapes = {"logits": {0: batch}}
            program = torch.onnx.export(
                sampler, (torch.zeros(4, 3),), dynamo=True, dynamic_shapes=shapes, verbose=False
            )
            assert program is not None
            program.save(path)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        logits = torch.tensor([0.5, 0.3, 0.2]).log().expand(2000, 3).numpy()
        draws = [torch.from_numpy(session.run(None, {session.get_inputs()[0].name: logits})[0]) for _ in range(2)]
    for x in draws:
        check_one_hot(x)
    assert not torch.equal(*draws), "the same draw twice"
    distance = (draws[0].mean(0) - torch.tensor([0.5, 0.3, 0.2])).abs().sum() / 2
    assert distance < 0.06, f"total variation {distance:.3f} from softmax(logits)"  # .02 by chance; redge adds .003


def vmap(name: str) -> None:
    """vmap(randomness="different"): every row is drawn by itself."""
    estimator = make_estimator(name)
    loss = torch.vmap(lambda row: loss_of(estimator, row), randomness="different")(torch.zeros(200, 4))
    assert name == "exact" or loss.unique().numel() > 1, "every row got the same draw"


def func_grad(name: str) -> None:
    """torch.func.grad equals backward at the same seed."""
    one, two, logits = make_estimator(name), make_estimator(name), torch.randn(6, 4, requires_grad=True)
    wanted = seeded(lambda: torch.autograd.grad(loss_of(one, logits).sum(), logits)[0])
    found = seeded(lambda: torch.func.grad(lambda logits: loss_of(two, logits).sum())(logits.detach()))
    assert torch.allclose(found, wanted, atol=1e-5)


def checkpointing(name: str) -> None:
    """Activation checkpointing: the replayed forward pass gives the plain gradient."""
    one, two, logits = make_estimator(name), make_estimator(name), torch.randn(6, 4, requires_grad=True)

    def gradient(run: Callable[[], Tensor]) -> Tensor:
        return seeded(lambda: torch.autograd.grad(run().sum(), logits)[0])

    wanted = gradient(lambda: loss_of(one, logits))
    found = gradient(lambda: checkpoint(lambda logits: loss_of(two, logits), logits, use_reentrant=False))
    assert torch.equal(found, wanted), "not the plain gradient"


def autocast(name: str) -> None:
    """Under autocast (bfloat16) the layer runs in bfloat16, and the gradient of its weights is finite float32."""
    module = Loss(name)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert module.layer(torch.zeros(2, 3)).dtype == torch.bfloat16
        loss = module(torch.randn(6, 3)).float().sum()
    loss.backward()
    gradient = module.layer.weight.grad
    assert gradient is not None
    assert gradient.dtype == torch.float32
    assert bool(gradient.isfinite().all())


def pickling(name: str) -> None:
    """A pickled module draws what the original draws."""
    module = Loss(name)
    _check_twin(module, pickle.loads(pickle.dumps(module)))


def deepcopy(name: str) -> None:
    """A copied module draws what the original draws."""
    module = Loss(name)
    _check_twin(module, copy.deepcopy(module))


CHECKS: dict[str, Callable[[str], None]] = {
    "compile": compile_inductor,
    "export": export,
    "ONNX": onnx,
    "vmap": vmap,
    "func.grad": func_grad,
    "checkpoint": checkpointing,
    "autocast": autocast,
    "pickle": pickling,
    "deepcopy": deepcopy,
}


def _compile(name: str, backend: Callable) -> None:
    estimator, count, graphs = make_estimator(name), fewest_samples(name), 0
    torch._dynamo.reset()

    def counting(graph, inputs):
        nonlocal graphs
        graphs += 1
        return backend(graph, inputs)

    compiled = torch.compile(lambda logits: loss_of(estimator, logits, count), fullgraph=True, backend=counting)
    for size in (6, 9, 5, 8, 7):
        logits = torch.randn(size, 4)
        torch._dynamo.mark_dynamic(logits, 0)
        _check_gradient(compiled, logits)
    most = 3 if name == "reinforce" else 1  # the two floats of its baseline move
    assert graphs <= most, f"{graphs} graphs for five batch sizes"
    torch._dynamo.reset()


def sampler_of(name: str) -> Sampler:
    if takes_objective(ESTIMATORS[name]):
        raise TypeError(f"{name} takes an objective and gives a loss; export your model instead")
    return Sampler(name)


def _check_gradient(function: Callable[[Tensor], Tensor], logits: Tensor) -> None:
    """Finite, and not zero in all of ten draws: with equal samples in every row RLOO's is (1 draw in 200 of 5 rows)."""
    logits.requires_grad_()
    for _ in range(10):
        (gradient,) = torch.autograd.grad(function(logits).sum(), logits)
        assert bool(gradient.isfinite().all())
        if bool((gradient != 0).any()):
            return
    raise AssertionError("ten gradients in a row are zero")


def check_one_hot(x: Tensor) -> None:
    assert bool(((x == 0) | (x == 1)).all())
    assert bool((x.sum(-1) == 1).all())


def _check_twin(module: torch.nn.Module, twin: torch.nn.Module) -> None:
    features = torch.randn(6, 3)
    assert torch.equal(seeded(lambda: module(features)), seeded(lambda: twin(features)))


def seeded(run: Callable[[], Tensor]) -> Tensor:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return run()
