"""Embeddings of one-hot tokens without the product: an index lookup forward, one matrix product backward."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from catreparam.guidance.placing import Placed
from catreparam.guidance.rewards import Reward, is_hard
from catreparam.pending import waits
from catreparam.validation import check_count, inside_transform


def codebook_embed(
    x: Float[Tensor, "*batch num_codes"], codebook: Float[Tensor, "num_codes dim"]
) -> Float[Tensor, "*batch dim"]:
    """x @ codebook. For hard x the rows are looked up, and the backward pass is grad @ codebook.T.

    Same value and gradients (for x and codebook) as the product. Relaxed x take the product itself, and so do all on a
    CUDA device, which a look at x would wait for.
    Cost:   a pass over x forward; backward one tensor of the size of x. x itself is not kept.
    Raises: ValueError if the last axis of x does not fit the codebook.

    >>> codebook_embed(torch.eye(3)[[2, 0]], torch.tensor([[1.0], [2.0], [3.0]])).tolist()
    [[3.0], [1.0]]
    """
    if codebook.ndim != 2 or x.shape[-1] != codebook.shape[0]:
        raise ValueError(
            f"x {tuple(x.shape)} does not fit a codebook {tuple(codebook.shape)}; "
            "its last axis must have num_codes entries. The same vocabulary, padded: pass the rows of its tokens, "
            "codebook[:x.shape[-1]], or give the denoiser fewer, from_masked_lm(…, vocab_size=len(tokenizer))"
        )
    codebook = codebook.to(x.dtype)
    if inside_transform() or torch.compiler.is_compiling():
        return x @ codebook
    if (placed := Placed.of(x)) is not None:  # the frozen rows of x need neither a look nor a gradient
        frozen, free = codebook[placed.tokens].flatten(0, 1), codebook_embed(placed.rows, codebook).flatten(0, 1)
        return frozen.index_copy(0, placed.places.flatten(), free).unflatten(0, placed.tokens.shape)
    return x @ codebook if waits(x.device) or not is_hard(x) else _Lookup.apply(x, codebook)


def on_embeddings(score: Callable[..., Tensor], codebook: Float[Tensor, "num_codes dim"]) -> Reward:
    """A reward from a score of embedded tokens [B, L, dim] -> [B]; its further arguments are the condition's.

    The codebook may be another model's table of embeddings, a reward model's say, of the same vocabulary: its rows and
    the denoiser's tokens must mean the same, and be as many (`codebook[:vocab_size]` of a padded one). Then `score`
    calls that model on embeddings, `model(inputs_embeds=embedded)`.

    >>> reward = on_embeddings(lambda embedded: embedded.sum((1, 2)), torch.tensor([[1.0], [2.0], [3.0]]))
    >>> reward(torch.eye(3)[None, [2, 0]])
    tensor([4.])
    """
    return _named_as(score, lambda x, **condition: score(codebook_embed(x, codebook), **condition))


def on_images(
    score: Callable[..., Tensor],
    decoder: Callable[[Tensor], Tensor],
    codebook: Float[Tensor, "num_codes dim"],
    *,
    grid: tuple[int, int],
) -> Reward:
    """A reward from a score of decoded images -> [B]; `decoder` maps embeddings [B, dim, height, width] to images.

    `grid` is (height, width), positions row by row. Further arguments of `score` are the condition's. Raises ValueError
    when the grid does not have L cells.

    >>> codebook = torch.tensor([[1.0], [2.0]])
    >>> reward = on_images(lambda image: image.amax((1, 2, 3)), lambda z: 2 * z, codebook, grid=(1, 2))
    >>> reward(torch.eye(2)[None])
    tensor([4.])
    """
    height, width = check_count("height", grid[0]), check_count("width", grid[1])

    def reward(x: Tensor, **condition: Any) -> Tensor:
        if x.shape[1] != height * width:
            raise ValueError(f"a grid of {height} x {width} does not fit {x.shape[1]} positions")
        return score(decoder(codebook_embed(x, codebook).mT.unflatten(-1, (height, width))), **condition)

    return _named_as(score, reward)


def _named_as(score: Callable[..., Any], reward: Reward) -> Reward:
    """The reward, with the arguments of the score."""
    return functools.update_wrapper(reward, score, assigned=(), updated=())  # type: ignore[type-var]


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
