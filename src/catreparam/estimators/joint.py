"""What score-function estimators share: the joint draw over all variables that one loss depends on.

An objective maps one-hot x [*batch, *variables, num_classes] to a loss [*batch]. Which axes are variables shows in the
shape of the loss: they are the axes between those of the loss and the classes.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from catreparam.categorical import Rows, log_prob
from catreparam.graph import leads_to
from catreparam.validation import inside_transform, is_exporting, is_jit_tracing, is_recorded

Objective = Callable[[Tensor], Tensor]
Loss = Float[Tensor, "..."]  # one entry per example: the leading axes of x


def evaluate(objective: Objective, x: Tensor, *, kept: bool = True) -> Loss:
    """objective(x), checked: its shape must be a prefix of x's batch and variable axes.

    Objectives may change their argument in place: they get a copy of an x that is `kept` for anything else, or has no
    history. A loss without a gradient in an x that has one may be looked at, and its gradient in parameters taken;
    differentiating it in x is a ValueError.

    Raises TypeError unless a tensor comes back, ValueError if its shape does not fit or it is not floating.
    """
    watched = x.requires_grad and torch.is_grad_enabled() and not _is_followed()
    given = x.clone() if kept or (watched and (x.is_leaf or x._is_view())) else x  # writing replaces a view's node
    entrance = given.grad_fn if watched else None  # before the objective writes into it
    loss = objective(given)
    if not isinstance(loss, Tensor):
        raise TypeError(f"objective must return a torch.Tensor, got {type(loss).__name__}")
    if not loss.is_floating_point():
        raise TypeError(f"objective must return a floating tensor, got {loss.dtype}")
    if loss.ndim >= x.ndim or loss.shape != x.shape[: loss.ndim]:
        raise ValueError(
            f"objective must map x {tuple(x.shape)} to one loss per example, a leading part of {tuple(x.shape[:-1])} "
            f"(or a scalar), got shape {tuple(loss.shape)}"
        )
    if watched and not leads_to(loss, entrance):
        return loss + _WithoutGradient.apply(x, loss.detach())
    return loss


def _is_followed() -> bool:
    """Whether a transform, compiler or recorder runs: they see the graph themselves."""
    return inside_transform() or is_recorded() or torch.compiler.is_compiling()


class _WithoutGradient(torch.autograd.Function):
    """Nothing, added to a loss that does not depend on x differentiably: its gradient in x is an error that says so."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, loss: Tensor) -> Tensor:
        return torch.zeros_like(loss)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        raise ValueError(
            "the loss does not depend on x differentiably (through argmax, rounding, a look-up or detach?), and this "
            "estimator passes on its gradient in x. Use a score-function estimator, which needs values alone: "
            "expectation(objective, logits, estimator='rloo', num_samples=4). A loss that is constant on purpose "
            "becomes differentiable by + 0 * x.sum()"
        )


def sum_variables(values: Tensor, loss: Loss) -> Loss:
    """Sums per-variable values [*batch, *variables] over the variables of each loss."""
    return values.flatten(loss.ndim).sum(-1) if values.ndim > loss.ndim else values


def joint_log_prob(logits: Rows, x: Rows, loss: Loss) -> Loss:
    """log P(x) of all variables that one loss depends on."""
    return sum_variables(log_prob(logits, x), loss)


def over_variables(values: Tensor, rows: Tensor) -> Tensor:
    """Per-example values with size-1 axes appended, to multiply rows [*batch, *variables, num_classes]."""
    return values.reshape((*values.shape, *(1,) * (rows.ndim - values.ndim)))


def add_gradient(loss: Loss, term: Tensor) -> Loss:
    """The loss, in value and dtype, with the gradient of `term` added to its own."""
    return loss + (term - term.detach()).to(loss.dtype)


def leave_one_out(values: Tensor) -> Tensor:
    """For samples on axis 0: the mean of all the others. Needs at least two."""
    return (values.sum(0, keepdim=True) - values) / (values.shape[0] - 1)


def relaxed_gradient(objective: Objective, x_soft: Tensor) -> tuple[Loss, Tensor]:
    """The loss at a relaxed sample and its gradient there, both constants: parameters inside get nothing from it."""
    if not torch.is_grad_enabled():  # nor can it be in inference mode, and nobody asks for a gradient
        return evaluate(objective, x_soft), torch.zeros_like(x_soft)
    if is_jit_tracing() or is_exporting():
        raise RuntimeError(
            "a method with a relaxed control variate differentiates inside its forward pass, which torch.jit.trace and "
            "torch.export cannot record; use rloo, or record under torch.no_grad()"
        )
    if inside_transform() or torch.compiler.is_compiling():
        slope, loss = torch.func.grad(lambda x: _sum_and_loss(objective, x), has_aux=True)(x_soft.detach())
        return loss.detach(), slope.detach()
    with torch.enable_grad():
        point = x_soft.detach().requires_grad_()
        loss = evaluate(objective, point)
        (slope,) = torch.autograd.grad(loss.sum(), point, allow_unused=True, materialize_grads=True)
    return loss.detach(), slope


def _sum_and_loss(objective: Objective, x: Tensor) -> tuple[Tensor, Loss]:
    loss = evaluate(objective, x)
    return loss.sum(), loss
