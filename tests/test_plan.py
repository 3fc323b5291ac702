"""The table that every fast path runs is the solver and its adjoint."""

import pytest
import torch

from catreparam.kernels.naive.chain import SOLVERS, denoise, solve
from catreparam.kernels.plan import plan_of
from catreparam.noise_schedule import NoiseSchedule, make_schedule

LAMBDAS = [make_schedule("alpha", steps, 0.5).lambdas for steps in (1, 2, 5)] + [(0.1, 0.5, 0.5, 1.2)]


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("lambdas", LAMBDAS, ids=len)
def test_the_table_of_softmaxes_is_the_solver_and_its_adjoint(solver, lambdas):
    generator = torch.Generator().manual_seed(0)
    logits, noise, upstream = (torch.randn(5, 4, generator=generator, dtype=torch.float64) for _ in range(3))
    logits.requires_grad_()
    schedule = NoiseSchedule(lambdas)
    z = solve(lambda z, lam: denoise(z, logits, lam), noise, schedule, solver)
    wanted = denoise(z, logits, schedule.last)
    chain = plan_of(lambdas, solver).evaluations
    probs = []
    z, one, two = noise, torch.zeros_like(noise), torch.zeros_like(noise)
    for at in chain:
        z = z + at.to_z1 * one + at.to_z2 * two
        one, two = torch.softmax(logits.detach() + at.lam * (z + at.peek * one), -1), one
        probs.append(one)

    def covariance(p, u):
        return p * (u - (p * u).sum(-1, keepdim=True))

    gradient = covariance(probs[-1], upstream)
    adjoint, kept = schedule.last * gradient, 0.0
    for at, p in zip(chain[-2::-1], probs[-2::-1], strict=True):
        v = covariance(p, at.from_z * adjoint + at.from_kept * kept)
        gradient = gradient + v
        adjoint, kept = adjoint + at.lam * v, at.keep_z * adjoint + at.keep_step * at.lam * v
    torch.testing.assert_close(probs[-1], wanted.detach())
    torch.testing.assert_close(gradient, torch.autograd.grad(wanted, logits, upstream)[0])
