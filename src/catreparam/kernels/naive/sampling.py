"""The naive path: noise and hard sample drawn as the method's rule says, the surrogate's ordinary gradient attached.

With noise and sample given it is the twin of every kernel: for traced code, second derivatives and tests.
"""

import torch
from torch import Generator, Tensor

from catreparam.categorical import (
    attach_gradient,
    centred,
    draw_antithetic_like,
    draw_gumbel_like,
    draw_normal_like,
    draw_one_hot,
    one_hot_like,
    wide,
)
from catreparam.kernels.methods import Draw, Rule
from catreparam.kernels.settings import Setting


def sample(setting: Setting, rows: Tensor, generator: Generator | None = None) -> Tensor:
    """The sample for rows [*batch, num_classes] in float32 or wider, with its gradient, under any transform."""
    draw = setting.method.draw or DRAWS.get(setting.method.drawn_by)
    if draw is None:
        raise ValueError(f"{setting.method} does not say how its naive path draws: give its Method(draw=...)")
    x, surrogate = draw(setting, rows, generator)
    return attach_gradient(x, surrogate) if setting.hard else surrogate


def _direct(setting: Setting, rows: Tensor, generator: Generator | None) -> tuple[Tensor, Tensor]:
    x = draw_one_hot(torch.softmax(rows, -1), generator)
    return x, naive_surrogate(setting, rows, None, x)


def _gumbel(setting: Setting, rows: Tensor, generator: Generator | None) -> tuple[Tensor, Tensor]:
    noise = draw_gumbel_like(rows, generator)
    return one_hot_like((rows + noise).argmax(-1), rows), naive_surrogate(setting, rows, noise, None)


def _chain(setting: Setting, rows: Tensor, generator: Generator | None) -> tuple[Tensor, Tensor]:
    relaxed = naive_surrogate(setting, rows, draw_normal_like(rows, generator), None)
    return draw_one_hot(relaxed, generator) if setting.hard else relaxed, relaxed


def _sweep(setting: Setting, rows: Tensor, generator: Generator | None) -> tuple[Tensor, Tensor]:
    x = draw_one_hot(torch.softmax(rows, -1), generator)
    return x, naive_surrogate(setting, rows, draw_antithetic_like(rows, setting.num_noises, generator), x)


DRAWS: dict[Rule | None, Draw] = {
    Rule.DIRECT: _direct,
    Rule.GUMBEL: _gumbel,
    Rule.CHAIN: _chain,
    Rule.MATCHED: _chain,
    Rule.SWEEP: _sweep,
}


def naive_surrogate(setting: Setting, logits: Tensor, noise: Tensor | None, x: Tensor | None) -> Tensor:
    """The estimator's `<method>_surrogate` for float rows: its ordinary gradient is what the kernel returns."""
    return setting.method.surrogate(logits, **setting.arguments(noise, x))


def naive_gradient(
    setting: Setting, logits: Tensor, upstream: Tensor, noise: Tensor | None, x: Tensor | None
) -> Tensor:
    """What a kernel's backward pass returns; where gradients are enabled, differentiable in logits and upstream."""
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        rows = logits if logits.requires_grad else logits.detach().requires_grad_()
        surrogate = naive_surrogate(setting, centred(wide(rows)), noise, x)
        return torch.autograd.grad(surrogate, rows, upstream.to(surrogate.dtype), create_graph=create_graph)[0]
