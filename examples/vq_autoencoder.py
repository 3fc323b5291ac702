"""A vector-quantised autoencoder on real digits: VQ-VAE's copy of the nearest row against estimators of the choice."""

import torch
from sklearn.datasets import load_digits
from torch import nn

from catreparam import entropy, make_estimator

NUM_STEPS, NUM_SEEDS = 300, 2
NUM_CODES, LENGTH, DIM = 16, 6, 4


class Autoencoder(nn.Module):
    """[batch, 64] pixels -> LENGTH choices among NUM_CODES rows of a codebook -> pixels."""

    def __init__(self, choose) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, LENGTH * DIM))
        self.decoder = nn.Sequential(nn.Linear(LENGTH * DIM, 64), nn.ReLU(), nn.Linear(64, 64))
        self.codebook = nn.Parameter(torch.randn(NUM_CODES, DIM))
        self.choose = choose

    def forward(self, pixels, temperature):
        features = self.encoder(pixels).unflatten(-1, (LENGTH, DIM))
        distances = (features.unsqueeze(-2) - self.codebook).square().sum(-1)  # [batch, LENGTH, NUM_CODES]
        if self.choose is None:  # VQ-VAE: nearest row, gradient copied past it, two losses to hold them together
            x = nn.functional.one_hot(distances.argmin(-1), NUM_CODES).float()
            rows = x @ self.codebook
            tie = (rows - features.detach()).square().mean() + 0.25 * (rows.detach() - features).square().mean()
            return self.decoder((features + (rows - features).detach()).flatten(-2)), x, tie
        x = self.choose(-distances / temperature)
        return self.decoder((x @ self.codebook).flatten(-2)), x, 0.0


def train(choose, pixels, seed: int) -> tuple[float, float]:
    """Squared error per pixel and perplexity of the rows in use, at the end of training."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Autoencoder(choose)
        optimizer = torch.optim.Adam(model.parameters(), 3e-3)
        for step in range(NUM_STEPS):
            batch = pixels[torch.randint(len(pixels), (256,))]
            output, x, tie = model(batch, temperature=2 * 0.05 ** (step / NUM_STEPS))
            ((error := (output - batch).square().mean()) + tie).backward()
            optimizer.step(), optimizer.zero_grad()
    return error.item(), entropy(x.detach().mean((0, 1)).log()).exp().item()


def main() -> None:
    pixels = torch.tensor(load_digits().data).float() / 16
    print(f"| choice of row | error, {NUM_SEEDS} seeds | rows in use of {NUM_CODES} |\n|---|---:|---:|")
    for name in (None, "straight_through", "reinmax"):
        runs = [train(make_estimator(name) if name else None, pixels, seed) for seed in range(NUM_SEEDS)]
        errors, rows = ", ".join(f"{error:.4f}" for error, _ in runs), ", ".join(f"{used:.1f}" for _, used in runs)
        print(f"| {name or 'nearest, copied (VQ-VAE)'} | {errors} | {rows} |")


if __name__ == "__main__":
    main()
