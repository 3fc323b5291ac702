"""What methods with several candidates a sequence share: rewards of hard tokens, and selection by them."""

import math
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from catreparam.categorical import draw_gumbel_like
from catreparam.guidance.rewards import Reward, check_rewards
from catreparam.masked_diffusion import one_hot_tokens


def reward_of(reward: Reward, tokens: Int[Tensor, "N L"], vocab_size: int, where: str) -> Float[Tensor, " N"]:
    """Rewards of hard tokens, float32, without gradient, checked; `where` goes into the message."""
    with torch.no_grad():
        rewards = reward(one_hot_tokens(tokens, vocab_size))
    return check_rewards(rewards, tokens.shape[0], where).float()


def selection_scores(rewards: Tensor, reward_weight: float, generator: Generator | None) -> Tensor:
    """Scores whose argmax is a draw in proportion to exp(reward_weight * reward); at infinity the rewards."""
    if reward_weight == math.inf:
        return rewards
    return reward_weight * rewards + draw_gumbel_like(rewards, generator)


def selection_kl(rewards: Float[Tensor, "B N"], reward_weight: float) -> Float[Tensor, " B"]:
    """sum_j w_j log(N w_j), w = softmax(reward_weight * rewards): what selecting one of N prior draws costs at most."""
    count = rewards.shape[-1]
    if reward_weight == math.inf:
        return torch.full_like(rewards[:, 0], math.log(count))
    log_weights = torch.log_softmax(reward_weight * rewards, -1)
    return (log_weights.exp() * (log_weights + math.log(count))).sum(-1)


def check_reward_weight(value: Any) -> float:
    """A number of at least 0, or infinity: always the best."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 0:
        raise ValueError(f"reward_weight must be a number of at least 0 (inf: always the best), got {value!r}")
    return float(value)


def pick(condition: Tensor, new: tuple[Any, ...], old: tuple[Any, ...]) -> tuple[Any, ...]:
    """Entry by entry (tensors with B rows, or None): `new` where the condition [B] holds, else `old`."""
    return tuple(
        a if b is None or a is None else torch.where(condition.reshape(-1, *(1,) * (a.ndim - 1)), a, b)
        for a, b in zip(new, old, strict=True)
    )
