"""A small VQ model of grey 28x28 pictures: 7x7 tokens, each one of a few dozen codes."""

import torch
from jaxtyping import Float, Int64
from torch import Generator, Tensor, nn
from torch.nn import functional as F


class DigitsVQ(nn.Module):
    """Encoder, codebook and decoder. Images lie in [0, 1]; tokens are [batch, 49], row by row.

    The codebook is a buffer: it follows the encoder by a moving average (`update_codebook`), not by gradients.
    """

    def __init__(self, *, num_codes: int = 64, code_dim: int = 16, width: int = 32) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, width, 4, stride=2, padding=1),  # 14 x 14
            nn.SiLU(),
            nn.Conv2d(width, 2 * width, 4, stride=2, padding=1),  # 7 x 7
            _Residual(2 * width),
            nn.Conv2d(2 * width, code_dim, 1),
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(code_dim, 2 * width, 3, padding=1),
            _Residual(2 * width),
            _Residual(2 * width),
            nn.ConvTranspose2d(2 * width, width, 4, stride=2, padding=1),  # 14 x 14
            nn.SiLU(),
            nn.ConvTranspose2d(width, 1, 4, stride=2, padding=1),  # 28 x 28
        )
        self.register_buffer("codebook", torch.zeros(num_codes, code_dim))
        self.register_buffer("code_mass", torch.zeros(num_codes))
        self.codebook: Tensor
        self.code_mass: Tensor

    @property
    def num_codes(self) -> int:
        """Rows of the codebook."""
        return self.codebook.shape[0]

    def latents(self, images: Float[Tensor, "batch 28 28"]) -> Float[Tensor, "batch 49 code_dim"]:
        """What the encoder says before it is rounded to a code."""
        return self.encoder(images.unsqueeze(1)).flatten(2).transpose(1, 2)

    def nearest_codes(self, latents: Float[Tensor, "batch 49 code_dim"]) -> Int64[Tensor, "batch 49"]:
        """The token of the nearest code, for every latent."""
        return (self.codebook.square().sum(-1) - 2 * latents @ self.codebook.T).argmin(-1)

    def encode(self, images: Float[Tensor, "batch 28 28"]) -> Int64[Tensor, "batch 49"]:
        """The tokens of grey images."""
        return self.nearest_codes(self.latents(images))

    def decode(self, embeddings: Float[Tensor, "batch 49 code_dim"]) -> Float[Tensor, "batch 28 28"]:
        """Grey images in (0, 1), from codes or mixtures of codes. Differentiable."""
        grid = embeddings.transpose(1, 2).unflatten(-1, (7, 7))
        return torch.sigmoid(self.decoder(grid)).squeeze(1)

    def decode_tokens(self, tokens: Int64[Tensor, "batch 49"]) -> Float[Tensor, "batch 28 28"]:
        """Grey images in (0, 1) of tokens."""
        return self.decode(self.codebook[tokens])

    @torch.no_grad()
    def update_codebook(
        self, latents: Float[Tensor, "n code_dim"], tokens: Int64[Tensor, " n"], *, decay: float, generator: Generator
    ) -> None:
        """Moves every code towards the mean of its latents; a code that nobody uses restarts at a random latent."""
        counts = torch.bincount(tokens, minlength=self.num_codes).to(latents.dtype)
        sums = torch.zeros_like(self.codebook).index_add_(0, tokens, latents)
        mass = decay * self.code_mass + (1 - decay) * counts
        self.codebook.copy_((decay * self.code_mass[:, None] * self.codebook + (1 - decay) * sums) / mass[:, None])
        self.code_mass.copy_(mass)
        dead = mass < 0.02 * mass.mean()
        chosen = torch.randint(len(latents), (int(dead.sum()),), generator=generator)
        self.codebook[dead] = latents[chosen]
        self.code_mass[dead] = mass.mean()


def vq_loss(
    model: DigitsVQ, images: Float[Tensor, "batch 28 28"], *, commitment: float = 0.25, generator: Generator
) -> tuple[Tensor, Tensor]:
    """Squared error plus commitment, with the straight-through gradient; and the mean squared error alone.

    Moves the codebook. The first call (codes without mass) places all codes on random latents.
    """
    latents = model.latents(images)  # [B, 49, D]
    flat = latents.detach().flatten(0, 1)
    if not model.code_mass.any():
        chosen = torch.randperm(len(flat), generator=generator)[: model.num_codes]
        model.codebook.copy_(flat[chosen])
        model.code_mass.fill_(len(flat) / model.num_codes)
    tokens = model.nearest_codes(latents.detach())
    codes = model.codebook[tokens]
    error = (model.decode(latents + (codes - latents).detach()) - images).square().mean()
    loss = error + commitment * (latents - codes).square().mean()
    model.update_codebook(flat, tokens.flatten(), decay=0.98, generator=generator)
    return loss, error.detach()


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, width)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.silu(self.conv1(F.silu(self.norm(x)))))
