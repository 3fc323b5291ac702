"""Kernels against their naive twins on random calls: python scripts/fuzz_kernels.py --calls 20000 --seed 0.

A call is determined by the seed and its number alone: `--first 17 --calls 1` repeats number 17, and a run goes on where
another ended. Paths: compiled (every instruction set of this processor) and torch; with TRITON_INTERPRET=1 also
`--paths triton`. Noise and hard sample are given; the truth is the twin in float64.

The tolerance of a row is 1e-5 (times its largest upstream value, and `amplification`), plus CONDITION times what the
truth moves by when logits and noise move by one float32 rounding, the largest of PROBES tries; for 16-bit output its
rounding too. So a mismatch is an error that the conditioning of the problem does not explain. Exit status 1 if there is
any.
"""

import argparse
import random
import sys
from collections import Counter
from typing import Any, NamedTuple

import torch
from torch import Tensor

import catreparam
from catreparam.categorical import centred
from catreparam.kernels.compiled import library
from catreparam.kernels.methods import METHODS, Rule
from catreparam.kernels.naive.sampling import naive_surrogate
from catreparam.kernels.settings import Setting
from catreparam.kernels.torch import autograd as torch_path
from catreparam.kernels.torch.adjoints import ADJOINTS
from catreparam.kernels.triton import launch
from catreparam.noise_schedule import make_schedule

CONDITION = 30.0  # roundings of a chain add up, and are its own, not those of its input
PROBES = 6
SETS = [name for name in ("generic", "avx2", "avx512") if library.BUILT and library.choose_instruction_set(name)]
NAMES = [name for name in catreparam.ESTIMATORS if name in METHODS and METHODS[name].rule is not None]
HALF = (torch.bfloat16, torch.float16)


class Problem(NamedTuple):
    """One call: logits and upstream gradient [rows, num_classes] in its dtype, noise and hard sample in float32."""

    path: str
    instructions: str
    setting: Setting
    logits: Tensor
    noise: Tensor
    x: Tensor
    upstream: Tensor

    def __str__(self) -> str:
        kind = f"{self.path} {self.instructions}".strip()
        return f"{kind} {self.setting} {tuple(self.logits.shape)} {self.logits.dtype}"


def make_problem(seed: int, number: int, paths: list[str]) -> Problem:
    """Call number `number` of a seed."""
    pick = random.Random(f"{seed} {number}")
    generator = torch.Generator().manual_seed(pick.randrange(2**62))
    path = pick.choice(paths)
    setting = _make_setting(pick, path)
    sizes = (1, 2, 2, 3, 4, 5, 7, 10, 11, 16, 17, 18, 33, 64, 128, 129, 130, 257, 512, 1031)
    num_classes = pick.choice(sizes[:12] if path == "triton" else sizes)
    rows = pick.choice((1, 2, 3, 7, 16, 33)) if num_classes < 129 else pick.choice((1, 2, 3))
    dtype = pick.choice((torch.float32, torch.float32, *(HALF if path != "torch" else (torch.float32,))))
    logits = _make_logits(pick, generator, rows, num_classes, dtype)
    x = torch.softmax(logits.double(), -1).multinomial(1, generator=generator)[:, 0]
    shape = (setting.num_noises, rows, num_classes) if setting.num_noises > 1 else (rows, num_classes)
    noise = torch.randn(shape, generator=generator)
    if setting.method.rule == Rule.GUMBEL:
        noise = -torch.empty(shape).exponential_(generator=generator).clamp_min(1e-30).log()
    upstream = torch.randn(rows, num_classes, generator=generator).to(dtype)
    one_hot = torch.nn.functional.one_hot(x, num_classes).float()
    instructions = pick.choice(SETS) if path == "compiled" else ""
    return Problem(path, instructions, setting, logits, noise, one_hot, upstream)


def _make_setting(pick: random.Random, path: str) -> Setting:
    method = METHODS[pick.choice([name for name in NAMES if path != "torch" or METHODS[name].rule in ADJOINTS])]
    given: dict[str, Any] = {}
    steps = pick.choice((1, 2, 3, 4, 5, 8))
    grid, t1 = pick.choice(("alpha", "lambda", "quadratic")), pick.choice((0.1, 0.3, 0.5, 0.9, 1.0))
    lambdas = make_schedule(grid, steps, t1).lambdas
    if method.rule in (Rule.CHAIN, Rule.MATCHED):
        given = {"lambdas": lambdas, "solver": pick.choice(("euler", "ab2", "heun")), "hard": False}
        given["weight"] = float(method.needs_sample)
    elif method.rule == Rule.SWEEP:
        hard = pick.random() < 0.8
        weight = pick.choice((0.0, 0.75, 1.0, 2.0)) if hard else 0.0
        given = {"lambdas": lambdas, "num_noises": pick.choice((1, 2, 3, 4)), "hard": hard, "weight": weight}
    elif method.rule == Rule.GUMBEL:
        given = {"hard": pick.random() < 0.5, "temperature": pick.choice((0.1, 0.5, 1.0, 2.0))}
    elif "temperature" in method.takes:
        given = {"weight": 1.0, "temperature": pick.choice((1.0, 1.3, 0.7))}
    elif method.needs_sample:
        given = {"weight": pick.choice((0.25, 0.75, 2.0))}
    return Setting(method, **given)


def _make_logits(
    pick: random.Random, generator: torch.Generator, rows: int, num_classes: int, dtype: torch.dtype
) -> Tensor:
    logits = torch.randn(rows, num_classes, generator=generator) * pick.choice((0.0, 0.3, 2.0, 2.0, 10.0, 60.0))
    kind = pick.choice(("plain", "plain", "masked", "least", "shifted", "extreme"))
    forbidden = torch.rand(rows, num_classes, generator=generator) < 0.2
    forbidden[:, pick.randrange(num_classes)] = False
    if kind == "masked":
        logits = logits.masked_fill(forbidden, -torch.inf)
    elif kind == "least":
        logits = logits.masked_fill(forbidden, torch.finfo(dtype).min)
    elif kind == "shifted":
        logits += pick.choice((-300.0, 1000.0))
    elif kind == "extreme" and dtype != torch.float16:
        size = pick.choice((1e9, 1e30, 3e38))
        logits = torch.randint(-1, 2, logits.shape, generator=generator) * size
    return logits.to(dtype)


def twin(problem: Problem, probe: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """Value and gradient in float64; `probe` moves logits and noise by one rounding of float32."""
    rows, noise = centred(problem.logits.double()), problem.noise.double()
    if probe is not None:
        rows = rows * _rounded(rows, probe) + (_rounded(rows, probe) - 1)
        noise = noise * _rounded(noise, probe)
    rows.requires_grad_()
    surrogate = naive_surrogate(problem.setting, rows, noise, problem.x.double())
    return surrogate.detach(), torch.autograd.grad(surrogate, rows, problem.upstream.double())[0]


def _rounded(like: Tensor, probe: torch.Generator) -> Tensor:
    return 1 + 2.0**-23 * (2 * torch.rand(like.shape, generator=probe, dtype=torch.float64) - 1)


def run(problem: Problem) -> tuple[Tensor, Tensor]:
    """Value and gradient by the kernels."""
    setting, logits, noise, x = problem.setting, problem.logits, problem.noise, problem.x
    if problem.path == "compiled":
        library.choose_instruction_set(problem.instructions)
        kept = library.room_to_keep(setting, logits) if len(logits) % 2 else None
        value, _ = library.forward(setting, logits, 0, noise, x, kept)
        return value, library.backward(setting, logits, problem.upstream, 0, noise, x, kept)
    if problem.path == "triton":
        seed = torch.tensor(0)
        value = launch.forward(setting, logits, seed, noise, x)
        return value, launch.backward(setting, logits, problem.upstream, seed, noise, x)
    leaf = logits.clone().requires_grad_()
    value = torch_path.surrogate(setting, centred(leaf), noise=noise if setting.method.needs_noise else None, x=x)
    value.backward(problem.upstream)
    assert leaf.grad is not None
    return value.detach(), leaf.grad


def error_of(problem: Problem) -> float:
    """The largest error over its tolerance, above 1 a mismatch; infinite if something is not finite that should be."""
    value, gradient = run(problem)
    wanted, wanted_gradient = twin(problem)
    probe = torch.Generator().manual_seed(0)
    moved = [twin(problem, probe) for _ in range(PROBES)]
    unit = amplification(problem.setting) * problem.upstream.double().abs().amax(-1, keepdim=True).clamp_min(1.0)
    worst = _excess(gradient, wanted_gradient, [found for _, found in moved], unit)
    rule, hard = problem.setting.method.rule, problem.setting.hard
    if rule == Rule.GUMBEL and hard:
        return max(worst, _gumbel_excess(problem, value))
    if hard:  # the sample that was given; the torch path returns the twin's value instead
        return worst if problem.path == "torch" else max(worst, float((value.double() != problem.x).any()) * torch.inf)
    return max(worst, _excess(value, wanted, [found for found, _ in moved], torch.ones_like(unit)))


def amplification(setting: Setting) -> float:
    """What becomes of one rounding of J(p) u, which cancels where p is one-hot, on its way through the chain.

    It meets lambda times a step, up to lambda^2 in all: at t1 = 0.1 that is 81, and the twin in float32 errs as much.
    In the covariance-matched chain it meets lambda z - lambda^2 / 2 times 1 / v^2, up to 100: 1e-7 becomes 1e-5 of it.
    """
    lam = setting.lambdas[-1]
    return 1.0 + lam * (lam / 2 + 4) if setting.method.rule == Rule.MATCHED else 1.0 + lam**2 / 10


def _excess(found: Tensor, wanted: Tensor, moved: list[Tensor], unit: Tensor) -> float:
    spread = torch.stack([(other - wanted).abs().amax(-1, keepdim=True) for other in moved]).amax(0)
    tolerance = 1e-5 * unit + CONDITION * spread
    if found.dtype in HALF:
        tolerance = tolerance + torch.finfo(found.dtype).eps * wanted.abs() + torch.finfo(found.dtype).smallest_normal
        wanted = wanted.clamp(-torch.finfo(found.dtype).max, torch.finfo(found.dtype).max)
    excess = (found.double() - wanted).abs() / tolerance
    return float(excess.nan_to_num(torch.inf, torch.inf).max())


def _gumbel_excess(problem: Problem, value: Tensor) -> float:
    """How far below the best score the winner stands, over its rounding."""
    score = centred(problem.logits.double()) + problem.noise.double()
    won = (value.double() * score.clamp_min(-1e300)).sum(-1)
    if not torch.equal(value.double().sum(-1), torch.ones(len(value), dtype=torch.float64)):
        return torch.inf
    return float(((score.amax(-1) - won) / (1e-5 * (1 + won.abs()))).max())


def fuzz(seed: int, first: int, calls: int, paths: list[str]) -> tuple[Counter[str], list[str]]:
    """Calls by path and method, and a line for every mismatch."""
    counts: Counter[str] = Counter()
    mismatches = []
    try:
        for number in range(first, first + calls):
            problem = make_problem(seed, number, paths)
            counts[f"{problem.path} {problem.setting.method}"] += 1
            error = error_of(problem)
            if not error <= 1.0:
                mismatches.append(f"{number}: {error:.3g} times the tolerance, {problem}")
            if sys.stderr.isatty():
                print(f"\r{number + 1 - first}/{calls}, {len(mismatches)} mismatches", end="", file=sys.stderr)
    finally:
        if SETS:
            library.choose_instruction_set("")
    return counts, mismatches


def main(arguments: list[str] | None = None) -> int:
    """Prints counts and mismatches."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first call")
    parser.add_argument("--calls", type=int, default=20_000)
    default = ["compiled", "torch"] if SETS else ["torch"]
    parser.add_argument("--paths", nargs="+", default=default, choices=["compiled", "torch", "triton"])
    given: Any = parser.parse_args(arguments)
    torch.set_num_threads(1)
    counts, mismatches = fuzz(given.seed, given.first, given.calls, given.paths)
    for kind, count in sorted(counts.items()):
        print(f"{kind}: {count}")
    for line in mismatches:
        print(line)
    print(f"{sum(counts.values())} calls, {len(mismatches)} mismatches")
    return 1 if mismatches else 0


if __name__ == "__main__":
    sys.exit(main())
