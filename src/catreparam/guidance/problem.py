"""The optimisation problem behind `optimize_logits`: only the rows of free positions are worked on."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from catreparam.categorical import one_hot_like, wide
from catreparam.guidance.rewards import Reward, RewardError, check_rewards, is_hard
from catreparam.guidance.trace import Evaluations, pick
from catreparam.masked_diffusion import carry_over
from catreparam.validation import inside_transform


@dataclass
class Problem:
    """Free rows [B, M, V] of a batch, M the largest number of free positions of a sequence.

    `index` [B, M] says where they belong (None: everywhere); sequences with fewer free positions fill up with frozen
    ones, whose log prior allows only their token, so that nothing happens to them.
    """

    reward: Reward
    log_prior: Tensor  # [B, M, V]
    full_prior: Tensor  # [B, L, V]
    index: Tensor | None
    base: Tensor | None  # one-hot tokens [B, L, V]
    track_best: bool
    evaluations: Evaluations = Evaluations()  # noqa: RUF009 (frozen)
    best_tokens: Tensor | None = None
    best_reward: Tensor | None = None
    active: Tensor | None = None  # [B, M, 1], where the tilt may move; None: everywhere

    @classmethod
    def of(
        cls, prior_logits: Tensor, reward: Reward, tokens: Tensor | None, frozen: Tensor | None, *, track_best: bool
    ) -> "Problem":
        """The problem of one call; checks tokens and frozen."""
        prior_logits = wide(prior_logits)
        frozen = _checked_frozen(prior_logits, tokens, frozen)
        if tokens is None or frozen is None or not bool(frozen.any()):
            log_prior = torch.log_softmax(prior_logits, -1)
            return cls(reward, log_prior, log_prior, None, None, track_best)
        free = int((~frozen).sum(-1).max()) if frozen.numel() else 0
        index = frozen.to(torch.uint8).argsort(dim=-1, stable=True)[:, :free]  # free positions first
        over_classes = _over_classes(index, prior_logits)
        rows = torch.log_softmax(prior_logits.gather(1, over_classes), -1)  # of the free rows alone: they may be few
        rows = carry_over(rows, tokens.gather(1, index), frozen.gather(1, index))
        log_prior = carry_over(prior_logits, tokens, frozen).scatter(1, over_classes, rows)
        base = one_hot_like(tokens.masked_fill(~frozen, -1), log_prior)
        return cls(reward, rows, log_prior, index, base, track_best)

    def keep_tilt_outside(self, active: Tensor) -> None:
        """From now on the tilt moves at the `active` positions [B, L] alone."""
        rows = active if self.index is None else active.gather(1, self.index)
        self.active = rows.unsqueeze(-1)

    def initial_tilt(self, warm_start: Tensor | None, forgetting: float) -> Tensor:
        """(1 - forgetting) * warm_start at the free rows, or zero; a leaf that requires a gradient."""
        if warm_start is None:
            return torch.zeros_like(self.log_prior).requires_grad_()
        if warm_start.shape != self.full_prior.shape:
            raise ValueError(
                f"warm_start must have the shape of prior_logits {tuple(self.full_prior.shape)}, "
                f"got {tuple(warm_start.shape)}"
            )
        rows = warm_start.detach().to(self.log_prior)
        if self.index is not None:
            rows = rows.gather(1, _over_classes(self.index, rows))
        return ((1 - forgetting) * rows).requires_grad_()

    def loss(self, rows: Tensor) -> Tensor:
        """-reward of the whole sequences [B] for free rows [B, M, V]."""
        x = self.complete(rows)
        self.evaluations += Evaluations(reward=1, reward_gradient=int(x.requires_grad))
        # Before the reward, which may write into x. Under vmap ("exact") nothing can be kept.
        tracked = self.track_best and not inside_transform() and is_hard(x)
        tokens = x.detach().argmax(-1) if tracked else None
        rewards = self.reward(x)
        if not isinstance(rewards, Tensor) or rewards.shape != (rows.shape[0],) or not rewards.is_floating_point():
            check_rewards(rewards, rows.shape[0], "")
        if tokens is not None:
            values = rewards.detach().clone()
            better = values > (-torch.inf if self.best_reward is None else self.best_reward)
            self.best_tokens, self.best_reward = pick(better, (tokens, values), (self.best_tokens, self.best_reward))
        return -rewards

    def gradient(self, loss: Tensor, tilt: Tensor, step: int) -> Tensor:
        """The gradient of the summed loss. Raises RewardError if either is not finite, or if there is no gradient."""
        check_rewards(-loss, tilt.shape[0], f"at step {step}")
        if not loss.requires_grad:
            raise RewardError(
                "the reward does not depend on x differentiably (detached, or built from argmax?); wrap a reward "
                "without gradient as BlackBoxReward and use a score-function estimator (rloo, reinforce, arsm)"
            )
        (gradient,) = torch.autograd.grad(loss.sum(), tilt)
        if not bool(torch.isfinite(gradient.sum())):
            raise RewardError(f"the gradient of the reward is not finite at step {step}; check the reward's derivative")
        return gradient

    def complete(self, rows: Tensor) -> Tensor:
        """x [B, L, V]: the free rows among the frozen tokens."""
        if self.index is None or self.base is None:
            return rows
        return self.base.to(rows.dtype).scatter(1, _over_classes(self.index, rows), rows)

    def full_tilt(self, tilt: Tensor) -> Tensor:
        """[B, L, V], zero at frozen positions."""
        if self.index is None:
            return tilt.detach()
        return torch.zeros_like(self.full_prior).scatter(1, _over_classes(self.index, tilt), tilt.detach())

    def full_logits(self, tilt: Tensor) -> Tensor:
        """[B, L, V]."""
        return self.full_prior + self.full_tilt(tilt)


def _checked_frozen(prior_logits: Tensor, tokens: Any, frozen: Any) -> Tensor | None:
    shape, vocab_size = prior_logits.shape[:2], prior_logits.shape[-1]
    for name, value, dtype in (("tokens", tokens, torch.long), ("frozen", frozen, torch.bool)):
        if value is not None and (not isinstance(value, Tensor) or value.dtype != dtype or value.shape != shape):
            got = f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"{name} must be a {dtype} tensor of shape {tuple(shape)}, got {got}")
    if tokens is None:
        if frozen is not None:
            raise ValueError("frozen needs tokens: the values at the frozen positions")
        return None
    inside = (tokens >= 0) & (tokens < vocab_size)
    if frozen is None:
        return inside
    if bool((frozen & ~inside).any()):
        bad = int(tokens[frozen & ~inside][0])
        raise ValueError(f"frozen positions must hold tokens in [0, {vocab_size}), got {bad}")
    return frozen


def _over_classes(index: Tensor, rows: Tensor) -> Tensor:
    return index.unsqueeze(-1).expand(-1, -1, rows.shape[-1])
