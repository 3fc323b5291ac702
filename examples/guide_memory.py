"""Peak memory of a guided generation (24 x 24 positions, 16,384 codes, a decoder), one process each, as Markdown."""

import resource
import subprocess
import sys
from pathlib import Path

import torch
from torch import nn

from catreparam.guidance import codebook_embed, guided_sample
from catreparam.masked_diffusion import as_denoiser

SIDE, VOCAB_SIZE, DIM = 24, 16_384, 8
UNITS = 2**20 if sys.platform == "darwin" else 2**10  # of ru_maxrss in a MiB


class Decoder(nn.Module):
    """Codes to an image of four times the side. Its weights are random: what it costs is real, what it shows is not."""

    def __init__(self) -> None:
        super().__init__()
        self.codebook = nn.Parameter(torch.randn(VOCAB_SIZE, DIM))
        self.layers = nn.Sequential(nn.Conv2d(DIM, 64, 3, padding=1), nn.SiLU(), nn.Upsample(scale_factor=4))
        self.last = nn.Conv2d(64, 3, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.layers(codebook_embed(x, self.codebook).mT.unflatten(-1, (SIDE, SIDE))))


def peak() -> float:
    """The largest resident size of this process so far, in MiB."""
    if sys.platform == "linux":  # ru_maxrss would count what the parent process held when it started this one
        return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) / UNITS
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / UNITS


def measure(estimator: str) -> float:
    """MiB that two rounds of two steps add to what the process held before: prior logits count, the decoder not."""
    seeded = torch.Generator().manual_seed(0)
    decoder = Decoder().requires_grad_(False)
    model = as_denoiser(lambda x: torch.randn(*x.shape, VOCAB_SIZE, generator=seeded), mask_token=VOCAB_SIZE)
    start = torch.full((1, SIDE * SIDE), VOCAB_SIZE)
    settings = {"estimator": estimator, "num_rounds": 2, "num_steps": 2, "order": "halton", "generator": seeded}
    before = peak()
    guided_sample(model, lambda x: -decoder(x).square().mean((1, 2, 3)), start, **settings)
    return peak() - before


def main() -> None:
    print(f"A tensor of logits: {SIDE * SIDE * VOCAB_SIZE / 2**18:.0f} MiB.\n\n| estimator | peak, MiB |\n|---|---:|")
    for name in ("redge", "exact_redge"):
        done = subprocess.run([sys.executable, __file__, name], capture_output=True, text=True, check=True)
        print(f"| {name} | {float(done.stdout):.0f} |")


if __name__ == "__main__":
    print(measure(sys.argv[1])) if len(sys.argv) > 1 else main()
