"""SVDD: in every round several next states are drawn, and one is selected by its estimated value."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Int
from torch import Generator, Tensor

from catreparam.guidance.rewards import Reward
from catreparam.guidance.trace import (
    Evaluations,
    Generation,
    Trace,
    check_reward_weight,
    pick,
    reward_of,
    selection_kl,
    selection_scores,
)
from catreparam.masked_diffusion import Condition, Denoiser, ReverseProcess, Unmasking
from catreparam.masked_diffusion.orders import Order
from catreparam.validation import check_count, check_flag


def svdd(
    denoiser: Denoiser,
    reward: Reward,
    tokens: Int[Tensor, "B L"],
    *,
    num_candidates: int,
    reward_weight: float = math.inf,
    lookahead: bool = True,
    num_rounds: int = 20,
    schedule: str = "linear",
    order: str | Tensor | Order = "ancestral",
    remask_sigma: float = 0.0,
    block_size: int | None = None,
    threshold: float | None = None,
    end_token: int | None = None,
    pad_token: int | None = None,
    condition: Condition | None = None,
    temperature: float = 1.0,
    progress: Callable[[int, int], Any] | None = None,
    generator: Generator | None = None,
) -> Generation:
    """Selection: of `num_candidates` next states a round, one is drawn in proportion to exp(reward_weight * value).

    The value of a next state is the reward of one clean sequence: with `lookahead` drawn by the denoiser from that
    state (one more model evaluation a candidate; the selected one's logits serve the next round), without it the very
    draw that made the state. Of a finished state it is the reward. reward_weight inf takes the best. Candidates are
    made one after the other (two are in memory); the reward may be a black box.

    kl: the bound sum over rounds of sum_j w_j log(N w_j), w the selection probabilities (log N a round at inf).
    Cost:   num_candidates * num_rounds evaluations of the reward; num_rounds of the model, with lookahead
            1 + num_candidates * (num_rounds - 1).
    Raises: as `sample`; ValueError for bad settings and a reward that is not finite.
    Departs: the published method estimates the value at the posterior mean, or by a learned network; here by one draw.

    Reference: Li et al. 2024, https://arxiv.org/abs/2408.08252.
    """
    check_count("num_candidates", num_candidates)
    check_flag("lookahead", lookahead)
    weight = check_reward_weight(reward_weight)
    unmasking = Unmasking(num_rounds, schedule, order, remask_sigma, block_size, threshold, end_token, pad_token)
    process = ReverseProcess.start(denoiser, tokens, unmasking, condition, temperature, generator, reward=reward)
    reward, tokens = process.bound(reward), process.limit(tokens)
    evaluations, trace = Evaluations(), Trace()
    log_prob = kl = torch.zeros(tokens.shape[0], device=tokens.device)
    rewards: Tensor | None = None
    prior: Tensor | None = None
    for round_index in range(num_rounds):
        if process.is_done(tokens):
            break
        if prior is None:
            prior = process.prior(tokens, round_index)
            evaluations += Evaluations(model=process.evaluations_per_round)
        look = lookahead and round_index + 1 < num_rounds
        evaluations += Evaluations(num_candidates * process.evaluations_per_round if look else 0, num_candidates)
        chosen = _propose(process, reward, tokens, prior, round_index, weight, look)
        values = [chosen.value]
        for _ in range(num_candidates - 1):
            candidate = _propose(process, reward, tokens, prior, round_index, weight, look)
            values.append(candidate.value)
            chosen = _Candidate(*pick(candidate.score > chosen.score, candidate, chosen))
        tokens, prior, rewards = chosen.tokens, chosen.ahead, chosen.value
        log_prob, kl = log_prob + chosen.log_prob, kl + selection_kl(torch.stack(values, -1), weight)
        trace.append(round=round_index, reward=float(torch.stack(values).mean()), best=float(rewards.mean()))
        if progress is not None:
            progress(round_index + 1, num_rounds)
    if rewards is None:  # there was nothing to generate
        rewards = reward_of(reward, tokens, process.vocab_size(tokens), "for the finished tokens")
        evaluations += Evaluations(process.evaluations_per_round, 1)
    return Generation(tokens, rewards, log_prob, kl, trace, evaluations)


class _Candidate(NamedTuple):
    score: Tensor  # [B], the highest is selected
    tokens: Tensor  # [B, L]
    value: Tensor  # [B]
    log_prob: Tensor  # [B], of this round's reveals
    ahead: Tensor | None  # prior logits of the next round [B, L, V]


def _propose(
    process: ReverseProcess, reward: Reward, tokens: Tensor, prior: Tensor, round_index: int, weight: float, look: bool
) -> _Candidate:
    """One candidate for every sequence."""
    clean, drawn = process.draw(prior, tokens)
    after = process.step(tokens, clean, drawn, round_index, prior=prior)
    log_prob = (drawn * process.revealed(tokens, after, round_index)).sum(-1)
    ahead = process.prior(after, round_index + 1) if look else None
    if ahead is not None:
        clean, _ = process.draw(ahead, after)
    value = reward_of(reward, process.completed(clean), prior.shape[-1], f"in round {round_index}")
    return _Candidate(selection_scores(value, weight, process.generator), after, value, log_prob, ahead)
