"""Whole steps, `catreparam bench --steps`: of guidance, beside the loops that one would write; of training a VAE."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from catreparam.estimators import expectation
from catreparam.experiments.bench.samplers import GUMBEL, NUM_STEPS, PEER, T1, find_samplers, peak_bytes
from catreparam.experiments.bench.turns import in_turn, median_and_spread
from catreparam.experiments.runs.estimator_specs import MAIN_ESTIMATORS, build_estimator
from catreparam.experiments.runs.folder import Record
from catreparam.experiments.runs.progress import Progress
from catreparam.guidance import codebook_embed, optimize_logits
from catreparam.models.vae import CategoricalVAE
from catreparam.objectives.elbo import kl_to_uniform_prior, negative_reconstruction
from catreparam.report import Column, Table

LARGE = "1x576x16384"  # small ones hold more of other things than of such tensors
GUIDED = {LARGE: ((1, 576, 16_384), 10), "16x81x9": ((16, 81, 9), 200)}  # shape, steps of a run
QUICK = {"16x81x9": ((16, 81, 9), 20)}
DIMENSIONS = 8  # of a code's vector
TRAINING = "VAE, 48 x 2, batch 200"

COLUMNS = (
    Column("loop", "loop"),
    Column("step", "a step, ms", ".2f", "step_spread"),
    Column("against_peer", "× loop with redge package", ".1f"),
    Column("against_gumbel", "× loop with gumbel_softmax", ".1f"),
    Column("peak", "peak memory, tensors", ".1f"),
)
NOTE = (
    "Medians; ± is half the distance between the quartiles; loops in turn, in shuffled order, in one process. "
    "A guided run: the prior's log_softmax, then steps against a reward on "
    f"{DIMENSIONS}-dimensional code vectors, set-up and result included. The loops beside ours are written with a "
    "sampler, autograd's KL divergence and torch's fused Adam. ×: how many times faster than those. Peak memory: the "
    "most that torch held beyond the prior's logits, in tensors of their size."
)


@dataclass(frozen=True)
class Loop:
    """A run of so many steps."""

    label: str
    run: Callable[[], object]
    num_steps: int


def measure_steps(quick: bool, rounds: int, progress: Progress) -> Table:
    """All loops, timed."""
    groups = {f"guidance, {name}": guidance_loops(*case) for name, case in (QUICK if quick else GUIDED).items()}
    groups[TRAINING] = [Loop(name, training_step(name), 1) for name in MAIN_ESTIMATORS]
    progress.start("steps", total=len(groups))
    rows: list[Record] = []
    for name, loops in groups.items():
        rows += _compare(name, loops, rounds if loops[0].num_steps == 1 else max(rounds // 6, 3))
        progress.advance("steps", name)
    return Table(COLUMNS, rows, NOTE, group="step of")


def guidance_loops(shape: tuple[int, int, int], num_steps: int) -> list[Loop]:
    """Ours, and the loop that one would write, with the samplers that are installed."""
    generator = torch.Generator().manual_seed(0)
    prior, codebook = (torch.randn(size, generator=generator) for size in (shape, (shape[-1], DIMENSIONS)))
    target = torch.randn(shape[1], DIMENSIONS, generator=generator)

    def reward(x: Tensor) -> Tensor:
        return -(codebook_embed(x, codebook) - target).square().mean((1, 2))

    def ours(name: str) -> Callable[[], object]:
        return lambda: optimize_logits(prior, reward, estimator=name, num_steps=num_steps, lr=0.1, generator=generator)

    loops = [Loop(f"ours, {name}", ours(name), num_steps) for name in ("straight_through", "redge")]
    for sampler in find_samplers()[0]:
        if sampler.name in (GUMBEL, PEER) and sampler.device == "cpu":
            run = plain_loop(prior, lambda x: -(x @ codebook - target).square().mean((1, 2)), sampler.draw, num_steps)
            loops.append(Loop(sampler.name, run, num_steps))
    return loops


def plain_loop(
    prior: Tensor, reward: Callable[[Tensor], Tensor], draw: Callable[[Tensor, int], Tensor], num_steps: int
) -> Callable[[], Tensor]:
    """What `optimize_logits` does, as one would write it with a sampler (see `Sampler.draw`)."""

    def run() -> Tensor:
        log_prior = torch.log_softmax(prior, -1)
        tilt = torch.zeros_like(prior).requires_grad_()
        optimizer = torch.optim.Adam([tilt], lr=0.1, fused=True)
        for _ in range(num_steps):
            logits = log_prior + tilt
            log_q = torch.log_softmax(logits, -1)
            divergence = (log_q.exp() * (log_q - log_prior)).sum()
            loss = divergence - reward(draw(logits, NUM_STEPS)).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return (log_prior + tilt).detach()

    return run


def training_step(spec: str) -> Callable[[], None]:
    """One step of Adam on a batch of random binary images."""
    generator = torch.Generator().manual_seed(0)
    images = (torch.rand(200, 28, 28, generator=generator) < 0.2).float()
    model = CategoricalVAE((28, 28), num_latents=48, num_classes=2, generator=generator)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-4, fused=True)
    estimator = build_estimator(f"{spec}:t1={T1},num_steps={NUM_STEPS}" if "redge" in spec else spec)

    def step() -> None:
        logits = model.encode(images)
        objective = negative_reconstruction(model.decode, images)
        loss = expectation(objective, logits, estimator=estimator, generator=generator).mean()
        loss = loss + kl_to_uniform_prior(logits).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def _compare(name: str, loops: list[Loop], rounds: int) -> list[Record]:
    times: dict[str, list[float]] = {loop.label: [] for loop in loops}
    for loop, counted in in_turn(loops, rounds):
        started = time.perf_counter()
        loop.run()
        if counted:
            times[loop.label].append(1e3 * (time.perf_counter() - started) / loop.num_steps)
    medians = {label: median_and_spread(values) for label, values in times.items()}
    rows = []
    for loop in loops:
        step, spread = medians[loop.label]
        keys = {"against_peer": PEER, "against_gumbel": GUMBEL}
        faster = {key: medians[peer][0] / step for key, peer in keys.items() if peer in medians}
        row: Record = {"step of": name, "loop": loop.label, "step": step, "step_spread": spread, **faster}
        if name == f"guidance, {LARGE}":
            elements = torch.Size(GUIDED[LARGE][0]).numel()
            row["peak"] = peak_bytes(loop.run) / (4 * elements)
        rows.append(row)
    return rows
