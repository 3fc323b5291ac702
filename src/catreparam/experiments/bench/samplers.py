"""The samplers that `catreparam bench` times: ours on every path, installed peers, and the check of their parity."""

import gc
import importlib
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.distributions import OneHotCategoricalStraightThrough as ThroughTorch

from catreparam.estimators import ESTIMATORS
from catreparam.estimators.facts import facts_of
from catreparam.kernels import dispatch
from catreparam.kernels.autograd import attach
from catreparam.kernels.compiled import autograd as compiled_path
from catreparam.kernels.compiled import library, node
from catreparam.kernels.methods import METHODS, Rule
from catreparam.kernels.naive.sampling import naive_surrogate
from catreparam.kernels.settings import Setting
from catreparam.kernels.torch import autograd as torch_path
from catreparam.kernels.triton import autograd as triton_path
from catreparam.kernels.triton import launch

NUM_STEPS, T1 = 4, 0.5
PEER, GUMBEL = "redge package", "torch gumbel_softmax"
TOLERANCE = 1e-4  # of a float32 gradient against the naive twin in float64

_CHAIN = {"num_steps": NUM_STEPS, "t1": T1}
# name -> estimator and its hyperparameters: every estimator with a fast path, and one that averages
OURS: dict[str, tuple[str, dict[str, Any]]] = {
    **{
        name: (name, _CHAIN if "t1" in facts_of(name).hyperparameters else {}) for name in ESTIMATORS if name in METHODS
    },
    "exact_redge, 4 noises": ("exact_redge", {**_CHAIN, "num_noises": 4}),
}


@dataclass(frozen=True)
class Sampler:
    """`draw(logits, num_steps)` returns a sample with a gradient; `path` is the path of ours that it takes, if any.

    `device` is where its logits lie.
    """

    name: str
    draw: Callable[[Tensor, int], Tensor]
    path: str = ""
    device: str = "cpu"

    @property
    def label(self) -> str:
        where = self.path or ("" if self.device == "cpu" else self.device)
        return f"{self.name} ({where})" if where else self.name

    def __call__(self, logits: Tensor, num_steps: int = NUM_STEPS) -> Tensor:
        with self.on_its_path():
            return self.draw(logits, num_steps)

    def on_its_path(self) -> AbstractContextManager[None]:
        """Inside, `draw` takes the sampler's path."""
        return dispatch.using(self.path) if self.path else nullcontext()


def peak_tensors(sampler: Sampler, shape: tuple[int, ...], num_steps: int) -> float:
    """The most memory that a forward and backward pass held beyond its arguments, in tensors of the logits' size.

    What torch allocated, temporaries, sample and gradient included; the kernels' own scratch (a few rows) is not seen.
    """
    logits = torch.randn(shape, device=sampler.device).requires_grad_()
    upstream = torch.randn(shape, device=sampler.device)
    gc.collect()
    if sampler.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        with sampler.on_its_path():
            sampler.draw(logits, num_steps).backward(upstream)
        return (torch.cuda.max_memory_allocated() - before) / (4 * logits.numel())

    def both() -> None:
        with sampler.on_its_path():
            sampler.draw(logits, num_steps).backward(upstream)

    return peak_bytes(both) / (4 * logits.numel())


def peak_bytes(run: Callable[[], object]) -> int:
    """The most that torch held on the CPU at a time of what `run` allocated."""
    library._spare.clear()  # what earlier calls left would not be counted
    if node.MODULE is not None:
        node.MODULE.forget()
    with torch.profiler.profile(profile_memory=True) as profile:
        run()
    held, peak = 0, 0
    events: Any = profile.profiler.kineto_results.events()  # type: ignore[union-attr]
    for event in events:  # in the order in which they happened
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak


def find_samplers() -> tuple[list[Sampler], list[str]]:
    """All samplers that can be timed here, and the names of what is missing."""
    missing: list[str] = []
    samplers = [
        Sampler(GUMBEL, lambda logits, _: torch.nn.functional.gumbel_softmax(logits, hard=True)),
        Sampler(
            "torch OneHotCategoricalStraightThrough",
            lambda logits, _: ThroughTorch(logits=logits, validate_args=False).rsample(),
        ),
    ]
    if (redge := _optional("redge", missing)) is not None:  # its n_steps counts grid points
        samplers.append(Sampler(PEER, lambda logits, steps: redge.redge(logits, n_steps=steps + 1, t_1=T1)))
    if (reinmax := _optional("reinmax", missing)) is not None:
        samplers.append(Sampler("reinmax package", lambda logits, _: reinmax.reinmax(logits, 1.0)[0]))
    if not library.BUILT:
        missing.append("compiled kernels (no C++ compiler at installation)")
    paths = [path for path in dispatch.NAMES if (path != "compiled" or library.BUILT)]
    if why := why_no_triton():
        missing.append(f"the Triton path ({why})")
        paths.remove("triton")
    else:
        samplers += [replace(peer, device="cuda") for peer in samplers if peer.name in (GUMBEL, PEER)]
    for name, (method, options) in OURS.items():
        setting = setting_of(method, options)
        for path in paths:
            device = "cuda" if path == "triton" else "cpu"
            if path == "naive" or not dispatch.PATHS[path].why_not(setting, torch.zeros(2, device=device), 2):
                samplers.append(Sampler(name, _ours(method, options), path, device))
    return samplers, missing


def why_no_triton() -> str:
    """Why the Triton path cannot be timed here; empty if it can."""
    return launch.UNAVAILABLE or ("" if torch.cuda.is_available() else "no CUDA device")


def parity_error(sampler: Sampler) -> float:
    """The largest difference of a gradient from the naive twin's, noise and sample given; 0 for twin and peers."""
    if sampler.path in ("", "naive"):
        return 0.0
    setting = setting_of(*OURS[sampler.name])
    return max(_difference(setting, sampler.path, num_classes) for num_classes in (2, 9, 32, 100, 600))


def _difference(setting: Setting, path: str, num_classes: int) -> float:
    generator = torch.Generator().manual_seed(num_classes)
    logits, upstream = torch.randn(2, 40, num_classes, generator=generator)
    noises = torch.randn(setting.num_noises, 40, num_classes, generator=generator)
    noise = noises if setting.method.rule == Rule.SWEEP else noises[0]
    index = torch.randint(num_classes, (40,), generator=generator)
    x = torch.nn.functional.one_hot(index, num_classes).float()
    given_noise = noise if setting.method.needs_noise else None
    given_x = x if setting.method.needs_sample else None
    exact = logits.double().requires_grad_()
    doubled = (None if given is None else given.double() for given in (given_noise, given_x))
    (wanted,) = torch.autograd.grad(naive_surrogate(setting, exact, *doubled), exact, upstream.double())
    if path == "torch":
        leaf = logits.requires_grad_()
        value = torch_path.surrogate(setting, leaf, noise=given_noise, x=given_x)
    else:
        passes, device = (triton_path.PASSES, "cuda") if path == "triton" else (compiled_path.PASSES, "cpu")
        leaf, noise, x = logits.to(device).detach().requires_grad_(), noise.to(device), x.to(device)
        value = attach(passes, setting, leaf, torch.zeros((), dtype=torch.int64, device=device), noise, x)
    (found,) = torch.autograd.grad(value, leaf, upstream.to(leaf.device))
    return float((found.cpu() - wanted).abs().max())


def setting_of(name: str, options: dict[str, Any]) -> Setting:
    """What the estimator hands to the paths."""
    seen: list[Setting] = []
    before, dispatch.sample = dispatch.sample, lambda *arguments: seen.append(arguments[-1])
    try:
        ESTIMATORS[name](torch.zeros(1, 2), **options)
    finally:
        dispatch.sample = before
    return seen[0]


def _ours(method: str, options: dict[str, Any]) -> Callable[[Tensor, int], Tensor]:
    function = ESTIMATORS[method]
    if "num_steps" not in options:
        return lambda logits, _: function(logits, **options)
    return lambda logits, num_steps: function(logits, **{**options, "num_steps": num_steps})


def _optional(name: str, missing: list[str]) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        missing.append(f"the package {name}")
        return None
