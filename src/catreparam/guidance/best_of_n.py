"""Best of N: independent samples of the prior, of which the one with the highest reward is kept."""

import math
from collections.abc import Callable, Collection
from typing import Any

import torch
from jaxtyping import Int
from torch import Generator, Tensor

from catreparam.guidance.rewards import Reward
from catreparam.guidance.trace import Evaluations, Generation, Trace, pick, reward_of
from catreparam.masked_diffusion import Condition, Denoiser, ReverseProcess, Unmasking
from catreparam.masked_diffusion.orders import Order
from catreparam.masked_diffusion.sampling import run_process
from catreparam.validation import check_count


def best_of_n(
    denoiser: Denoiser,
    reward: Reward,
    tokens: Int[Tensor, "B L"],
    *,
    num_candidates: int,
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
    """The best by reward of `num_candidates` independent samples of the prior for every sequence.

    `chunk_size` candidates a sequence are generated at a time (None: all at once). The reward may be a black box.
    `per_sequence` names the condition's entries with a row for each sequence, which are repeated for the candidates;
    needed where an entry's size leaves it open. The result's kl is the bound log N - (N - 1) / N, which holds for any
    reward. The trace has a row per chunk.

    Cost:   num_candidates * num_rounds model evaluations, num_candidates of the reward.
    Raises: as `sample`; ValueError for num_candidates < 1 or a reward that is not finite.

    Reference: Stiennon et al. 2020, https://arxiv.org/abs/2009.01325; bound: Beirami et al. 2024,
    https://arxiv.org/abs/2401.01879.
    """
    check_count("num_candidates", num_candidates)
    chunk = min(num_candidates, num_candidates if chunk_size is None else check_count("chunk_size", chunk_size))
    unmasking = Unmasking(num_rounds, schedule, order, remask_sigma, block_size, threshold, end_token, pad_token)
    process = ReverseProcess.start(
        denoiser, tokens, unmasking, condition, temperature, generator, reward=reward, per_sequence=per_sequence
    )
    best: tuple[Tensor, Tensor, Tensor] | None = None
    trace, evaluations = Trace(), Evaluations()
    for done in range(0, num_candidates, chunk):
        times = min(chunk, num_candidates - done)
        repeated = process.repeated(times)
        drawn = run_process(repeated, tokens.repeat_interleave(times, 0))
        size = drawn.vocab_size or repeated.vocab_size(drawn.tokens)
        where = f"for candidates {done} to {done + times - 1}"
        rewards = reward_of(repeated.bound(reward), drawn.tokens, size, where)
        first = rewards.reshape(-1, times).argmax(-1) + torch.arange(tokens.shape[0], device=tokens.device) * times
        new = (drawn.tokens[first], rewards[first], drawn.log_prob[first])
        best = new if best is None else pick(new[1] > best[1], new, best)  # type: ignore[assignment]
        evaluations += Evaluations(times * drawn.model_evaluations, times)
        trace.append(step=done // chunk, reward=float(rewards.mean()), best=float(best[1].mean()))
        if progress is not None:
            progress(done + times, num_candidates)
    assert best is not None
    bound = math.log(num_candidates) - (num_candidates - 1) / num_candidates
    return Generation(best[0], best[1], best[2], torch.full_like(best[1], bound), trace, evaluations)
