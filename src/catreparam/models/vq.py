"""LlamaGen's VQ model: image tokens to pixels (and back), under the official parameter names."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from catreparam.models.vq_config import VQConfig


class VQModel(nn.Module):
    """Codebook and decoder, and the encoder where the config has one. Images are [batch, channels, H, W] in [-1, 1].

    Official checkpoints load as they are (`load_vq`).

    Reference: Sun et al. 2024, https://arxiv.org/abs/2406.06525; the architecture is VQGAN's, Esser et al. 2021.
    """

    def __init__(self, config: VQConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.codebook_embed_dim
        if config.encoder_ch_mult:
            self.encoder = _Encoder(config)
            self.quant_conv = nn.Conv2d(config.z_channels, dim, 1)
        self.decoder = _Decoder(config)
        self.quantize = _Codebook(config)
        self.post_quant_conv = nn.Conv2d(dim, config.z_channels, 1)

    def codebook(self) -> Float[Tensor, "num_codes dim"]:
        """The codes as the decoder sees them: of length one where the codebook is l2-normalised."""
        weight = self.quantize.embedding.weight
        return F.normalize(weight, dim=-1) if self.config.l2_normalised_codebook else weight

    def decode_tokens(self, tokens: Int[Tensor, "batch h w"]) -> Float[Tensor, "batch channels height width"]:
        """Images of a grid of tokens, about in [-1, 1]. Raises ValueError for tokens that are no codes."""
        _check_tokens(tokens, self.config.codebook_size)
        return self.decode(self.codebook()[tokens].permute(0, 3, 1, 2))

    def decode(self, embeddings: Float[Tensor, "batch dim h w"]) -> Float[Tensor, "batch channels height width"]:
        """Images of codes, or of mixtures of codes: the differentiable way in."""
        return self.decoder(self.post_quant_conv(embeddings))

    def decode_flat(self, embeddings: Float[Tensor, "batch length dim"]) -> Float[Tensor, "batch channels h w"]:
        """`decode` for a square grid whose tokens stand in one row, as guidance has them."""
        side = round(embeddings.shape[1] ** 0.5)
        if side * side != embeddings.shape[1]:
            raise ValueError(f"{embeddings.shape[1]} tokens make no square grid; use decode with [batch, dim, h, w]")
        return self.decode(embeddings.transpose(1, 2).unflatten(-1, (side, side)))

    def encode(self, images: Float[Tensor, "batch channels height width"]) -> Int[Tensor, "batch h w"]:
        """Tokens of images: for every place the nearest code. Raises ValueError without an encoder or for odd sizes."""
        if not self.config.encoder_ch_mult:
            raise ValueError("this VQ model was loaded without its encoder; load a checkpoint that has encoder.*")
        if images.shape[-1] % self.config.downsampling or images.shape[-2] % self.config.downsampling:
            raise ValueError(
                f"images must be multiples of {self.config.downsampling} pixels, got {tuple(images.shape[-2:])}"
            )
        latents = self.quant_conv(self.encoder(images)).permute(0, 2, 3, 1)  # [B, h, w, dim]
        if self.config.l2_normalised_codebook:
            latents = F.normalize(latents, dim=-1)
        codes = self.codebook()
        return (codes.square().sum(-1) - 2 * latents @ codes.T).argmin(-1)


def _check_tokens(tokens: Tensor, num_codes: int) -> None:
    if tokens.is_floating_point():
        raise TypeError(f"tokens must be integers, got {tokens.dtype}; pass embeddings to decode instead")
    if tokens.numel() and not tokens.is_meta:
        low, high = (int(value) for value in torch.aminmax(tokens))
        if low < 0 or high >= num_codes:
            raise ValueError(f"tokens must lie in [0, {num_codes - 1}], got {low if low < 0 else high}")


class _Codebook(nn.Module):
    def __init__(self, config: VQConfig) -> None:
        super().__init__()
        self.embedding = nn.Embedding(config.codebook_size, config.codebook_embed_dim)
        if config.usage_buffer:  # a record of training, never read here
            self.register_buffer("codebook_used", torch.zeros(config.usage_buffer))


class _Encoder(nn.Module):
    def __init__(self, config: VQConfig) -> None:
        super().__init__()
        widths = [config.ch * multiple for multiple in config.encoder_ch_mult]
        last = len(widths) - 1
        self.conv_in = nn.Conv2d(config.channels, config.ch, 3, padding=1)
        self.conv_blocks = nn.ModuleList()
        for level, (width_in, width) in enumerate(zip([config.ch, *widths], widths, strict=False)):
            blocks = _Level(config, width_in, width, blocks=config.num_res_blocks, attend=level == last)
            blocks.downsample = _Downsample(width) if level < last else None
            self.conv_blocks.append(blocks)
        self.mid = _middle(config, widths[-1])
        self.norm_out = config.norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], config.z_channels, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        h = self.conv_in(images)
        for level in self.conv_blocks:
            h = level(h)
        for block in self.mid:
            h = block(h)
        return self.conv_out(F.silu(self.norm_out(h)))


class _Decoder(nn.Module):
    def __init__(self, config: VQConfig) -> None:
        super().__init__()
        widths = [config.ch * multiple for multiple in reversed(config.ch_mult)]
        last = len(widths) - 1
        self.conv_in = nn.Conv2d(config.z_channels, widths[0], 3, padding=1)
        self.mid = _middle(config, widths[0])
        self.conv_blocks = nn.ModuleList()
        for level, (width_in, width) in enumerate(zip([widths[0], *widths], widths, strict=False)):
            blocks = _Level(config, width_in, width, blocks=config.num_res_blocks + 1, attend=level == 0)
            blocks.upsample = _Upsample(width) if level < last else None
            self.conv_blocks.append(blocks)
        self.norm_out = config.norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], config.channels, 3, padding=1)

    def forward(self, latents: Tensor) -> Tensor:
        h = self.conv_in(latents)
        for block in self.mid:
            h = block(h)
        for level in self.conv_blocks:
            h = level(h)
        return self.conv_out(F.silu(self.norm_out(h)))


class _Level(nn.Module):
    """Residual blocks at one resolution, each followed by attention at the coarsest, then a change of resolution."""

    def __init__(self, config: VQConfig, width_in: int, width: int, *, blocks: int, attend: bool) -> None:
        super().__init__()
        self.res = nn.ModuleList(_Residual(config, width_in if i == 0 else width, width) for i in range(blocks))
        self.attn = nn.ModuleList(_Attention(config, width) for _ in range(blocks if attend else 0))
        self.upsample: nn.Module | None = None
        self.downsample: nn.Module | None = None

    def forward(self, h: Tensor) -> Tensor:
        for i, block in enumerate(self.res):
            h = block(h)
            if len(self.attn):
                h = self.attn[i](h)
        resample = self.upsample or self.downsample
        return h if resample is None else resample(h)


class _Residual(nn.Module):
    def __init__(self, config: VQConfig, width_in: int, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = config.norm(width_in), config.norm(width)
        self.conv1 = nn.Conv2d(width_in, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.nin_shortcut = nn.Conv2d(width_in, width, 1) if width_in != width else None

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return h + (x if self.nin_shortcut is None else self.nin_shortcut(x))


class _Attention(nn.Module):
    """One head over all places of the grid."""

    def __init__(self, config: VQConfig, width: int) -> None:
        super().__init__()
        self.norm = config.norm(width)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(width, width, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = (layer(h).flatten(2).transpose(1, 2) for layer in (self.q, self.k, self.v))  # [B, h * w, C]
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).unflatten(-1, x.shape[-2:])
        return x + self.proj_out(mixed)


class _Upsample(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class _Downsample(nn.Module):
    """Halves the resolution; the padding is on the right and below only."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


def _middle(config: VQConfig, width: int) -> nn.ModuleList:
    return nn.ModuleList([_Residual(config, width, width), _Attention(config, width), _Residual(config, width, width)])
