"""An autoencoder of 8x8 digits with a VectorQuantizer, with parts of it, and with vector-quantize-pytorch's."""

import importlib.util

import torch
from sklearn.datasets import load_digits
from torch import nn

from catreparam.nn import VectorQuantizer

DIM, NUM_CODES, NUM_STEPS, NUM_SEEDS = 16, 64, 1500, 3
DIGITS = torch.tensor(load_digits().images, dtype=torch.float32).unsqueeze(1) / 16
PARTS = {
    "as it is": {},
    "gumbel_softmax": {"estimator": "gumbel_softmax"},
    "temperature 0.7": {"temperature": 0.7},
    "neither k-means nor replacement": {"kmeans_steps": 0, "replace_after": 0},
    "no commitment loss": {"commitment": 0.0},
}


def train(quantizer: nn.Module) -> tuple[float, int]:
    """Mean absolute error of a pixel (from 0 to 1) and the number of codes in use, on the test set."""
    sizes, half, twice = {"kernel_size": 3, "padding": 1}, nn.MaxPool2d(2), nn.Upsample(scale_factor=2)
    encoder = nn.Sequential(nn.Conv2d(1, 32, **sizes), half, nn.GELU(), nn.Conv2d(32, DIM, **sizes), half)
    decoder = nn.Sequential(twice, nn.Conv2d(DIM, 32, **sizes), nn.GELU(), twice, nn.Conv2d(32, 1, **sizes))
    optimizer = torch.optim.AdamW((model := nn.ModuleList([quantizer, encoder, decoder])).parameters(), lr=1e-3)
    training, test = DIGITS[torch.randperm(len(DIGITS), generator=torch.Generator().manual_seed(0))].split(1400)

    def error(images: torch.Tensor):
        features = encoder(images).permute(0, 2, 3, 1)
        codes, index, loss = quantizer(features.flatten(1, 2))  # [batch, positions, DIM]
        return (decoder(codes.view_as(features).permute(0, 3, 1, 2)) - images).abs().mean(), index, loss.sum()

    for _ in range(NUM_STEPS):
        reconstruction, _, loss = error(training[torch.randint(len(training), (128,))])
        (reconstruction + loss).backward()
        optimizer.step(), optimizer.zero_grad()
    model.eval()
    reconstruction, index, _ = error(test)
    return reconstruction.item(), len(index.unique())


def main() -> None:
    makers = {name: (VectorQuantizer, {"num_codes": NUM_CODES, **part}) for name, part in PARTS.items()}
    if importlib.util.find_spec("vector_quantize_pytorch"):
        theirs = importlib.import_module("vector_quantize_pytorch").VectorQuantize
        makers["theirs"] = (theirs, {"codebook_size": NUM_CODES})
    print("| VectorQuantizer | error of a pixel | codes in use |\n|---|---:|---:|")
    for name, (kind, settings) in makers.items():
        rows = []
        for seed in range(NUM_SEEDS):
            torch.manual_seed(seed)
            rows.append(train(kind(dim=DIM, **settings)))
        print(f"| {name} | {' | '.join(', '.join(f'{v:.3g}' for v in column) for column in zip(*rows, strict=True))} |")


if __name__ == "__main__":
    main()
