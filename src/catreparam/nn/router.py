"""Top-k routing for mixtures of experts, with a gradient for the choice itself."""

from jaxtyping import Bool, Float
from torch import Generator, Tensor, nn

from catreparam.arguments import hands_on
from catreparam.estimators.sampling import Sampler
from catreparam.nn.routing import RoutesTokens, Routing, jittered
from catreparam.validation import check_count, check_counted, check_features, check_number


class TopKRouter(RoutesTokens, nn.Module):
    """Chooses k of num_experts for every token [*batch, dim] and weighs them.

    Choice:   p = softmax(W token). `sample` (while training) draws k experts one after another without replacement,
              each from p over those that are left; `topk` (in eval mode) takes the k most probable. The result is a
              k-hot s.
    Weights:  gates="probs": w = s * p / (sum of the chosen p); gates="uniform": w = s / k. normalize=False leaves the
              quotient out: w = s * p, w = s.
    Gradient: through p as it stands. Through s: each draw is one call of `estimator` and carries its gradient, given
              the draws before it; each of the k most probable carries straight-through's, that of softmax over the
              experts left. The sum of the chosen p counts as a constant there. estimator=None cuts s off, which is the
              usual top-k router; its weights then get no gradient with uniform gates, nor with k = 1 and
              normalize=True, and W learns from the two losses alone.
    Bias:     the estimator's, and, where only chosen experts are evaluated, that the other entries of dL/dw are taken
              as 0.
    Capacity: first choices come before second ones, then order counts; a choice that finds its expert full
              has weight 0 and False in `kept`. The other weights stay as they are.
    Balance:  `load_balancing_loss` = num_experts * sum_e f_e P_e, f the share of choices (dropped ones too), P the mean
              of p: 1 when balanced, num_experts at worst; its gradient flows through P only. (Fedus et al. 2021,
              https://arxiv.org/abs/2101.03961.) `z_loss` is the mean of logsumexp(logits)^2. (Zoph et al. 2022,
              https://arxiv.org/abs/2202.08906.)

    Logits, p and losses are in float32, or float64 for a router in float64.

    Parameters:
        dim: size of a token.
        num_experts: how many there are.
        k: how many a token goes to.
        estimator: of every draw: a name, a made estimator, or any function logits -> x; None: no gradient through the
            choice.
        train_mode: how module.train() chooses: "sample" or "topk".
        eval_mode: how module.eval() chooses, likewise.
        gates: "probs" or "uniform", see Weights.
        jitter: in [0, 1): while training tokens are multiplied by uniform noise in [1 - jitter, 1 + jitter].
        normalize: whether the weights of a token's experts sum to 1.
        capacity: tokens an expert takes of a sequence (the last axis of *batch); None: any number.
        capacity_factor: instead: the capacity is this * k * tokens / num_experts, rounded up.

    Cost:   k calls of the estimator.
    Raises: ValueError for k outside 1..num_experts, jitter outside [0, 1), two capacities, modes, gates and estimators
            that do not exist; when called, for tokens of another size or with NaN, masks of the wrong shape, and a
            token with fewer than k experts allowed; TypeError for masks that are not boolean tensors.

    >>> import torch
    >>> router = TopKRouter(16, num_experts=4, k=2).eval()
    >>> routing = router(torch.zeros(3, 10, 16))
    >>> routing.weights.shape, routing.experts.shape, routing.weights.sum(-1).unique().tolist()
    (torch.Size([3, 10, 4]), torch.Size([3, 10, 2]), [1.0])
    """

    @hands_on
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
        normalize: bool = True,
        capacity: int | None = None,
        capacity_factor: float | None = None,
    ) -> None:
        super().__init__()
        self._set_routing(
            num_experts,
            k,
            estimator=estimator,
            train_mode=train_mode,
            eval_mode=eval_mode,
            gates=gates,
            normalize=normalize,
            capacity=capacity,
            capacity_factor=capacity_factor,
        )
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
        check_features("tokens", tokens, self.projection.in_features)
        if token_mask is not None:
            check_counted(token_mask, tokens, "token_mask")
            tokens = tokens.masked_fill(~token_mask.unsqueeze(-1), 0.0)  # whatever the padding holds, NaN too
        if self.training and self.jitter:
            tokens = jittered(tokens, self.jitter, generator)
        routing = self._route(self.projection(tokens), token_mask, expert_mask, generator)
        return routing._replace(weights=routing.weights.to(tokens.dtype))
