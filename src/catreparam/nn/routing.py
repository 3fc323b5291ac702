"""How the logits of a router become a choice of k experts and their weights; shared by all routers."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor

from catreparam.arguments import hands_on
from catreparam.categorical import attach_gradient, lay_out, one_hot_like, source, to_rows, wide
from catreparam.estimators.facts import facts_of
from catreparam.estimators.sampling import Sampler, draw, sampling_estimator
from catreparam.kernels.tracing import refuse_script
from catreparam.nn.usage import share_of
from catreparam.validation import (
    check_choice,
    check_count,
    check_flag,
    check_mask,
    check_number,
    demand,
)


class Routing(NamedTuple):
    """Where the tokens go.

    Fields:
        weights: zero at experts that were not chosen.
        experts: the chosen ones.
        probs: softmax of the logits.
        load_balancing_loss: 1 when balanced, num_experts at worst, see `TopKRouter`.
        logits: -inf at forbidden experts.
        z_loss: mean of logsumexp(logits)^2.
        kept: False: the expert was full, or the token is padding; its weight is 0.
    """

    weights: Float[Tensor, "*batch num_experts"]
    experts: Int[Tensor, "*batch k"]
    probs: Float[Tensor, "*batch num_experts"]
    load_balancing_loss: Float[Tensor, ""]
    logits: Float[Tensor, "*batch num_experts"]
    z_loss: Float[Tensor, ""]
    kept: Bool[Tensor, "*batch k"]


class RoutesTokens:
    """The part of a router that follows its logits, described at `TopKRouter`. Stands before a torch.nn.Module."""

    training: bool

    __prepare_scriptable__ = refuse_script

    @hands_on
    def _set_routing(
        self,
        num_experts: int,
        k: int,
        *,
        estimator: str | Sampler | None = "reinmax",
        train_mode: str = "sample",
        eval_mode: str = "topk",
        gates: str = "probs",
        normalize: bool = True,
        capacity: int | None = None,
        capacity_factor: float | None = None,
    ) -> None:
        self.num_experts, self.k = check_count("num_experts", num_experts), check_count("k", k)
        if k > num_experts:
            raise ValueError(f"k must be at most num_experts={num_experts}, got {k}")
        self.estimator = sampling_estimator("straight_through" if estimator is None else estimator)
        self.gradient_of_choice = estimator is not None
        self.train_mode = check_choice("train_mode", train_mode, ("sample", "topk"))
        self.eval_mode = check_choice("eval_mode", eval_mode, ("sample", "topk"))
        self.gates = check_choice("gates", gates, ("probs", "uniform"))
        self.normalize = check_flag("normalize", normalize)
        if capacity is not None and capacity_factor is not None:
            raise ValueError(f"give capacity or capacity_factor, got capacity={capacity} and {capacity_factor}")
        self.capacity = None if capacity is None else check_count("capacity", capacity)
        self.capacity_factor = (
            None if capacity_factor is None else check_number("capacity_factor", capacity_factor, above=0.0)
        )

    def extra_repr(self) -> str:
        """Shown by print(module)."""
        estimator = facts_of(self.estimator).name if self.gradient_of_choice else None
        return f"num_experts={self.num_experts}, k={self.k}, estimator={estimator}, gates={self.gates!r}"

    def _route(
        self,
        logits: Tensor,
        token_mask: Tensor | None = None,
        expert_mask: Tensor | None = None,
        generator: Generator | None = None,
    ) -> Routing:
        if expert_mask is not None:
            self._check_expert_mask(expert_mask, logits)
        rows = to_rows(logits, expert_mask, generator=generator)  # perhaps centred, the logits of the result are not
        logits = wide(lay_out(logits, expert_mask, -1, generator))
        probs = torch.softmax(rows, -1)
        chosen, experts = self._choose(rows, generator)
        kept = self._within_capacity(experts, token_mask)
        weights = self._weigh(chosen, probs)
        if token_mask is not None or self.capacity is not None or self.capacity_factor is not None:
            weights = weights * torch.zeros_like(weights).scatter(-1, experts, kept.to(weights.dtype))
        counted = torch.ones_like(probs[..., 0]) if token_mask is None else token_mask
        share, mean = share_of(chosen.detach(), counted) / self.k, share_of(probs, counted)
        balance = self.num_experts * (share * mean).sum()
        z_loss = share_of(torch.logsumexp(logits, -1, keepdim=True).square(), counted).sum()
        return Routing(weights, experts, probs, balance, logits, z_loss, kept)

    def _choose(self, logits: Tensor, generator: Generator | None) -> tuple[Tensor, Tensor]:
        """The k-hot choice [*batch, num_experts] and the indices [*batch, k] in order of choice."""
        left = logits if self.gradient_of_choice else logits.detach()
        if (self.train_mode if self.training else self.eval_mode) == "topk":
            index = logits.detach().topk(self.k, -1).indices
            chosen = torch.zeros_like(logits).scatter(-1, index, 1.0)
            return attach_gradient(chosen, _successive_softmaxes(left, index)) if left.requires_grad else chosen, index
        draws: list[Tensor] = []
        for _ in range(self.k):
            draws.append(draw(self.estimator, left, hyperparameters={}, generator=generator))
            left = left.masked_fill(draws[-1].detach() > 0, -torch.inf)
        return torch.stack(draws).sum(0), torch.stack([x.detach().argmax(-1) for x in draws], -1)

    def _weigh(self, chosen: Tensor, probs: Tensor) -> Tensor:
        if self.gates == "uniform":
            return chosen / self.k if self.normalize else chosen
        total = (chosen.detach() * probs).sum(-1, keepdim=True)
        return chosen * (probs / total) if self.normalize else chosen * probs

    def _within_capacity(self, experts: Tensor, token_mask: Tensor | None) -> Tensor:
        """[*batch, k]: whether the expert still had room when the token came, all first choices before all second."""
        real = torch.ones_like(experts, dtype=torch.bool) if token_mask is None else token_mask.unsqueeze(-1)
        real = real.expand(experts.shape)
        limit = self.capacity
        if self.capacity_factor is not None:
            num_tokens = experts.shape[-2] if experts.ndim > 1 else 1
            limit = math.ceil(self.capacity_factor * self.k * num_tokens / self.num_experts)
        if limit is None:
            return real
        asked = one_hot_like(experts, experts.new_empty(self.num_experts)) * real.unsqueeze(-1)
        line = (asked if experts.ndim > 1 else asked.unsqueeze(0)).transpose(-2, -3)  # [*, k, tokens, num_experts]
        place = line.flatten(-3, -2).cumsum(-2).view(line.shape)
        return ((place <= limit) & (line > 0)).any(-1).transpose(-1, -2).reshape(experts.shape)

    def _check_expert_mask(self, mask: Tensor, logits: Tensor) -> None:
        check_mask(mask, logits, "expert_mask")
        what = f"expert_mask must allow at least k={self.k} experts for every token"
        demand(mask, lambda allowed: allowed.expand(logits.shape).sum(-1) >= self.k, what)


def jittered(tokens: Tensor, amount: float, generator: Generator | None = None) -> Tensor:
    """Tokens times uniform noise in [1 - amount, 1 + amount], as a new tensor."""
    return tokens * torch.empty_like(tokens).detach().uniform_(
        1 - amount, 1 + amount, generator=source(generator, tokens)
    )


def _successive_softmaxes(logits: Tensor, index: Tensor) -> Tensor:
    """The sum of softmax over all experts, over all but the first of `index`, and so on: what k draws have as means."""
    left, total = logits, torch.softmax(logits, -1)
    for first in index[..., :-1].unbind(-1):
        left = left.masked_fill(one_hot_like(first, left) > 0, -torch.inf)
        total = total + torch.softmax(left, -1)
    return total
