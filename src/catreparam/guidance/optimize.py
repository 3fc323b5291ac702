"""Optimise the logits of a factorised distribution against a reward and the KL divergence to a prior."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor

from catreparam.arguments import hands_on
from catreparam.categorical import finite
from catreparam.estimators import fewest_samples
from catreparam.estimators.expectation import expectation
from catreparam.guidance.inference_mode import with_gradients
from catreparam.guidance.problem import Problem
from catreparam.guidance.rewards import Reward
from catreparam.guidance.stopping import Annealed, EarlyStop, Stopper, asks_to_stop
from catreparam.guidance.trace import Evaluations, Trace
from catreparam.validation import check_count, check_flag, check_generator, check_logits, check_number, check_rows


@dataclass(frozen=True)
class Divergence:
    """KL(q || prior) and entropy of q [*batch] in nats, and the gradient of the KL in q's logits [*batch, V]."""

    kl: Tensor
    entropy: Tensor
    gradient: Tensor


def divergence(logits: Float[Tensor, "*batch V"], log_prior: Float[Tensor, "*batch V"]) -> Divergence:
    """Divergence of q = softmax(logits) from the prior, whose impossible tokens (-inf) must be impossible in q too.

    The gradient is q * (log q - log prior - KL), zero at impossible tokens (no 0 * inf).
    """
    log_q = log_softmax(logits)
    q = log_q.exp()
    ratio = finite(log_q)
    entropy = -(q * ratio).sum(-1)
    ratio = ratio.sub_(finite(log_prior))
    kl = (q * ratio).sum(-1)
    gradient = q.mul_(ratio.sub_(kl.unsqueeze(-1)))
    return Divergence(kl, entropy, gradient)


def log_softmax(logits: Float[Tensor, "*batch V"]) -> Float[Tensor, "*batch V"]:
    """torch.log_softmax over the last axis, without gradient; few classes are laid out first: much faster on CPUs."""
    if logits.shape[-1] > 32:
        return torch.log_softmax(logits, -1)
    return torch.log_softmax(logits.movedim(-1, 0).contiguous(), 0).movedim(0, -1)


Schedule = float | Callable[[float], float]  # a number, or a function of the part of the steps done, in [0, 1)


@dataclass(frozen=True, eq=False)
class Optimization:
    """How logits are optimised: the settings of `optimize_logits`, which explains them, checked once for all rounds."""

    estimator: str | Callable[..., Tensor] | Annealed
    num_steps: int = 20
    lr: Schedule = 0.5
    kl_weight: float = 1.0
    num_samples: int | None = None
    forgetting: float = 0.0
    max_grad_norm: float | None = None
    early_stop: EarlyStop | None = None

    def __post_init__(self) -> None:
        check_count("num_steps", self.num_steps, 0)
        if self.num_samples is None and not isinstance(self.estimator, Annealed):  # else every step decides
            object.__setattr__(self, "num_samples", fewest_samples(self.estimator))
        if self.num_samples is not None:
            check_count("num_samples", self.num_samples)
        check_number("kl_weight", self.kl_weight, least=0.0)
        check_number("forgetting", self.forgetting, least=0.0, most=1.0)
        if self.max_grad_norm is not None:
            check_number("max_grad_norm", self.max_grad_norm, above=0.0)
        self.lr_at(0.0)

    def lr_at(self, progress: float) -> float:
        """The learning rate after this part of the steps."""
        return check_number("lr", self.lr(progress) if callable(self.lr) else self.lr, above=0.0)

    def estimator_at(self, progress: float) -> str | Callable[..., Tensor]:
        """The estimator after this part of the steps."""
        return self.estimator.at(progress) if isinstance(self.estimator, Annealed) else self.estimator


@dataclass(frozen=True)
class StepInfo:
    """What a callback sees after the gradient of one step, before the update.

    Fields:
        step: which one, from 0.
        reward: [B], mean over the step's samples.
        kl: [B], KL from the prior, summed over positions.
        entropy: [B], summed over positions.
        gradient_norm: [B], norm of the gradient, before clipping.
        logits: a function without arguments that returns the present logits [B, L, V].
    """

    step: int
    reward: Tensor
    kl: Tensor
    entropy: Tensor
    gradient_norm: Tensor
    logits: Callable[[], Tensor]


@dataclass(frozen=True)
class OptimizedLogits:
    """What `optimize_logits` found.

    Fields:
        logits: [B, L, V], the optimised ones.
        tilt: [B, L, V], logits - log prior, finite: a `warm_start` for later.
        trace: numbers of every step.
        evaluations: what it cost a sequence.
        best_tokens: [B, L], the best hard sample that the optimisation evaluated; None without track_best.
        best_reward: [B], its reward; None likewise.
    """

    logits: Tensor
    tilt: Tensor
    trace: Trace
    evaluations: Evaluations
    best_tokens: Tensor | None = None
    best_reward: Tensor | None = None


@with_gradients
@hands_on
def optimize_logits(
    prior_logits: Float[Tensor, "B L V"],
    reward: Reward,
    *,
    estimator: str | Callable[..., Tensor] | Annealed,
    num_steps: int = 20,
    lr: Schedule = 0.5,
    kl_weight: float = 1.0,
    num_samples: int | None = None,
    tokens: Int[Tensor, "B L"] | None = None,
    frozen: Bool[Tensor, "B L"] | None = None,
    warm_start: Float[Tensor, "B L V"] | None = None,
    forgetting: float = 0.0,
    max_grad_norm: float | None = None,
    early_stop: EarlyStop | None = None,
    track_best: bool = False,
    callback: Callable[[StepInfo], Any] | None = None,
    generator: Generator | None = None,
) -> OptimizedLogits:
    """Minimises E_q[-reward(x)] + kl_weight * KL(q || prior), q = softmax(logits), by Adam on the logits.

    The logits start at the prior's plus (1 - forgetting) * `warm_start`, the tilt of an earlier call. The gradient of
    the expectation is the estimator's (a name, a made estimator, a function as `catreparam.expectation` takes it, or
    `Annealed`), from `num_samples` draws a step (None: the least that it takes); that of the KL is exact. Tokens that
    the prior forbids (-inf) stay impossible.

    `frozen` positions (True) hold their entry of `tokens`; they cost nothing. `tokens` alone freezes every position
    whose entry lies in [0, V) (in a vocabulary with the mask token inside, give `frozen` too). `max_grad_norm` clips
    the gradient of every sequence. `lr` may be a function of the part of the steps done. `callback(info)` stops the
    loop by returning True.

    Cost:   per step num_samples evaluations of the reward (and gradients), about ten passes over [B, L, V]. A CUDA
            device is waited for once, at the end; in every step with `early_stop`, or a callback that reads values.
    Raises: ValueError or TypeError for bad shapes and settings, naming the value; for a NaN or infinite reward or
            gradient, naming the step; BlackBoxError when the estimator differentiates a BlackBoxReward.

    >>> prior = torch.zeros(1, 2, 3)
    >>> found = optimize_logits(prior, lambda x: 4 * x[..., 0].sum(-1), estimator="straight_through", num_steps=50)
    >>> bool((found.logits.softmax(-1)[..., 0] > 0.9).all())
    True
    """
    settings = Optimization(estimator, num_steps, lr, kl_weight, num_samples, forgetting, max_grad_norm, early_stop)
    check_logits(prior_logits)
    if prior_logits.ndim != 3:
        raise ValueError(f"prior_logits must have shape [B, L, vocab_size], got {tuple(prior_logits.shape)}")
    check_rows(prior_logits)
    check_generator(generator, prior_logits.device)
    problem = Problem.of(prior_logits.detach(), reward, tokens, frozen, track_best=check_flag("track_best", track_best))
    return optimize(problem, settings, warm_start=warm_start, callback=callback, generator=generator)


def optimize(
    problem: Problem,
    settings: Optimization,
    *,
    warm_start: Float[Tensor, "B L V"] | None = None,
    callback: Callable[[StepInfo], Any] | None = None,
    generator: Generator | None = None,
) -> OptimizedLogits:
    """The loop of `optimize_logits`."""
    tilt = problem.initial_tilt(warm_start, settings.forgetting)
    adam = torch.optim.Adam([tilt])  # its learning rate is set in every step
    numbers, stopper = list[Tensor](), Stopper(settings.early_stop)
    for step in range(settings.num_steps if problem.log_prior.numel() else 0):
        adam.param_groups[0]["lr"] = settings.lr_at(step / settings.num_steps)
        tilt.grad, info = _gradient(problem, settings, tilt, step, generator)
        numbers.append(torch.stack([info.reward, info.kl, info.entropy, info.gradient_norm]).double().mean(-1))
        stop = callback is not None and asks_to_stop(callback(info))
        stop = stopper.update(info.reward, info.kl * settings.kl_weight) or stop
        adam.step()
        tilt.grad = None  # as large as the logits
        if stop:
            break
    problem.check_finite()
    tilt, trace = tilt.detach(), _trace_of(numbers)
    return OptimizedLogits(
        problem.full_logits(tilt), problem.full_tilt(tilt), trace, problem.evaluations, *problem.best()
    )


def _trace_of(numbers: list[Tensor]) -> Trace:
    """The trace of the steps' numbers [4], read back at once."""
    rows = torch.stack(numbers).tolist() if numbers else []
    keys = ("reward", "kl", "entropy", "gradient_norm")
    return Trace([{"step": step, **dict(zip(keys, row, strict=True))} for step, row in enumerate(rows)])


def _gradient(
    problem: Problem, settings: Optimization, tilt: Tensor, step: int, generator: Generator | None
) -> tuple[Tensor, StepInfo]:
    """The (clipped) gradient of the objective in the tilt [B, M, V], and what the step saw."""
    with torch.enable_grad():
        logits = problem.log_prior + tilt
        loss = expectation(
            problem.loss,
            logits,
            estimator=settings.estimator_at(step / settings.num_steps),
            num_samples=settings.num_samples,
            generator=generator,
        )
        gradient = problem.gradient(loss, tilt, step)
    apart = divergence(logits.detach(), problem.log_prior)
    gradient.add_(apart.gradient, alpha=settings.kl_weight)
    if problem.active is not None:
        gradient.mul_(problem.active)
    norm = torch.linalg.vector_norm(gradient, dim=(1, 2))
    if (max_grad_norm := settings.max_grad_norm) is not None:
        gradient.mul_((max_grad_norm / norm.clamp_min(max_grad_norm)).reshape(-1, 1, 1))
    return gradient, StepInfo(
        step, -loss.detach(), apart.kl.sum(-1), apart.entropy.sum(-1), norm, lambda: problem.full_logits(tilt)
    )
