"""The reverse diffusion in natural coordinates: dz/dlambda = denoise(z, lambda), solved on a grid. The naive twin."""

from collections.abc import Callable
from typing import Any

import torch

from catreparam.categorical import BroadcastRows
from catreparam.noise_schedule import NoiseSchedule
from catreparam.validation import check_choice

State = Any  # rows of torch, or of JAX: the solvers only add and multiply
Denoiser = Callable[[State, float], State]


def denoise(z: BroadcastRows, logits: BroadcastRows, lam: float) -> BroadcastRows:
    """E[x_0 | z] = softmax(logits + lambda z), exact for a one-hot x_0 with prior softmax(logits)."""
    return torch.softmax(logits + lam * z, -1)


def solve(denoiser: Denoiser, z: State, schedule: NoiseSchedule, solver: str) -> State:
    """Carries z along dz/dlambda = denoiser(z, lambda) from the first to the last lambda of the schedule.

    `euler` is DDIM (order 1), `ab2` Adams-Bashforth (order 2, no extra evaluation), `heun` the trapezoid rule
    (order 2, a second evaluation per interval).
    """
    return SOLVERS[check_choice("solver", solver, SOLVERS)](denoiser, z, schedule)


def _euler(denoiser: Denoiser, z: State, schedule: NoiseSchedule) -> State:
    for start, end in schedule.intervals():
        z = z + (end - start) * denoiser(z, start)
    return z


def _ab2(denoiser: Denoiser, z: State, schedule: NoiseSchedule) -> State:
    before, step_before = None, 0.0
    for start, end in schedule.intervals():
        slope, step = denoiser(z, start), end - start
        still = step_before == 0.0
        if before is None or still is True:  # a bool, unless rows have steps of their own
            z = z + step * slope
        else:
            ratio = step / (step_before + 1.0 * still)
            z = z + step * ((1 + ratio / 2) * slope - (ratio / 2) * before)
        before, step_before = slope, step
    return z


def _heun(denoiser: Denoiser, z: State, schedule: NoiseSchedule) -> State:
    for start, end in schedule.intervals():
        step, slope = end - start, denoiser(z, start)
        z = z + (step / 2) * (slope + denoiser(z + step * slope, end))
    return z


SOLVERS: dict[str, Callable[[Denoiser, State, NoiseSchedule], State]] = {"euler": _euler, "ab2": _ab2, "heun": _heun}
