"""Feynman-Kac steering: particles weighted by the growth of their reward, and resampled."""

import math
from collections.abc import Callable, Collection
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from catreparam.guidance.rewards import Reward
from catreparam.guidance.trace import Evaluations, Generation, Trace, reward_of, selection_scores
from catreparam.masked_diffusion import Condition, Denoiser, ReverseProcess, Unmasking
from catreparam.masked_diffusion.orders import Order
from catreparam.validation import check_choice, check_count, check_number


def smc(
    denoiser: Denoiser,
    reward: Reward,
    tokens: Int[Tensor, "B L"],
    *,
    num_particles: int,
    reward_weight: float = 1.0,
    ess_threshold: float = 0.5,
    select: str = "best",
    num_rounds: int = 20,
    schedule: str = "linear",
    order: str | Tensor | Order = "ancestral",
    remask_sigma: float = 0.0,
    block_size: int | None = None,
    threshold: float | None = None,
    end_token: int | None = None,
    pad_token: int | None = None,
    condition: Condition | None = None,
    per_sequence: Collection[str] | None = None,
    temperature: float = 1.0,
    chunk_size: int | None = None,
    progress: Callable[[int, int], Any] | None = None,
    generator: Generator | None = None,
) -> Generation:
    """Sequential Monte Carlo towards the prior tilted by exp(reward_weight * reward), `num_particles` a sequence.

    In every round each particle draws a clean sequence, of which the step reveals a part; its weight gains
    reward_weight * (reward of this clean sequence - that of the round before), so that after the last round a particle
    has exp(reward_weight * reward) in all. When the effective number falls below ess_threshold * num_particles,
    particles are resampled (systematically, per sequence). As num_particles grows, select="draw" (by weight) follows
    the tilted law of the sampler; select="best" returns the particle of the highest reward, as published.

    `per_sequence` names the condition's entries with a row for each sequence, which are repeated for the particles;
    needed where an entry's size leaves it open. kl is None: no exact figure is known. The reward may be a black box.
    Model and reward see `chunk_size` particles at a time (of all sequences together; None: all at once), which bounds
    the memory: tokens are small, logits are not.
    Cost:   num_particles * num_rounds evaluations of the model and of the reward.
    Raises: as `sample`; ValueError for bad settings and a reward that is not finite.

    Reference: Singhal et al. 2025 (Feynman-Kac steering, "difference" potentials), https://arxiv.org/abs/2501.06848.
    """
    count = check_count("num_particles", num_particles)
    weight = check_number("reward_weight", reward_weight, least=0.0)
    least = check_number("ess_threshold", ess_threshold, least=0.0, most=1.0)
    check_choice("select", select, ("best", "draw"))
    unmasking = Unmasking(num_rounds, schedule, order, remask_sigma, block_size, threshold, end_token, pad_token)
    process = ReverseProcess.start(
        denoiser, tokens, unmasking, condition, temperature, generator, reward=reward, per_sequence=per_sequence
    ).repeated(count)
    chunk = check_count("chunk_size", tokens.shape[0] * count or 1 if chunk_size is None else chunk_size)
    batch, tokens = tokens.shape[0], process.limit(tokens.repeat_interleave(count, 0))
    log_weight = torch.zeros(batch, count, device=tokens.device)
    log_prob = torch.zeros(batch * count, device=tokens.device)
    evaluations, trace = Evaluations(), Trace()
    rewards: Tensor | None = None
    for round_index in range(num_rounds):
        if process.is_done(tokens):
            break
        clean, drawn, now = _proposals(process, reward, tokens, round_index, chunk)
        after = process.step(tokens, clean, drawn, round_index)
        evaluations += Evaluations(count * process.evaluations_per_round, count)
        log_weight = log_weight + weight * (now if rewards is None else now - rewards).reshape(batch, count)
        log_prob = log_prob + (drawn * process.revealed(tokens, after, round_index)).sum(-1)
        ancestor, log_weight, effective = _resampled(log_weight, least * count, generator)
        tokens, rewards, log_prob = after[ancestor], now[ancestor], log_prob[ancestor]
        best = float(now.reshape(batch, count).amax(-1).mean())
        trace.append(round=round_index, reward=float(now.mean()), best=best, ess=effective)
        if progress is not None:
            progress(round_index + 1, num_rounds)
    if rewards is None:  # there was nothing to generate
        rewards = reward_of(process.bound(reward), tokens, process.vocab_size(tokens), "for the finished tokens")
        evaluations += Evaluations(count * process.evaluations_per_round, count)
    by = rewards.reshape(batch, count) if select == "best" else selection_scores(log_weight, 1.0, generator)
    chosen = by.argmax(-1) + torch.arange(batch, device=tokens.device) * count
    return Generation(tokens[chosen], rewards[chosen], log_prob[chosen], None, trace, evaluations)


def _proposals(
    process: ReverseProcess, reward: Reward, tokens: Tensor, round_index: int, chunk: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Clean tokens [N, L] for all particles, their log-probabilities [N, L] and rewards [N]."""
    parts = []
    for start in range(0, tokens.shape[0], chunk):
        rows = process.rows(start, start + chunk)
        given = tokens[start : start + chunk]
        prior = rows.prior(given, round_index)
        clean, drawn = rows.draw(prior, given)
        where, left = f"in round {round_index}", rows.completed(clean)
        parts.append((clean, drawn, reward_of(rows.bound(reward), left, prior.shape[-1], where)))
    clean, drawn, rewards = (torch.cat(part) for part in zip(*parts, strict=True))
    return clean, drawn, rewards


def _resampled(
    log_weight: Float[Tensor, "B N"], least: float, generator: Generator | None
) -> tuple[Int[Tensor, " BN"], Float[Tensor, "B N"], float]:
    """Ancestors into the flat particles, new log-weights, and the mean effective number before."""
    batch, count = log_weight.shape
    weights = torch.softmax(log_weight, -1)
    effective = 1 / weights.square().sum(-1)
    offset = torch.empty_like(weights[:, :1]).uniform_(generator=generator)
    points = (torch.arange(count, device=weights.device) + offset) / count  # [B, N], systematic
    edges = weights.double().cumsum(-1)
    drawn = torch.searchsorted(edges, points.double() * edges[:, -1:], right=True).clamp_max(count - 1)
    low = (effective < least).unsqueeze(-1)
    own = torch.arange(count, device=weights.device).expand(batch, count)
    ancestor = torch.where(low, drawn, own) + torch.arange(batch, device=weights.device).unsqueeze(-1) * count
    return ancestor.flatten(), log_weight.masked_fill(low, 0.0), float(effective.mean()) if batch else math.nan
