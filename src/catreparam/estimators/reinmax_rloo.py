"""ReinMax and the score function from the same stratified samples, mixed by weights that the samples show."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from catreparam.categorical import Rows, covariance_product, one_hot_like, source, spoil, to_rows
from catreparam.estimators.facts import Range, estimator
from catreparam.estimators.joint import Objective, evaluate, over_variables
from catreparam.validation import check_count, check_number, inside_transform, is_recorded

REMEDY = "use reinmax or rloo"


@estimator(
    "Score function and exact",
    fewest_samples=2,
    search={"second_order_weight": Range(0.0, 1.5, 1.0)},
    unsupported={
        "compile": "carries the losses of its samples to the backward pass; without fullgraph it runs uncompiled",
        "vmap": "carries the losses of its samples to the backward pass. Use `reinmax` or `rloo`, or run outside",
        "func.grad": "carries the losses of its samples to the backward pass. Use `reinmax` or `rloo`, or run outside",
        "jit.trace": "carries the losses of its samples to the backward pass. Use `reinmax` or `rloo`",
        "make_fx": "carries the losses of its samples to the backward pass. Use `reinmax` or `rloo`",
    },
    tuned=False,
)
def reinmax_rloo(
    objective: Objective,
    logits: Float[Tensor, "*batch num_classes"],
    *,
    second_order_weight: float = 1.0,
    num_samples: int = 4,
    mask: Bool[Tensor, "..."] | None = None,
    generator: Generator | None = None,
) -> Float[Tensor, "*losses"]:
    """E[objective(x)] with the mixture w ReinMax + (1 - w) score function that has the least error.

    Estimates: grad E[f(x)], x ~ Categorical(softmax(logits)), all variables of a loss jointly.
    By:        two independent halves of the samples, each stratified: within a half every variable's uniforms are
               evenly spaced, with an offset and an order of their own, so that each sample alone follows the law.
               ReinMax (its second-order part times `second_order_weight`) and the score function, whose baseline is the
               other half's mean loss, are taken from the same samples. w in [0, 1] is the least-squares weight of
               ReinMax against the other half's score function, which is independent and unbiased; examples of even
               place use the weight of those of odd place and the reverse: w is independent of what it weighs. A single
               example uses w = 1.
    Bias:      w times ReinMax's. Where ReinMax is good (many variables, each of little weight) w is near 1 and
               stratification leaves four fifths of its variance; where its bias is large (few variables, peaked laws) w
               is near 0.
    Cost:      num_samples >= 2 evaluations of f and of its gradient, as ReinMax with as many samples.
    Raises:    ValueError for num_samples < 2 or a weight outside [0, 2]; TypeError or ValueError for bad input and
               losses of the wrong shape; RuntimeError for a second derivative.

    >>> logits = torch.zeros(4, 3, requires_grad=True)
    >>> reinmax_rloo(lambda x: x[..., 0], logits, generator=torch.Generator().manual_seed(0)).shape
    torch.Size([4])

    Source: this project; see `docs/estimators.md`. ReinMax: Liu et al. 2023, https://arxiv.org/abs/2304.08612.
    """
    second_order_weight = check_number("second_order_weight", second_order_weight, least=0.0, most=2.0)
    if check_count("num_samples", num_samples) < 2:
        raise ValueError(f"reinmax_rloo needs num_samples of at least 2, one in each half, got {num_samples}")
    if inside_transform() or is_recorded():
        raise RuntimeError(
            "reinmax_rloo carries the losses to the backward pass and cannot run inside torch.func transforms, "
            f"torch.vmap, torch.jit.trace or make_fx; call it outside, or {REMEDY}"
        )
    return _loss(objective, logits, second_order_weight, num_samples, mask, generator)  # type: ignore[call-arg]


@torch.compiler.disable  # a compiler would run the two halves of the backward pass without what they tell each other
def _loss(
    objective: Objective,
    logits: Tensor,
    weight: float,
    num_samples: int,
    mask: Tensor | None,
    generator: Generator | None,
) -> Tensor:
    rows = to_rows(logits, mask, generator=generator)
    probs = torch.softmax(rows, -1).detach()
    halves = (num_samples // 2, num_samples - num_samples // 2)
    x = torch.cat([draw_stratified(probs, count, generator) for count in halves])  # [S, *batch, *variables, K]
    record = _Record()
    samples = _Mixed.apply(rows, x, weight, record).to(logits.dtype)
    losses = torch.stack([evaluate(objective, sample) for sample in samples])  # [S, *batch]
    return _Watched.apply(losses, record).mean(0)


def draw_stratified(probs: Rows, num_samples: int, generator: Generator | None = None) -> Tensor:
    """One-hot x [num_samples, *batch, num_classes] by systematic sampling: a row's uniforms are evenly spaced.

    One offset and one order a row. Each x alone follows probs, rows independent of each other; across samples every
    class comes up within one of num_samples times its probability.
    """
    shape = (num_samples + 1, *probs.shape[:-1])
    wide = torch.float64  # for rare classes
    uniforms = torch.rand(shape, generator=source(generator, probs), dtype=wide, device=probs.device)
    uniforms = (uniforms[1:].argsort(0) + uniforms[0]) / num_samples  # [S, *batch]
    below = probs.cumsum(-1, dtype=torch.float64)
    index = (uniforms.unsqueeze(-1) * below[..., -1:] >= below).sum(-1)  # the first class that reaches beyond
    last = (probs > 0).long().cumsum(-1).argmax(-1)  # rounding may step over it
    return spoil(one_hot_like(torch.minimum(index, last), probs), probs)


@dataclass
class _Record:
    """What the backward pass of the samples needs of the losses: their values, and the gradient that reached them."""

    losses: Tensor | None = None
    upstream: Tensor | None = None


class _Watched(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, losses: Tensor, record: _Record) -> Tensor:
        ctx.record = record
        record.losses = losses.detach()
        return losses.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        ctx.record.upstream = gradients[0]
        return gradients[0], None


class _Mixed(torch.autograd.Function):
    """The samples; their gradient is turned into that of the logits, once the losses' has passed through `_Watched`."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, x: Tensor, weight: float, record: _Record) -> Tensor:
        ctx.save_for_backward(torch.softmax(rows, -1), x)
        ctx.weight, ctx.record = weight, record
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        with torch.no_grad():
            gradient = _Mixed.gradient_of(ctx, gradients[0])
        return _Once.apply(gradient, *gradients) if torch.is_grad_enabled() else gradient, None, None, None

    @staticmethod
    def gradient_of(ctx: Any, slopes: Tensor) -> Tensor:
        probs, x = ctx.saved_tensors
        losses, upstream = ctx.record.losses, ctx.record.upstream
        if upstream is None:
            raise RuntimeError(f"a gradient reached the samples of reinmax_rloo, but not through its losses; {REMEDY}")
        ctx.record.upstream = None
        split = len(x) // 2
        deviation = x - probs
        others = torch.cat(
            [losses[split:].mean(0).expand_as(losses[:split]), losses[:split].mean(0).expand_as(losses[split:])]
        )
        score = over_variables(upstream * (losses - others), x) * deviation
        one_sample = deviation * (deviation * slopes).sum(-1, keepdim=True)
        half = ctx.weight / 2
        reinmax = (1 - half) * covariance_product(probs, slopes) + half * one_sample
        mixture = mixing_weight(reinmax, score, split, losses.ndim - 1)
        return (mixture * reinmax + (1 - mixture) * score).sum(0)


class _Once(torch.autograd.Function):
    """A gradient that cannot be differentiated again: its mixture is fitted on losses that are constants here."""

    generate_vmap_rule = True

    @staticmethod
    def forward(gradient: Tensor, slopes: Tensor) -> Tensor:
        return gradient.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        raise RuntimeError(f"reinmax_rloo has no second derivatives; {REMEDY}")


def mixing_weight(reinmax: Tensor, score: Tensor, split: int, batch_axes: int) -> Tensor:
    """The weight of `reinmax` [*batch, 1, ...] in [0, 1], fitted for each half of the examples on the other half.

    Both are [S, *batch, *variables, num_classes], samples before and after `split` independent. For a = ReinMax and r =
    score of one half of the samples and r' = score of the other, w minimises the sum of |r + w (a - r) - r'|^2. An
    example that is not finite has no part in it.
    """
    batch = reinmax.shape[1 : 1 + batch_axes]
    if batch.numel() < 2:
        return torch.ones((), dtype=reinmax.dtype, device=reinmax.device)
    top = bottom = torch.zeros((), dtype=reinmax.dtype, device=reinmax.device)
    parts = (slice(None, split), slice(split, None))
    for here, there in (parts, parts[::-1]):
        scale = len(reinmax) / len(reinmax[here])  # each half's mean, in the scale of the whole's sum
        r, other = scale * score[here].sum(0), len(score) / len(score[there]) * score[there].sum(0)
        change = scale * reinmax[here].sum(0) - r  # [*batch, *variables, K]
        top = top + (change * (other - r)).reshape(batch.numel(), -1).sum(-1)
        bottom = bottom + change.square().reshape(batch.numel(), -1).sum(-1)
    counts = (top + bottom).isfinite()
    even = torch.arange(batch.numel(), device=reinmax.device) % 2 == 0
    fits = [torch.where(half & counts, torch.stack((top, bottom)), 0.0).sum(-1) for half in (even, ~even)]
    weights = [(above / below.clamp_min(1e-30)).clamp(0, 1) for above, below in fits]
    weight = torch.where(even, weights[1], weights[0])
    return weight.reshape(*batch, *(1,) * (reinmax.ndim - 1 - batch_axes))
