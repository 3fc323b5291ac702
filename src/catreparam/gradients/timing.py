"""Seconds per draw of several estimators, measured in turn so that a drifting machine is fair to all."""

import time
from collections.abc import Callable, Sequence
from statistics import median

import torch
from torch import Tensor

from catreparam.estimators.joint import Objective
from catreparam.gradients.draws import draw_gradients


def seconds_per_draw(
    objective: Objective,
    logits: Tensor,
    estimators: Sequence[Callable[..., Tensor]],
    *,
    num_samples: Sequence[int],
    num_draws: int = 500,
    rounds: int = 7,
    mask: Tensor | None = None,
) -> list[float]:
    """Median over `rounds` of the wall time of forward and backward, per draw, for each estimator.

    One uncounted round first; then the estimators take turns within every round.
    """
    generator = torch.Generator(device=logits.device).manual_seed(0)
    times: list[list[float]] = [[] for _ in estimators]
    for _ in range(rounds + 1):
        for estimator, count, record in zip(estimators, num_samples, times, strict=True):
            started = time.perf_counter()
            draw_gradients(objective, logits, estimator, num_draws, count, mask, generator)
            if logits.device.type == "cuda":
                torch.cuda.synchronize(logits.device)
            record.append((time.perf_counter() - started) / num_draws)
    return [median(record[1:]) for record in times]
