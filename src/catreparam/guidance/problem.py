"""The optimisation problem behind `optimize_logits`: only the rows of free positions are worked on."""

import math
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from catreparam.categorical import wide
from catreparam.graph import leads_to
from catreparam.guidance.placing import Canvas, put_rows, take_rows
from catreparam.guidance.rewards import FINITE, Reward, RewardError, check_reward_shape, check_rewards, hardness
from catreparam.guidance.trace import Evaluations, pick
from catreparam.kernels.compiled.library import spacious
from catreparam.masked_diffusion import carry_over
from catreparam.pending import check_pending, defers, waits
from catreparam.validation import inside_transform

NOT_DIFFERENTIABLE = (
    "the reward does not depend on x differentiably (detached, or built from argmax?); wrap a reward "
    "without gradient as BlackBoxReward and use a score-function estimator (rloo, reinforce, arsm)"
)
NO_GRADIENT = "the gradient of the reward is not finite at step {}; check the reward's derivative"


@dataclass
class Problem:
    """Free rows [B, M, V] of a batch, M the largest number of free positions of a sequence.

    The canvas says where they belong (None: everywhere); sequences with fewer free positions fill up with frozen ones,
    whose log prior allows only their token, so that nothing happens to them.
    """

    reward: Reward
    log_prior: Tensor  # [B, M, V]
    shape: torch.Size  # of the prior logits, [B, L, V]
    canvas: Canvas | None
    track_best: bool
    evaluations: Evaluations = Evaluations()  # noqa: RUF009 (frozen)
    best_tokens: Tensor | None = None
    best_reward: Tensor | None = None
    finite: list[Tensor] = field(default_factory=list)  # a step: of reward and gradient, unread
    active: Tensor | None = None  # [B, M, 1], where the tilt may move; None: everywhere

    @classmethod
    def of(
        cls, prior_logits: Tensor, reward: Reward, tokens: Tensor | None, frozen: Tensor | None, *, track_best: bool
    ) -> "Problem":
        """The problem of one call; checks tokens and frozen."""
        prior_logits = wide(prior_logits)
        frozen = _checked_frozen(prior_logits, tokens, frozen)
        if tokens is None or frozen is None or not bool(frozen.any()):
            return cls(reward, torch.log_softmax(prior_logits, -1), prior_logits.shape, None, track_best)
        free = int((~frozen).sum(-1).max()) if frozen.numel() else 0
        index = frozen.to(torch.uint8).argsort(dim=-1, stable=True)[:, :free]  # free positions first
        canvas = Canvas(tokens.masked_fill(~frozen, 0), index)
        rows = torch.log_softmax(take_rows(prior_logits, canvas.places), -1)  # of the free rows alone: they may be few
        rows = carry_over(rows, tokens.gather(1, index), frozen.gather(1, index))
        return cls(reward, rows, prior_logits.shape, canvas, track_best)

    def keep_tilt_outside(self, active: Tensor) -> None:
        """From now on the tilt moves at the `active` positions [B, L] alone."""
        self.active = active.unsqueeze(-1)
        if self.canvas is not None:
            self.active = take_rows(self.active, self.canvas.places)

    def initial_logits(self, warm_start: Tensor | None, forgetting: float) -> Tensor:
        """The log prior plus (1 - forgetting) * warm_start at the free rows; a leaf that requires a gradient."""
        if warm_start is None:
            return spacious(self.log_prior.shape, self.log_prior).copy_(self.log_prior).requires_grad_()
        if warm_start.shape != self.shape:
            raise ValueError(
                f"warm_start must have the shape of prior_logits {tuple(self.shape)}, got {tuple(warm_start.shape)}"
            )
        rows = warm_start.detach()
        if self.canvas is not None:
            rows = take_rows(rows, self.canvas.places)
        return (self.log_prior + (1 - forgetting) * rows.to(self.log_prior)).requires_grad_()

    def loss(self, rows: Tensor) -> Tensor:
        """-reward of the whole sequences [B] for free rows [B, M, V]."""
        x = rows if self.canvas is None else self.canvas.complete(rows)
        self.evaluations += Evaluations(reward=1, reward_gradient=int(x.requires_grad))
        # Before the reward, which may write into x. Under vmap ("exact") nothing can be kept.
        tokens = hard = None
        if self.track_best and not inside_transform() and rows.numel():
            hard = hardness(rows)
            tokens = self._tokens(rows) if waits(rows.device) or bool(hard) else None
        entrance = rows.grad_fn  # look-ups take the gradient of the rows, not that of x
        rewards = self.reward(x)
        if not isinstance(rewards, Tensor) or rewards.shape != (rows.shape[0],) or not rewards.is_floating_point():
            check_reward_shape(rewards, rows.shape[0])
        if tokens is not None and hard is not None:
            values = torch.where(hard, rewards.detach(), -torch.inf)
            better = values > (-torch.inf if self.best_reward is None else self.best_reward)
            self.best_tokens, self.best_reward = pick(better, (tokens, values), (self.best_tokens, self.best_reward))
        if entrance is not None and not inside_transform() and not leads_to(rewards, entrance):
            raise RewardError(NOT_DIFFERENTIABLE)
        return -rewards

    def gradient(self, loss: Tensor, logits: Tensor) -> Tensor:
        """The gradient of the summed loss. Raises RewardError if there is none."""
        if not loss.requires_grad:
            raise RewardError(NOT_DIFFERENTIABLE)
        return torch.autograd.grad(loss, logits, torch.ones_like(loss))[0].contiguous()

    def check_step(self, rewards: Tensor, finite: Tensor | bool, step: int) -> None:
        """Raises RewardError unless the rewards [B] and their gradient were finite.

        On a device where reading waits, `check_finite` raises that.
        """
        if defers(rewards.device):
            self.finite.append(torch.stack((torch.isfinite(rewards).all(), torch.as_tensor(finite))))
            return
        if not math.isfinite(float(rewards.sum())):
            check_rewards(rewards, self.shape[0], f"at step {step}")
        if not finite:
            raise RewardError(NO_GRADIENT.format(step))

    def check_finite(self) -> None:
        """Reads back what `check_step` did not: raises RewardError for the first reward or gradient not finite."""
        read: list[list[bool]] = torch.stack(self.finite).tolist() if self.finite else []
        step = next((step for step, finite in enumerate(read) if not all(finite)), None)
        if step is None:
            return
        if not bool(self.log_prior.isnan().any()):
            with suppress(ValueError):  # what came of it: logits that hold NaN
                check_pending(self.log_prior.device)
            if read[step][0]:
                raise RewardError(NO_GRADIENT.format(step))
            raise RewardError(f"the reward returned a number that is not finite at step {step}; {FINITE}")
        check_pending(self.log_prior.device)

    def best(self) -> tuple[Tensor | None, Tensor | None]:
        """The best tokens and their rewards; None if no hard sample was evaluated."""
        if self.best_reward is None or not bool((self.best_reward > -torch.inf).any()):
            return None, None
        return self.best_tokens, self.best_reward

    def full_tilt(self, logits: Tensor) -> Tensor:
        """[B, L, V], logits - log prior: zero at frozen positions, and at tokens that are impossible."""
        rows = logits.detach()
        tilt = torch.sub(rows, self.log_prior, out=spacious(rows.shape, rows))
        tilt.nan_to_num_(0.0, posinf=torch.inf, neginf=-torch.inf)  # -inf - -inf
        if self.canvas is None:
            return tilt
        return put_rows(spacious(self.shape, tilt).zero_(), self.canvas.places, tilt)

    def full_logits(self, logits: Tensor) -> Tensor:
        """[B, L, V]: those of the free positions, the token alone at frozen ones."""
        rows = logits.detach()
        if self.canvas is None:
            return rows
        alone = spacious(self.shape, rows).fill_(-torch.inf).scatter_(-1, self.canvas.tokens.unsqueeze(-1), 0.0)
        return put_rows(alone, self.canvas.places, rows)

    def _tokens(self, rows: Tensor) -> Tensor:
        """[B, L]: those of hard rows, and the frozen ones."""
        drawn = rows.detach().argmax(-1)
        if self.canvas is None:
            return drawn
        return put_rows(self.canvas.tokens.unsqueeze(-1).clone(), self.canvas.places, drawn.unsqueeze(-1)).squeeze(-1)


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
