"""Rewards: one-hot tokens -> a number per sequence, higher is better; differentiable, or black boxes on tokens."""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from catreparam.pending import defers, note
from catreparam.validation import inside_transform


@runtime_checkable
class Reward(Protocol):
    """x [B, L, vocab_size], one-hot in the dtype of the logits -> reward [B].

    Arguments beside x are filled from the condition's entries of that name (targets, say), repeated as x is.
    Differentiable in x unless it is a BlackBoxReward. Embeddings of x: `codebook_embed(x, codebook)`.
    """

    def __call__(self, x: Tensor) -> Tensor:
        """x [B, L, vocab_size] -> reward [B]."""
        ...


class RewardError(ValueError):
    """A reward returned something unusable: not finite, of the wrong shape, or without the gradient that is needed."""


class BlackBoxError(ValueError):
    """A gradient of a black-box reward was asked for."""


class BlackBoxReward:
    """A reward known only by its values.

    It serves estimators that need values at hard samples only (rloo, reinforce, arsm, exact with chunk_size=1) and the
    methods without gradients (best_of_n, svdd, smc). Anything else raises BlackBoxError.

    Parameters:
        function: maps tokens [B, L] (long) to rewards [B], a tensor or a sequence. Further arguments are the
            condition's, as for any reward.

    >>> reward = BlackBoxReward(lambda tokens: (tokens == 1).sum(-1))
    >>> reward(torch.eye(3)[None, [1, 1, 0]])
    tensor([2.])
    """

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        if not callable(function):
            raise TypeError(f"a black-box reward wraps a function of tokens, got {function!r}")
        self.function = self.__wrapped__ = function

    def __call__(self, x: Float[Tensor, "B L V"], **condition: Any) -> Float[Tensor, " B"]:
        deferred = defers(x.device) and not inside_transform()
        if x.requires_grad or not (deferred or is_hard(x)):
            raise BlackBoxError(BLACK_BOX)
        rewards = torch.as_tensor(self.function(x.argmax(-1), **condition), device=x.device).to(x.dtype)
        if not deferred:
            return rewards
        hard = hardness(x)
        note(~hard, BLACK_BOX)
        return torch.where(hard, rewards, torch.nan)


BLACK_BOX = (
    "this reward is a black box: it has values at hard tokens but no gradient, and this estimator asks for one. Use a "
    "score-function estimator (rloo, reinforce, arsm) or a method without gradients (best_of_n, svdd, smc)"
)


def is_hard(x: Tensor) -> bool:
    """Whether every row of x is exactly one-hot. True without looking inside torch.func transforms."""
    return inside_transform() or bool(hardness(x))


def hardness(x: Tensor) -> Bool[Tensor, ""]:
    """Whether every row of x is exactly one-hot, on its device."""
    x = x.detach()
    return (x.amax(-1) == 1).all() & (x.count_nonzero() == x.numel() // x.shape[-1])


def check_rewards(rewards: Any, batch: int, where: str) -> Tensor:
    """Returns the rewards [B] if they are floating, finite and of the right shape; `where` goes into the message."""
    rewards = check_reward_shape(rewards, batch)
    finite = torch.isfinite(rewards.detach())
    if not bool(finite.all()):
        bad = (~finite).nonzero().flatten().tolist()
        shown = ", ".join(str(index) for index in bad[:5]) + (", …" if len(bad) > 5 else "")
        value = float(rewards.detach()[bad[0]])
        raise RewardError(f"the reward returned {value} {where} for sequence(s) {shown}; {FINITE}")
    return rewards


FINITE = "it must be finite (clamp it, or check its input)"


def check_reward_shape(rewards: Any, batch: int) -> Tensor:
    """Returns the rewards [B] if they are floating and of the right shape."""
    if not isinstance(rewards, Tensor) or not rewards.is_floating_point():
        got = rewards.dtype if isinstance(rewards, Tensor) else type(rewards).__name__
        raise TypeError(f"a reward must return a floating torch.Tensor [B], got {got}")
    if rewards.shape != (batch,):
        raise RewardError(f"a reward must return one number per sequence, [{batch}], got shape {tuple(rewards.shape)}")
    return rewards
