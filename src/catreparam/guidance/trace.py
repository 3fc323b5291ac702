"""What a guided generation reports: tokens, rows to plot, counted evaluations; and how candidates are picked."""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from catreparam.categorical import draw_gumbel_like
from catreparam.guidance.placing import one_hot_sequences
from catreparam.guidance.rewards import Reward, check_rewards


@dataclass(frozen=True)
class Evaluations:
    """How often a returned sequence had what evaluated.

    Under torch.vmap (estimator "exact") a reward call counts once, however many configurations it covers.

    Fields:
        model: evaluations of the denoiser.
        reward: evaluations of the reward.
        reward_gradient: evaluations of the reward's gradient.
    """

    model: int = 0
    reward: int = 0
    reward_gradient: int = 0

    def __add__(self, other: "Evaluations") -> "Evaluations":
        return Evaluations(
            self.model + other.model, self.reward + other.reward, self.reward_gradient + other.reward_gradient
        )


@dataclass
class Trace:
    """Rows of numbers, one per optimisation step (or round); means over the batch.

    Keys of `optimize_logits`: step, reward, kl, entropy, gradient_norm (kl and entropy summed over all
    masked positions, where `Generation.kl` adds up those of the reveals alone);
    `guided_sample` adds round and masked. `column("reward")` is ready to plot.

    Fields:
        rows: the rows, each a dictionary of numbers.

    >>> trace = Trace([{"step": 0, "reward": 1.0}, {"step": 1, "reward": 2.0}])
    >>> trace.column("reward")
    [1.0, 2.0]
    """

    rows: list[dict[str, float | int]] = field(default_factory=list)

    def column(self, key: str) -> list[float | int]:
        """All values of one key; NaN in rows that lack it."""
        return [row.get(key, float("nan")) for row in self.rows]

    def append(self, **numbers: float | int) -> None:
        """Adds a row."""
        self.rows.append(numbers)


@dataclass(frozen=True)
class Generation:
    """The result of every guided method.

    Fields:
        tokens: [B, L], without masks.
        reward: [B], of these tokens.
        prior_log_prob: [B], log-probability under the prior of all reveals on the way; comparable across methods at
            equal rounds.
        kl: [B], KL of the guided reveals from the prior's, summed over the rounds, where the method has one; else None.
        trace: numbers of every step or round.
        evaluations: what it cost a returned sequence.
    """

    tokens: Tensor
    reward: Tensor
    prior_log_prob: Tensor
    kl: Tensor | None
    trace: Trace
    evaluations: Evaluations


def reward_of(reward: Reward, tokens: Int[Tensor, "N L"], vocab_size: int, where: str) -> Float[Tensor, " N"]:
    """Rewards of hard tokens, float32, without gradient, checked; `where` goes into the message."""
    with torch.no_grad():
        rewards = reward(one_hot_sequences(tokens, vocab_size))
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
