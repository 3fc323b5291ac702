"""Whole sequences x from their free rows: the frozen rows, which never change, are written once and not again."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from catreparam.kernels.compiled.library import spacious
from catreparam.masked_diffusion import one_hot_tokens
from catreparam.validation import inside_transform


def take_rows(x: Shaped[Tensor, "B L V"], places: Int[Tensor, "B M"]) -> Shaped[Tensor, "B M V"]:
    """The rows of x at these places of the flattened batch (`Canvas.places`)."""
    return x.flatten(0, 1).index_select(0, places.flatten()).unflatten(0, places.shape)


def put_rows(x: Shaped[Tensor, "B L V"], places: Int[Tensor, "B M"], rows: Shaped[Tensor, "B M V"]) -> Tensor:
    """x with these rows at the places, in place."""
    x.view(-1, x.shape[-1]).index_copy_(0, places.flatten(), rows.flatten(0, 1))
    return x


@dataclass(frozen=True)
class Placed:
    """What x [B, L, V] consists of: rows at places (`Canvas.places`), and one-hot tokens everywhere else."""

    rows: Float[Tensor, "B M V"]
    tokens: Int[Tensor, "B L"]
    places: Int[Tensor, "B M"]

    @staticmethod
    def of(x: Tensor) -> "Placed | None":
        """The parts of x, or None: they are not known, or x was written into since."""
        placed, version = getattr(x, "_catreparam_placed", (None, 0))
        return placed if placed is not None and version == x._version else None

    def keep_with(self, x: Tensor) -> Tensor:
        """x, whose parts are known until somebody writes into it (which inference tensors would not tell)."""
        if not x.is_inference():
            x._catreparam_placed = self, x._version  # type: ignore[attr-defined]
        return x


def one_hot_sequences(tokens: Int[Tensor, "B L"], vocab_size: int) -> Float[Tensor, "B L V"]:
    """`one_hot_tokens` that remember their tokens, so that a lookup of embeddings need not search for them."""
    x = one_hot_tokens(tokens, vocab_size)
    nowhere = tokens.new_empty(tokens.shape[0], 0)
    return Placed(x.new_empty(tokens.shape[0], 0, vocab_size), tokens, nowhere).keep_with(x)


class Canvas:
    """Frozen tokens [B, L], among which free rows are placed.

    Parameters:
        tokens: [B, L], in [0, V); those where rows are placed do not matter.
        index: [B, M], the positions of the rows.
    """

    def __init__(self, tokens: Int[Tensor, "B L"], index: Int[Tensor, "B M"]) -> None:
        batch, length = tokens.shape
        self.tokens = tokens
        self.places = index + length * torch.arange(batch, device=index.device).unsqueeze(-1)
        self._x: Tensor | None = None  # the last x, and its version as it left
        self._version = 0

    def complete(self, rows: Float[Tensor, "B M V"]) -> Float[Tensor, "B L V"]:
        """x [B, L, V]. Its memory is that of the x before, unless somebody keeps or has changed that one."""
        if inside_transform() or torch.compiler.is_compiling():
            flat = self._frozen(rows).flatten(0, 1)
            return flat.index_copy(0, self.places.flatten(), rows.flatten(0, 1)).unflatten(0, self.tokens.shape)
        x = self._x
        if x is None or x.dtype != rows.dtype or x._version != self._version or not _is_ours_alone(x):
            x = self._x = self._frozen(rows)
        placed: Tensor = _Place.apply(rows, x.detach(), self.places)
        self._version = placed._version
        return Placed(rows, self.tokens, self.places).keep_with(placed)

    def _frozen(self, rows: Tensor) -> Tensor:
        """One-hot tokens everywhere, as if nothing was to be placed."""
        zeros = spacious((*self.tokens.shape, rows.shape[-1]), rows).zero_()
        return zeros.scatter_(-1, self.tokens.unsqueeze(-1), 1.0)


def _is_ours_alone(x: Tensor) -> bool:
    """Whether no other tensor shares the memory of x: a view, a graph's saved tensor, what a reward has kept."""
    count = getattr(torch._C, "_storage_Use_Count", None)
    storage = x.untyped_storage()  # counts once itself
    return count is not None and count(storage._cdata) == 2


class _Place(torch.autograd.Function):
    """`put_rows`, of which only the rows' gradient is taken."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, x: Tensor, places: Tensor) -> Tensor:
        ctx.mark_dirty(x)
        ctx.save_for_backward(places)
        return put_rows(x, places, rows)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (places,) = ctx.saved_tensors
        return take_rows(gradients[0], places), None, None
