"""Top-k routing for mixtures of experts, with a gradient for the choice itself."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor, nn

from catreparam.categorical import source
from catreparam.estimators.facts import facts_of
from catreparam.estimators.sampling import Sampler, draw, sampling_estimator
from catreparam.kernels.tracing import refuse_script
from catreparam.validation import check_choice, check_count, check_number, has_values


class Routing(NamedTuple):
    """Where the tokens go. `weights` is zero at experts that were not chosen; `experts` names the chosen ones."""

    weights: Float[Tensor, "*batch num_experts"]
    experts: Int[Tensor, "*batch k"]
    probs: Float[Tensor, "*batch num_experts"]
    load_balancing_loss: Float[Tensor, ""]


class TopKRouter(nn.Module):
    """Chooses k of num_experts for every token [*batch, dim] and weighs them.

    Choice:   p = softmax(W token). `sample` (while training) draws k experts one after another without replacement,
              each from p over those that are left; `topk` (in eval mode) takes the k most probable. The result is a
              k-hot s.
    Weights:  gates="probs": w = s * p / (sum of the chosen p); gates="uniform": w = s / k.
    Gradient: through p as it stands. Through s: each draw is one call of `estimator` and carries its gradient, given
              the draws before it; the sum of the chosen p counts as a constant there. estimator=None cuts s off, which
              is the usual top-k router; with k = 1 or uniform gates that router gets no gradient but the balancing
              loss's.
    Bias:     the estimator's, and, where only chosen experts are evaluated, that the other entries of dL/dw are taken
              as 0.
    Balance:  `load_balancing_loss` = num_experts * sum_e f_e P_e, f the share of choices, P the mean of p: 1 when
              balanced, num_experts at worst; its gradient flows through P only. (Fedus et al. 2021,
              https://arxiv.org/abs/2101.03961.)

    `jitter` multiplies tokens by uniform noise in [1 - jitter, 1 + jitter] while training. Cost: k calls of the
    estimator.
    Raises: ValueError for k outside 1..num_experts, jitter outside [0, 1), modes, gates and estimators that do not
            exist; when called, for tokens of another size, masks of the wrong shape, and a token with fewer than k
            experts allowed.

    >>> router = TopKRouter(16, num_experts=4, k=2).eval()
    >>> routing = router(torch.zeros(3, 10, 16))
    >>> routing.weights.shape, routing.experts.shape, routing.weights.sum(-1).unique().tolist()
    (torch.Size([3, 10, 4]), torch.Size([3, 10, 2]), [1.0])
    """

    __prepare_scriptable__ = refuse_script

    def __init__(
        self,
        dim: int,
        *,
        num_experts: int,
        k: int,
        estimator: str | Sampler | None = "reinmax",
        train_mode: str = "sample",
        eval_mode: str = "topk",
        gates: str = "probs",
        jitter: float = 0.0,
    ) -> None:
        super().__init__()
        self.num_experts, self.k = check_count("num_experts", num_experts), check_count("k", k)
        if k > num_experts:
            raise ValueError(f"k must be at most num_experts={num_experts}, got {k}")
        self.estimator = sampling_estimator("straight_through" if estimator is None else estimator)
        self.gradient_of_choice = estimator is not None
        self.train_mode = check_choice("train_mode", train_mode, ("sample", "topk"))
        self.eval_mode = check_choice("eval_mode", eval_mode, ("sample", "topk"))
        self.gates = check_choice("gates", gates, ("probs", "uniform"))
        self.jitter = check_number("jitter", jitter, least=0.0, most=0.999)
        self.projection = nn.Linear(check_count("dim", dim), num_experts, bias=False)

    def forward(
        self,
        tokens: Float[Tensor, "*batch dim"],
        *,
        token_mask: Bool[Tensor, "*batch"] | None = None,
        expert_mask: Bool[Tensor, "..."] | None = None,
        generator: Generator | None = None,
    ) -> Routing:
        """Routes tokens. False in `token_mask`: padding (weight 0, not counted); in `expert_mask`: forbidden expert."""
        if tokens.shape[-1] != self.projection.in_features:
            raise ValueError(f"tokens must have size {self.projection.in_features}, got shape {tuple(tokens.shape)}")
        if self.training and self.jitter:
            factor = (
                torch.empty_like(tokens)
                .detach()
                .uniform_(1 - self.jitter, 1 + self.jitter, generator=source(generator, tokens))
            )
            tokens = tokens * factor
        logits = self.projection(tokens).float()
        if expert_mask is not None:
            self._check_expert_mask(expert_mask, logits)
            logits = logits.masked_fill(~expert_mask, -torch.inf)
        probs = torch.softmax(logits, -1)
        chosen, experts = self._choose(logits, generator)
        if self.gates == "uniform":
            weights = chosen / self.k
        else:
            weights = chosen * (probs / (chosen.detach() * probs).sum(-1, keepdim=True))
        if token_mask is not None:
            if token_mask.shape != tokens.shape[:-1] or token_mask.dtype != torch.bool:
                raise ValueError(
                    f"token_mask must be boolean of shape {tuple(tokens.shape[:-1])}, got {token_mask.shape}"
                )
            weights = weights * token_mask.unsqueeze(-1)
        return Routing(weights.to(tokens.dtype), experts, probs, self._balance(probs, chosen.detach(), token_mask))

    def extra_repr(self) -> str:
        """Shown by print(module)."""
        estimator = facts_of(self.estimator).name if self.gradient_of_choice else None
        return f"num_experts={self.num_experts}, k={self.k}, estimator={estimator}, gates={self.gates!r}"

    def _choose(self, logits: Tensor, generator: Generator | None) -> tuple[Tensor, Tensor]:
        """The k-hot choice [*batch, num_experts] and the indices [*batch, k] in order of choice."""
        if (self.train_mode if self.training else self.eval_mode) == "topk":
            index = logits.detach().topk(self.k, -1).indices
            return torch.zeros_like(logits).scatter(-1, index, 1.0), index
        draws: list[Tensor] = []
        left = logits if self.gradient_of_choice else logits.detach()
        for _ in range(self.k):
            draws.append(draw(self.estimator, left, hyperparameters={}, generator=generator))
            left = left.masked_fill(draws[-1].detach() > 0, -torch.inf)
        return torch.stack(draws).sum(0), torch.stack([x.detach().argmax(-1) for x in draws], -1)

    def _balance(self, probs: Tensor, chosen: Tensor, token_mask: Tensor | None) -> Tensor:
        count = torch.ones_like(probs[..., :1]) if token_mask is None else token_mask.unsqueeze(-1).to(probs.dtype)
        total = count.sum().clamp_min(1.0)
        axes = tuple(range(probs.ndim - 1))
        share, mean = (chosen * count).sum(axes) / (total * self.k), (probs * count).sum(axes) / total
        return self.num_experts * (share * mean).sum()

    def _check_expert_mask(self, mask: Tensor, logits: Tensor) -> None:
        if mask.dtype != torch.bool or torch.broadcast_shapes(mask.shape, logits.shape) != logits.shape:
            raise ValueError(
                f"expert_mask must be boolean and broadcast to {tuple(logits.shape)}, got {tuple(mask.shape)}"
            )
        if has_values(mask) and bool((mask.expand(logits.shape).sum(-1) < self.k).any()):
            raise ValueError(f"expert_mask must allow at least k={self.k} experts for every token")
