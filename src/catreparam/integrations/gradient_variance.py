"""How noisy the gradient is while training runs: its variance over repeated draws of the same loss."""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from catreparam.validation import check_count


@dataclass(frozen=True)
class GradientVariance:
    """The spread of one gradient draw.

    Fields:
        variance: total variance: the trace of the covariance, without bias.
        squared_norm: squared norm of the mean gradient, less variance / num_draws: unbiased, it may fall below 0.
        ratio: variance over squared_norm, the noise-to-signal ratio; nan where no signal is left.
        num_draws: gradients that were drawn.
    """

    variance: float
    squared_norm: float
    ratio: float
    num_draws: int


def gradient_variance(
    loss: Callable[[], Tensor], parameters: Iterable[Tensor], *, num_draws: int = 8
) -> GradientVariance:
    """Calls `loss()` `num_draws` times and measures how much its gradient with respect to `parameters` varies.

    What varies is what `loss` draws anew: with the batch fixed, as in a closure over it, this is the estimator's own
    noise; with a closure that takes another batch each time, the noise of the data as well. `.grad` is left alone. The
    draws come from torch's global generator unless the loss passes its own.

    Estimator: sum over entries of the sample variance (division by num_draws - 1).
    Cost:      num_draws forward and backward passes, two copies of the gradient.
    Raises:    ValueError for num_draws < 2, no parameter, or a loss that is not a scalar; TypeError for a loss that is
               not a function.

    >>> logits = torch.zeros(5, requires_grad=True)
    >>> gradient_variance(lambda: (logits * torch.arange(5.0)).sum(), [logits]).variance
    0.0
    """
    _check_loss(loss)
    check_count("num_draws", num_draws, minimum=2)
    wanted = [parameter for parameter in parameters if parameter.requires_grad]
    if not wanted:
        raise ValueError("parameters holds no tensor that requires a gradient")
    mean: list[Tensor] = [torch.zeros_like(parameter, dtype=torch.float64) for parameter in wanted]
    squares = torch.zeros((), dtype=torch.float64, device=wanted[0].device)  # sum of squared distances from the mean
    for count in range(1, num_draws + 1):
        value = loss()
        if value.ndim:
            raise ValueError(f"loss must return a scalar, got shape {tuple(value.shape)}; take its mean")
        gradients = torch.autograd.grad(value, wanted, allow_unused=True) if value.requires_grad else [None]
        if all(gradient is None for gradient in gradients):
            raise ValueError(
                "loss does not depend on the parameters differentiably; is x turned into classes by argmax? Then use a "
                "score-function estimator (rloo) in it"
            )
        for average, gradient in zip(mean, gradients, strict=True):
            if gradient is None:
                gradient = torch.zeros_like(average)
            change = gradient.double() - average  # Welford: one pass, no cancellation
            average += change / count
            squares += (change * (gradient.double() - average)).sum().to(squares.device)
    variance = float(squares) / (num_draws - 1)
    squared_norm = float(sum(average.square().sum().item() for average in mean)) - variance / num_draws
    ratio = variance / squared_norm if squared_norm > 0 else torch.nan
    return GradientVariance(variance, squared_norm, ratio, num_draws)


def _check_loss(loss: object) -> None:
    if not callable(loss):
        raise TypeError(
            f"loss must be a function without arguments, which draws anew in every call, got {type(loss).__name__}; "
            "wrap what computes the loss: lambda: loss_of(batch)"
        )


class log_gradient_variance:
    """A hook for any training loop: every `every`-th call measures `gradient_variance` of a loss and hands it to `log`.

    Between measurements a call costs nothing. The global random state is put back after a measurement (on the CPU), so
    that training goes on as without the hook.

    Parameters:
        parameters: the tensors whose gradient is measured.
        log: is called with {"step", "variance", "squared_norm", "ratio", "num_draws"}: print, list.append, wandb.log, a
            writer.
        every: calls from one measurement to the next.
        num_draws: gradients in a measurement.

    >>> rows, logits = [], torch.zeros(4, requires_grad=True)
    >>> watch = log_gradient_variance([logits], rows.append, every=2, num_draws=3)
    >>> for _ in range(4):
    ...     watch(lambda: logits.square().sum())
    >>> [row["step"] for row in rows]
    [0, 2]
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        log: Callable[[dict[str, float]], object],
        *,
        every: int = 100,
        num_draws: int = 8,
    ) -> None:
        self.parameters, self.log = list(parameters), log
        self.every, self.num_draws = check_count("every", every), check_count("num_draws", num_draws, minimum=2)
        self.num_calls = 0

    def __call__(self, loss: Callable[[], Tensor]) -> None:
        """Counts a training step with this loss closure, and measures it if it is its turn."""
        _check_loss(loss)
        step, self.num_calls = self.num_calls, self.num_calls + 1
        if step % self.every == 0:
            with torch.random.fork_rng(devices=[]), torch.enable_grad():
                measured = gradient_variance(loss, self.parameters, num_draws=self.num_draws)
            self.log({"step": step, **asdict(measured)})
