"""Embeddings of one-hot tokens without the product: an index lookup forward, one matrix product backward."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from catreparam.guidance.rewards import is_hard
from catreparam.validation import inside_transform


def codebook_embed(
    x: Float[Tensor, "*batch num_codes"], codebook: Float[Tensor, "num_codes dim"]
) -> Float[Tensor, "*batch dim"]:
    """x @ codebook. For hard x the rows are looked up, and the backward pass is grad @ codebook.T.

    Same value and gradients (for x and codebook) as the product; relaxed x take the product itself.
    Cost:   a pass over x forward; backward one tensor of the size of x. x itself is not kept.
    Raises: ValueError if the last axis of x does not fit the codebook.

    >>> codebook_embed(torch.eye(3)[[2, 0]], torch.tensor([[1.0], [2.0], [3.0]])).tolist()
    [[3.0], [1.0]]
    """
    if codebook.ndim != 2 or x.shape[-1] != codebook.shape[0]:
        raise ValueError(
            f"x {tuple(x.shape)} does not fit a codebook {tuple(codebook.shape)}; its last axis must have num_codes entries"
        )
    codebook = codebook.to(x.dtype)
    if inside_transform() or torch.compiler.is_compiling() or not is_hard(x):
        return x @ codebook
    return _Lookup.apply(x, codebook)


class _Lookup(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, codebook: Tensor) -> Tensor:
        index = x.argmax(-1)
        ctx.save_for_backward(index, codebook)
        return codebook[index]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None]:
        (upstream,) = gradients
        index, codebook = ctx.saved_tensors
        for_x = upstream @ codebook.T if ctx.needs_input_grad[0] else None
        for_codebook = None
        if ctx.needs_input_grad[1]:
            rows = upstream.reshape(-1, codebook.shape[1])
            for_codebook = torch.zeros_like(codebook).index_add(0, index.flatten(), rows)
        return for_x, for_codebook
