"""How z at lambda_1 moves with the logits when the hard sample is drawn first: two ways, as linear maps. Naive twins.

Given x ~ Categorical(p), z(lambda_1) is N(lambda_1 x, I). Both functions take such a z and a `tangent`, a change of the
logits, and return the change of z at fixed noise. All coefficients are constants: the maps are linear in the tangent,
and their ordinary gradient is the pathwise part of the estimator.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from catreparam.categorical import BroadcastRows, covariance_product
from catreparam.kernels.naive.chain import Denoiser, State, denoise
from catreparam.noise_schedule import NoiseSchedule


def sweep_tangent(
    logits: BroadcastRows, z: BroadcastRows, tangent: BroadcastRows, schedule: NoiseSchedule
) -> BroadcastRows:
    """Along the diffusion ODE: sweep z back to lambda_0 by Heun steps, then carry the tangent forward again.

    Second-order accurate in the spacing of the schedule. The backward pass of the returned tensor is the adjoint sweep.
    """
    constant = logits.detach()
    return sweep(lambda z, lam: denoise(z, constant, lam), covariance_product, z.detach(), tangent, schedule)


def sweep(
    denoiser: Denoiser, covariance: Callable[[State, State], State], z: State, tangent: State, schedule: NoiseSchedule
) -> State:
    """`sweep_tangent` for rows of torch or of JAX; z and the denoiser are constants."""
    nodes: list[tuple[float, float, State, State]] = []  # noise end first once reversed
    for start, end in reversed(list(schedule.intervals())):
        step, upper = end - start, denoiser(z, end)
        predicted = denoiser(z - step * upper, start)
        z = z - (step / 2) * (upper + predicted)
        nodes.append((start, end, denoiser(z, start), upper))
    moved = 0.0 * z
    for start, end, lower, upper in reversed(nodes):
        step = end - start
        slope = covariance(lower, tangent + start * moved)
        slope_end = covariance(upper, tangent + end * (moved + step * slope))
        moved = moved + (step / 2) * (slope + slope_end)
    return moved


def transport_tangent(
    logits: BroadcastRows, z: BroadcastRows, tangent: BroadcastRows, lam: float | Tensor
) -> BroadcastRows:
    """Along straight paths from m = softmax(logits) to each vertex: exact, closed form, no steps.

    z has density q = sum_k p_k N(z; lambda e_k, I). Moving mass along the segment from lambda m to lambda e_k at the
    rate at which p_k changes solves div(q v) = -dq; the flow through z is the line integral of the Gaussian over the
    segment.
    """
    if not isinstance(lam, Tensor) and lam == 0.0:
        return 0.0 * tangent
    probs = torch.softmax(logits.detach(), -1)
    flow = _segment_flow(logits.detach().double(), z.detach().double(), lam).to(z.dtype)
    mass = flow * (tangent - (probs * tangent).sum(-1, keepdim=True))
    return lam * (mass - probs * mass.sum(-1, keepdim=True))


def _segment_flow(logits: Tensor, z: Tensor, lam: float | Tensor) -> Tensor:
    """p_k integral_0^1 exp(-|z - lambda (p + s (e_k - p))|^2 / 2) ds / sum_j p_j exp(-|z - lambda e_j|^2 / 2)."""
    m = torch.softmax(logits, -1)
    y = z - lam * m
    along = lam * (y - (m * y).sum(-1, keepdim=True))  # B_k = <y, lambda (e_k - m)>
    length2 = lam**2 * (1 - 2 * m + (m * m).sum(-1, keepdim=True)).clamp_min(0.0)  # C_k = |lambda (e_k - m)|^2
    start2 = (y * y).sum(-1, keepdim=True)  # A = |y|^2: squared distance to the start of the segment
    end2 = start2 - 2 * along + length2  # |z - lambda e_k|^2
    log_probs = torch.log_softmax(logits, -1)
    log_mixture = torch.logsumexp(log_probs - end2 / 2, -1, keepdim=True)
    return (log_probs + _log_segment_integral(along, length2, start2) - log_mixture).exp()


def _log_segment_integral(along: Tensor, length2: Tensor, start2: Tensor) -> Tensor:
    """log of integral_0^1 exp(-(A - 2 s B + s^2 C) / 2) ds, stable for any position of the foot s = B / C."""
    short = length2 < 1e-4
    safe = length2.masked_fill(short, 1.0)
    root = (2 * safe).sqrt()
    a, b = (safe - along) / root, along / root
    gap = (safe / 2 - along).abs()  # |a^2 - b^2|
    far_a, far_b = torch.special.erfcx(a.abs()), torch.special.erfcx(b.abs())
    before = far_b - (-gap).exp() * far_a  # foot before the segment: measured from its start
    behind = far_a - (-gap).exp() * far_b  # foot behind it: measured from its end
    inside = torch.erf(a) + torch.erf(b)
    mass = torch.where(along < 0, before, torch.where(along > safe, behind, inside)).clamp_min(1e-300)
    peak = torch.where(along < 0, 0.0, torch.where(along > safe, along - safe / 2, b * b))
    long_log = peak - start2 / 2 + mass.log() + 0.5 * math.log(math.pi / 2) - safe.log() / 2
    # Short segments: the integrand is nearly exponential in s; Simpson's rule in logs.
    nodes = torch.stack([torch.zeros_like(along), along / 2 - length2 / 8 + math.log(4.0), along - length2 / 2])
    short_log = torch.logsumexp(nodes, 0) - math.log(6.0) - start2 / 2
    return torch.where(short, short_log, long_log)
