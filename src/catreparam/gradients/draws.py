"""Many independent draws of one estimator's gradient."""

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from catreparam.estimators.expectation import expectation
from catreparam.estimators.joint import Objective


def draw_gradients(
    objective: Objective,
    logits: Tensor,
    method: str | Callable[..., Tensor],
    num_draws: int,
    num_samples: int,
    mask: Tensor | None,
    generator: Generator | None,
) -> tuple[Tensor, float]:
    """Gradients [num_draws, *logits.shape] and the bytes that one draw keeps for backward."""
    per_chunk = max(1, min(num_draws, 2_000_000 // max(logits.numel() * num_samples, 1)))
    chunks, kept = [], 0.0
    for begin in range(0, num_draws, per_chunk):
        count = min(per_chunk, num_draws - begin)
        leaf = logits.detach().expand(count, *logits.shape).clone().requires_grad_()
        saved: dict[int, int] = {}

        def note(tensor: Tensor, saved: dict[int, int] = saved) -> Tensor:
            storage = tensor.untyped_storage()
            saved[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            loss = expectation(
                objective, leaf, estimator=method, num_samples=num_samples, mask=mask, generator=generator
            )
            chunks.append(torch.autograd.grad(loss.sum(), leaf)[0].double())
        kept = max(kept, sum(saved.values()) / count)
    return torch.cat(chunks), kept
