"""Score-function estimators: REINFORCE with a baseline, and RLOO with its baseline from the other samples."""

import math
import warnings
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from catreparam.categorical import draw_one_hot, to_rows
from catreparam.estimators.facts import estimator
from catreparam.estimators.joint import (
    Objective,
    add_gradient,
    evaluate,
    joint_log_prob,
    leave_one_out,
)
from catreparam.pending import waits
from catreparam.validation import check_count, check_number, has_values, inside_transform


@dataclass
class MovingAverageBaseline:
    """The running mean of past losses, bias-corrected. Holds state: one per training run.

    A loss that is not finite is left out, with a RuntimeWarning: it would be part of the mean for ever. One that is a
    tensor on a CUDA device stays there, and so does the state: nothing waits but `value`. It is left out silently.

    Parameters:
        decay: weight of the past in the average, in [0, 1).
        total: state: the decayed sum of losses. Leave it out, unless you restore a baseline.
        mass: state: the decayed count of losses. Leave it out likewise.

    >>> baseline = MovingAverageBaseline(decay=0.5)
    >>> baseline.update(4.0); baseline.update(1.0); round(baseline.value, 3)
    2.0
    """

    decay: float = 0.99
    total: float | Tensor = field(default=0.0, repr=False)
    mass: float | Tensor = field(default=0.0, repr=False)

    def __post_init__(self) -> None:
        check_number("decay", self.decay, least=0.0, most=0.999999)

    @property
    def value(self) -> float:
        """The current mean; 0 before the first update."""
        return float(self.level())

    def level(self) -> float | Tensor:
        """The current mean where it lives: a number, or a float64 scalar on a device."""
        if isinstance(self.mass, Tensor):
            return torch.where(self.mass > 0, self.total / self.mass, 0.0)
        return self.total / self.mass if self.mass else 0.0

    def update(self, loss: float | Tensor) -> None:
        """Takes in the mean loss of one call."""
        if isinstance(loss, Tensor):
            total, mass = (_on_device(state, loss.device) for state in (self.total, self.mass))
            finite = loss.isfinite()
            self.total = torch.where(finite, self.decay * total + (1 - self.decay) * loss.double(), total)
            self.mass = torch.where(finite, self.decay * mass + (1 - self.decay), mass)
            return
        if not torch.compiler.is_compiling() and not math.isfinite(loss):
            warnings.warn(f"the baseline leaves out a mean loss of {loss}", RuntimeWarning, stacklevel=2)
            return
        self.total = self.decay * self.total + (1 - self.decay) * loss
        self.mass = self.decay * self.mass + (1 - self.decay)


@estimator(
    "Score function and exact",
    owned={"baseline": MovingAverageBaseline},
    unsupported={
        "checkpoint": "the replay sees the baseline that the first pass has updated: the gradient is unbiased, but not "
        "the plain run's bit for bit. Give a number as `baseline`, or use `rloo`",
    },
    tuned=False,
)
def reinforce(
    objective: Objective,
    logits: Float[Tensor, "*batch num_classes"],
    *,
    baseline: MovingAverageBaseline | float = 0.0,
    num_samples: int = 1,
    mask: Bool[Tensor, "..."] | None = None,
    generator: Generator | None = None,
) -> Float[Tensor, "*losses"]:
    """E[objective(x)] with the score-function gradient (f(x) - baseline) grad log p(x).

    Estimates: grad E[f(x)], x ~ Categorical(softmax(logits)), all variables of a loss jointly.
    Bias:      none, for any f, differentiable or not. The baseline comes from earlier calls only;
               inside torch.func transforms, vmap, torch.jit.trace and make_fx it is used but not updated.
    Cost:      num_samples evaluations of f; no gradient of f with respect to x. High variance.
    Raises:    ValueError for num_samples < 1; TypeError or ValueError for bad input and losses of the wrong shape.

    >>> logits = torch.zeros(4, 3, requires_grad=True)
    >>> reinforce(lambda x: x[..., 0], logits, generator=torch.Generator().manual_seed(0)).shape
    torch.Size([4])

    Reference: Williams 1992, https://doi.org/10.1007/BF00992696.
    """
    check_count("num_samples", num_samples)
    rows = to_rows(logits, mask, generator=generator)
    losses, log_probs = _draw(objective, logits, rows, num_samples, generator)
    moving = isinstance(baseline, MovingAverageBaseline)
    level = baseline.level() if moving else check_number("baseline", baseline, least=-1e30, most=1e30)
    result = add_gradient(losses, (losses.detach() - level) * log_probs).mean(0)
    if moving and losses.numel() and _can_follow(losses):
        mean = losses.detach().mean()
        if torch.compiler.is_compiling():  # where nothing can depend on a value
            mean = torch.where(mean.isfinite(), mean, baseline.level())
        baseline.update(mean if waits(mean.device) else float(mean))
    return result


@estimator(
    "Score function and exact",
    fewest_samples=2,
    tuned=False,
)
def rloo(
    objective: Objective,
    logits: Float[Tensor, "*batch num_classes"],
    *,
    num_samples: int = 2,
    mask: Bool[Tensor, "..."] | None = None,
    generator: Generator | None = None,
) -> Float[Tensor, "*losses"]:
    """E[objective(x)] with REINFORCE whose baseline for each sample is the mean loss of the others.

    Estimates: grad E[f(x)], x ~ Categorical(softmax(logits)), all variables of a loss jointly.
    Bias:      none, for any f, differentiable or not.
    Cost:      num_samples >= 2 evaluations of f; no gradient of f with respect to x.
    Raises:    ValueError for num_samples < 2; TypeError or ValueError for bad input and losses of the wrong shape.

    >>> logits = torch.zeros(4, 3, requires_grad=True)
    >>> rloo(lambda x: x[..., 0], logits, num_samples=4, generator=torch.Generator().manual_seed(0)).shape
    torch.Size([4])

    Reference: Kool et al. 2019, https://openreview.net/forum?id=r1lgTGL5DE.
    """
    if check_count("num_samples", num_samples) < 2:
        raise ValueError(f"rloo needs num_samples of at least 2 for its leave-one-out baseline, got {num_samples}")
    rows = to_rows(logits, mask, generator=generator)
    losses, log_probs = _draw(objective, logits, rows, num_samples, generator)
    advantage = losses.detach() - leave_one_out(losses.detach())
    return add_gradient(losses, advantage * log_probs).mean(0)


def _on_device(state: float | Tensor, device: torch.device) -> Tensor:
    if isinstance(state, Tensor):
        return state.to(device)
    return torch.full((), state, dtype=torch.float64, device=device)  # filled there: a copy would wait


def _can_follow(losses: Tensor) -> bool:
    """Whether the mean of these losses can enter a moving average: torch.compile reads it when it runs."""
    return has_values(losses) or (torch.compiler.is_dynamo_compiling() and not inside_transform())


def _draw(
    objective: Objective, logits: Tensor, rows: Tensor, num_samples: int, generator: Generator | None
) -> tuple[Tensor, Tensor]:
    """Losses and joint log-probabilities of `num_samples` draws, both [num_samples, *losses]."""
    probs = torch.softmax(rows, -1)
    samples = [draw_one_hot(probs, generator) for _ in range(num_samples)]
    losses = [evaluate(objective, x.to(logits.dtype)) for x in samples]
    log_probs = [joint_log_prob(rows, x, loss) for x, loss in zip(samples, losses, strict=True)]
    return torch.stack(losses), torch.stack(log_probs)
