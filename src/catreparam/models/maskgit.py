"""Halton-MaskGIT: a bidirectional transformer over image tokens, conditioned on a class through its norms."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from catreparam.models.maskgit_config import MaskGITConfig


class MaskGIT(nn.Module):
    """Logits of every token, masked or not, given the others and a class label.

    Parameters carry the official names, so official checkpoints load as they are (`load_maskgit`). The label
    `config.nclass` is the null label: the model without a class, for classifier-free guidance and for an
    unconditional prior. The token `config.mask_token` (= codebook_size) stands for "masked".

    Reference: Besnier et al. 2025, https://arxiv.org/abs/2503.17076.
    """

    def __init__(self, config: MaskGITConfig) -> None:
        super().__init__()
        self.config = config
        width = config.hidden_dim
        self.cls_emb = nn.Embedding(config.nclass + 1, width)
        self.tok_emb = nn.Embedding(config.codebook_size + 1, width)
        self.pos_emb = nn.Embedding(config.input_size**2, width)
        if config.proj > 1:
            self.in_proj = nn.Conv2d(width, width, 2, stride=2, bias=False)
            self.out_proj = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.transformer = _Layers(config)
        self.last_norm = _AdaptiveNorm(width)
        self.head = nn.Linear(width, config.codebook_size + 1)
        self.head.weight = self.tok_emb.weight  # tied, as in the official model
        if config.register > 0:
            self.reg_tokens = nn.Embedding(config.register, width)

    def forward(
        self,
        tokens: Int[Tensor, "batch h w"] | Int[Tensor, "batch length"],
        labels: Int[Tensor, " batch"] | None = None,
        drop_label: Bool[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch length codes_and_mask"]:
        """Logits [batch, h * w, codebook_size + 1]; the last column is the mask token.

        Without labels, and where `drop_label` is True, the null label stands in. A flat [batch, length] must hold a
        square grid. Raises ValueError for tokens or labels outside their range and for a grid that does not fit.
        """
        grid = _to_grid(tokens)
        self._check(grid, labels)
        rows, columns = grid.shape[1:]
        condition = self.cls_emb(self._labels(len(grid), labels, drop_label))  # [B, C]
        x = self.tok_emb(grid.flatten(1)) + self.pos_emb.weight[: rows * columns]  # [B, L, C]
        if self.config.proj > 1:
            x = self.in_proj(x.transpose(1, 2).unflatten(2, (rows, columns))).flatten(2).transpose(1, 2)  # [B, L/4, C]
        num_inside = x.shape[1]
        if self.config.register > 0:
            x = torch.cat([x, self.reg_tokens.weight.expand(len(x), -1, -1)], dim=1)
        x = self.transformer(x, condition)[:, :num_inside]
        if self.config.proj > 1:
            inside = self.out_proj(x.transpose(1, 2).unflatten(2, (rows // 2, columns // 2)))  # [B, 4C, h/2, w/2]
            x = F.pixel_shuffle(inside, 2).flatten(2).transpose(1, 2)  # [B, L, C]
        return self.head(self.last_norm(x, condition))

    def _labels(self, batch: int, labels: Tensor | None, drop_label: Tensor | None) -> Tensor:
        null = torch.full((batch,), self.config.nclass, device=self.cls_emb.weight.device)
        if labels is None:
            return null
        return labels if drop_label is None else torch.where(drop_label, null, labels)

    def _check(self, grid: Tensor, labels: Tensor | None) -> None:
        rows, columns = grid.shape[1:]
        if rows * columns > self.config.input_size**2:
            size = self.config.input_size
            raise ValueError(f"tokens [{rows}, {columns}] are more than the model's positions, {size} x {size}")
        if rows % self.config.proj or columns % self.config.proj:
            raise ValueError(f"tokens [{rows}, {columns}] do not divide into patches of {self.config.proj}")
        _check_range("tokens", grid, self.config.codebook_size, "codebook_size, the mask token")
        if labels is not None:
            _check_range("labels", labels, self.config.nclass, "nclass, the null label")


class MaskGITDenoiser(nn.Module):
    """MaskGIT as a denoiser: flat tokens to prior logits over the codes alone (the mask's column is left out).

    `mask_token` is the number of codes. `labels` may be one integer for the whole batch, a tensor, or None (null).
    """

    def __init__(self, model: MaskGIT) -> None:
        super().__init__()
        self.model = model
        self.mask_token = self.vocab_size = model.config.codebook_size
        self.length = model.config.input_size**2

    def forward(
        self, tokens: Int[Tensor, "batch length"], labels: Int[Tensor, " batch"] | int | None = None
    ) -> Float[Tensor, "batch length num_codes"]:
        """Prior logits of every token."""
        if isinstance(labels, int):
            labels = torch.full((len(tokens),), labels, device=tokens.device)
        return self.model(tokens, labels)[..., : self.vocab_size]


def zero_gates(model: MaskGIT) -> None:
    """Starts every block as the identity (its condition neither shifts, scales nor gates), as the official training."""
    with torch.no_grad():
        for block in model.transformer.layers:
            for parameter in block.mlp.parameters():  # type: ignore[union-attr]
                parameter.zero_()


def _to_grid(tokens: Tensor) -> Tensor:
    if tokens.ndim == 3:
        return tokens
    side = round(tokens.shape[-1] ** 0.5)
    if tokens.ndim != 2 or side * side != tokens.shape[-1]:
        raise ValueError(f"tokens must be [batch, h, w] or a square grid [batch, h * w], got {tuple(tokens.shape)}")
    return tokens.unflatten(1, (side, side))


def _check_range(name: str, index: Tensor, largest: int, meaning: str) -> None:
    if index.numel() == 0 or index.is_meta or torch.compiler.is_compiling():
        return
    low, high = (int(value) for value in torch.aminmax(index))
    if low < 0 or high > largest:
        bad = low if low < 0 else high
        raise ValueError(f"{name} must lie in [0, {largest}] ({largest} is {meaning}), got {bad}")


class _Layers(nn.Module):
    def __init__(self, config: MaskGITConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_Block(config) for _ in range(config.depth))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x, condition)
        return x


class _Block(nn.Module):
    """Attention, then a gated feed-forward net; the condition shifts, scales and gates both."""

    def __init__(self, config: MaskGITConfig) -> None:
        super().__init__()
        width = config.hidden_dim
        self.mlp = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
        self.ln1, self.ln2 = _RMSNorm(width, bias=False), _RMSNorm(width, bias=False)
        self.attn = _Attention(width, config.heads, config.head_dim)
        self.ff = _FeedForward(width, config.ff_dim)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.mlp(condition).unsqueeze(1).chunk(6, dim=-1)
        x = x + gate1 * self.attn(self.ln1(x) * (1 + scale1) + shift1)
        return x + gate2 * self.ff(self.ln2(x) * (1 + scale2) + shift2)


class _Attention(nn.Module):
    """Softmax attention; queries and keys are normalised over all heads together, without weights."""

    def __init__(self, width: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.heads = heads
        self.wq, self.wk, self.wv = (nn.Linear(width, heads * head_dim, bias=False) for _ in range(3))
        self.wo = nn.Linear(heads * head_dim, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = _rms(self.wq(x)), _rms(self.wk(x)), self.wv(x)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (q, k, v))  # [B, heads, L, d]
        return self.wo(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(-2))


class _FeedForward(nn.Module):
    def __init__(self, width: int, ff_dim: int) -> None:
        super().__init__()
        self.w1, self.w3 = nn.Linear(width, ff_dim, bias=False), nn.Linear(width, ff_dim, bias=False)
        self.w2 = nn.Linear(ff_dim, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


class _AdaptiveNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm_final = _RMSNorm(width, bias=True)
        self.mlp = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        shift, scale = self.mlp(condition).unsqueeze(1).chunk(2, dim=-1)
        return self.norm_final(x) * (1 + scale) + shift


class _RMSNorm(nn.Module):
    def __init__(self, width: int, *, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        scaled = _rms(x) * self.weight
        return scaled if self.bias is None else scaled + self.bias


def _rms(x: Tensor) -> Tensor:
    """x over its root mean square, computed in float32 or wider."""
    wide = x if x.dtype == torch.float64 else x.float()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-5)).to(x.dtype)
