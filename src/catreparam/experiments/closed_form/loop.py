"""One run of Adam on free logits whose true loss is known in closed form, beside the loss that the estimator saw."""

import time
from collections.abc import Callable
from statistics import fmean

import torch
from torch import Tensor

from catreparam.experiments.runs.folder import Record

Say = Callable[[int, float], None]  # step and gap

POINTS = 100  # of a curve


def say_nothing(step: int, gap: float) -> None:
    """For runs that nobody follows."""


def descend(
    logits: Tensor,
    loss_of: Callable[[Tensor], Tensor],
    gap_of: Callable[[Tensor], float],
    *,
    num_steps: int,
    lr: float,
    say: Say,
    near: float = 0.0,
) -> Record:
    """Lowers the sum of `loss_of(logits)`, which an estimator gives a gradient; changes the logits in place.

    Returns true losses above the optimum (`gaps`) at about POINTS `steps`, which are also said; the mean loss as the
    estimator's own samples had it over the last tenth of the steps (`own_loss`); the time of a step (`milliseconds`);
    with `near` also the first step at which the gap is at most `near` times that of the start, None if there is none.
    """
    optimizer = torch.optim.Adam([logits], lr=lr)
    every = max(1, num_steps // POINTS)
    steps, gaps = [0], [gap_of(logits.detach())]
    own_losses: list[float] = []
    reached, seconds = None, 0.0
    for step in range(1, num_steps + 1):
        began = time.perf_counter()
        optimizer.zero_grad()
        loss = loss_of(logits)
        loss.sum().backward()
        optimizer.step()
        seconds += time.perf_counter() - began
        own_losses.append(float(loss.detach().mean()))
        is_point = step % every == 0 or step == num_steps
        if is_point or (near and reached is None):
            gap = gap_of(logits.detach())
            if reached is None and gap <= near * gaps[0]:
                reached = step
            if is_point:
                steps.append(step)
                gaps.append(gap)
                say(step, gap)
    return {
        "steps": steps,
        "gaps": gaps,
        "own_loss": fmean(own_losses[-max(1, num_steps // 10) :]),
        "milliseconds": 1000 * seconds / num_steps,
        **({"steps_to_near": reached} if near else {}),
    }
