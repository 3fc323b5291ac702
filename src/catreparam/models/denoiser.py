"""A bidirectional transformer that restores masked tokens: a prior of masked diffusion, over boards, say."""

import math
from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor, nn
from torch.nn.functional import embedding, layer_norm, linear, relu, softmax

from catreparam.validation import check_count


class MaskedDenoiser(nn.Module):
    """Tokens [B, L], some of them masked, to logits [B, L, vocab_size] of what stands at every position.

    `vocab_size` does not count the mask, whose id is `mask_token` = vocab_size. The `num_layers` blocks are run
    `num_loops` times with the same weights, the embedding added anew each time. `attention_mask` [num_heads, L, L] says
    where every head may look (True = may); `positions` adds a learned embedding of every position, without which the
    network treats all positions that look alike alike; `num_labels` adds an embedding of a label per example (one more
    stands for none).

    Raises: ValueError for sizes below 1, a width that the heads do not divide, or an attention mask of another shape.

    >>> model = MaskedDenoiser(9, 81, width=32, num_heads=2)
    >>> model(torch.full((4, 81), model.mask_token)).shape
    torch.Size([4, 81, 9])
    """

    def __init__(
        self,
        vocab_size: int,
        length: int,
        *,
        width: int = 128,
        num_layers: int = 4,
        num_heads: int = 4,
        num_loops: int = 1,
        positions: bool = True,
        num_labels: int = 0,
        attention_mask: Bool[Tensor, "num_heads length length"] | None = None,
        generator: Generator | None = None,
    ) -> None:
        super().__init__()
        sizes = {"vocab_size": vocab_size, "length": length, "width": width, "num_layers": num_layers}
        for name, size in (sizes | {"num_heads": num_heads, "num_loops": num_loops}).items():
            check_count(name, size)
        if width % num_heads:
            raise ValueError(f"width must be a multiple of num_heads, got {width} and {num_heads}")
        if attention_mask is not None and attention_mask.shape != (num_heads, length, length):
            raise ValueError(f"attention_mask must be {(num_heads, length, length)}, got {tuple(attention_mask.shape)}")
        self.vocab_size = self.mask_token = vocab_size
        self.length, self.num_loops, self.num_labels = length, num_loops, num_labels
        self.register_buffer("attention_mask", attention_mask, persistent=False)
        self.token_embedding = _normal((vocab_size + 1, width), 1.0, generator)
        self.position_embedding = _normal((length, width), 1.0, generator) if positions else None
        self.label_embedding = _normal((num_labels + 1, width), 1.0, generator) if num_labels else None
        self.blocks = nn.ModuleList(
            _Block(width, num_heads, num_layers * num_loops, generator) for _ in range(num_layers)
        )
        self.readout = _normal((vocab_size, width), 0.5 / math.sqrt(width), generator)

    def forward(
        self, tokens: Int[Tensor, "batch length"], label: Int[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch length vocab_size"]:
        """Logits after the last loop."""
        *_, logits = self.logits_of_loops(tokens, label)
        return logits

    def logits_of_loops(
        self, tokens: Int[Tensor, "batch length"], label: Int[Tensor, " batch"] | None = None
    ) -> Iterator[Float[Tensor, "batch length vocab_size"]]:
        """Yields the logits read off after each loop: training every one of them teaches the loop to refine."""
        start = self._embed(tokens, label)  # [B, L, width]
        state = torch.zeros_like(start)
        for _ in range(self.num_loops):
            state = state + start
            for block in self.blocks:
                state = block(state, self.attention_mask)
            yield linear(_normalise(state), self.readout)

    def _embed(self, tokens: Tensor, label: Tensor | None) -> Tensor:
        if tokens.ndim != 2 or tokens.shape[-1] != self.length:
            raise ValueError(f"tokens must be [batch, {self.length}], got {tuple(tokens.shape)}")
        start = embedding(tokens, self.token_embedding)
        if self.position_embedding is not None:
            start = start + self.position_embedding
        if self.label_embedding is not None:
            none = torch.full_like(tokens[:, 0], self.num_labels)
            start = start + embedding(none if label is None else label, self.label_embedding)[:, None]
        return start


class _Block(nn.Module):
    """Attention, then a two-layer network, each on the normalised state and added to it."""

    def __init__(self, width: int, num_heads: int, depth: int, generator: Generator | None) -> None:
        super().__init__()
        self.num_heads, scale = num_heads, 1 / math.sqrt(width)
        self.attention_in = _normal((3 * width, width), scale, generator)
        self.attention_out = _normal((width, width), scale / math.sqrt(2 * depth), generator)
        self.inner_in = _normal((4 * width, width), scale, generator)
        self.inner_in_bias = nn.Parameter(torch.zeros(4 * width))
        self.inner_out = _normal((width, 4 * width), scale / math.sqrt(8 * depth), generator)
        self.inner_out_bias = nn.Parameter(torch.zeros(width))

    def forward(self, state: Tensor, attention_mask: Tensor | None) -> Tensor:
        projected = linear(_normalise(state), self.attention_in)  # [B, L, 3 width]
        query, key, value = projected.unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)  # [B, heads, L, d]
        mixed = _attend(query, key, value, attention_mask)
        state = state + linear(mixed.transpose(1, 2).flatten(2), self.attention_out)
        inner = relu(linear(_normalise(state), self.inner_in, self.inner_in_bias))
        return state + linear(inner, self.inner_out, self.inner_out_bias)


def _attend(query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None) -> Tensor:
    """Plain attention: at these lengths as fast as a fused kernel on a CPU, and differentiable as often as wanted."""
    scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])  # [B, heads, L, L]
    if attention_mask is not None:
        scores = scores.masked_fill(~attention_mask, -torch.inf)
    return softmax(scores, -1) @ value


def _normalise(state: Tensor) -> Tensor:
    return layer_norm(state, state.shape[-1:])


def _normal(shape: tuple[int, ...], scale: float, generator: Generator | None) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape, generator=generator) * scale)
