"""A schedule and a solver as one list of softmax evaluations with their adjoint: what every fast path runs.

Every solver becomes the same loop. Evaluation j, forward, with p1 and p2 the softmaxes of the last two evaluations:

    z += to_z1 p1 + to_z2 p2;  p = softmax(logits + lambda (z + peek p1))

and backward, from the last but one to the first, with A the gradient with respect to z and B what an earlier one kept of it:

    v = J(p)(from_z A + from_kept B);  gradient += v;  B = keep_z A + keep_step lambda v;  A += lambda v

(`naive.chain` writes the solvers as their papers do; `tests/test_plan.py` holds the two together.)
"""

import functools
from typing import NamedTuple


class Evaluation(NamedTuple):
    """One softmax of the chain, in the order in which the kernels read it."""

    lam: float
    to_z1: float = 0.0
    to_z2: float = 0.0
    peek: float = 0.0
    from_z: float = 0.0
    from_kept: float = 0.0
    keep_z: float = 0.0
    keep_step: float = 0.0


class Interval(NamedTuple):
    """A step of the schedule, as the backward sweep of exact-law ReDGE takes it."""

    start: float
    end: float
    step: float


class Plan(NamedTuple):
    """A chain and the intervals it crosses, noise end first."""

    evaluations: tuple[Evaluation, ...]  # the last one makes the relaxed sample
    intervals: tuple[Interval, ...]


@functools.lru_cache(maxsize=1024)
def plan_of(lambdas: tuple[float, ...], solver: str) -> Plan:
    """The plan of a grid of lambdas and a solver (euler | ab2 | heun)."""
    intervals = tuple(Interval(start, end, end - start) for start, end in zip(lambdas, lambdas[1:], strict=False))
    chain: list[Evaluation] = []
    add1 = add2 = step_before = 0.0  # what the next evaluation adds of the last two softmaxes
    for start, end, step in intervals:
        reached = Evaluation(start, add1, add2)
        if solver == "heun":
            chain.append(reached._replace(from_z=step / 2, from_kept=step / 2))
            chain.append(Evaluation(end, peek=step, from_z=step / 2, keep_step=1.0))
            add1 = add2 = step / 2
        elif solver == "ab2" and step_before > 0:
            ratio = step / step_before
            add1, add2 = step * (1 + ratio / 2), -step * ratio / 2
            chain[-1] = chain[-1]._replace(from_kept=add2)
            chain.append(reached._replace(from_z=add1, keep_z=1.0))
        else:
            add1, add2 = step, 0.0
            chain.append(reached._replace(from_z=step, keep_z=float(solver == "ab2")))
        step_before = step
    return Plan((*chain, Evaluation(lambdas[-1], add1, add2)), intervals)
