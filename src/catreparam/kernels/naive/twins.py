"""The naive twin of every kernel, noise and sample given: for traced code, second derivatives and tests."""

import torch
from torch import Tensor

from catreparam.kernels.settings import Setting


def naive_surrogate(setting: Setting, logits: Tensor, noise: Tensor | None, x: Tensor | None) -> Tensor:
    """The estimator's `<method>_surrogate` for float rows: its ordinary gradient is what the kernel returns."""
    return setting.method.surrogate(logits, **setting.arguments(noise, x))


def naive_gradient(
    setting: Setting, logits: Tensor, upstream: Tensor, noise: Tensor | None, x: Tensor | None
) -> Tensor:
    """What a kernel's backward pass returns, as a differentiable function of logits and upstream gradient."""
    with torch.enable_grad():
        rows = logits if logits.requires_grad else logits.detach().requires_grad_()
        surrogate = naive_surrogate(setting, rows.float(), noise, x)
        return torch.autograd.grad(surrogate, rows, upstream.to(surrogate.dtype), create_graph=True)[0]
