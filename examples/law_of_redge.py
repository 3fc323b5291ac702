"""How far the hard sample of ReDGE is from softmax(logits): total variation by t1 and num_steps, as Markdown."""

import torch

from catreparam import alpha_grid, redge_cov_surrogate, redge_surrogate

NUM_CLASSES, NUM_ROWS, NUM_NOISES = 10, 20, 40_000


def total_variation(surrogate, num_steps: int, t1: float) -> float:
    """Mean over rows of normal logits; the law of the hard sample is the mean of the relaxed one over the noise."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(NUM_ROWS, 1, NUM_CLASSES, generator=generator)
    noise = torch.randn(NUM_ROWS, NUM_NOISES, NUM_CLASSES, generator=generator)
    law = surrogate(logits, noise=noise, schedule=alpha_grid(num_steps, t1)).mean(1)
    return float((law - torch.softmax(logits[:, 0], -1)).abs().sum(-1).mean() / 2)


def main() -> None:
    steps = (1, 2, 3, 4, 6, 10)
    print(f"{NUM_CLASSES} classes, {NUM_ROWS} rows of normal logits, {NUM_NOISES} noises each.\n")
    print("| method | t1 | " + " | ".join(f"{n} steps" for n in steps) + " |")
    print("|---|---:|" + "---:|" * len(steps))
    for name, surrogate in (("redge, reindge", redge_surrogate), ("redge_cov", redge_cov_surrogate)):
        for t1 in (0.1, 0.3, 0.5, 0.7, 0.9):
            distances = [total_variation(surrogate, n, t1) for n in steps]
            print(
                f"| {name} | {t1} | " + " | ".join(f"**{d:.3f}**" if d > 0.02 else f"{d:.3f}" for d in distances) + " |"
            )


if __name__ == "__main__":
    main()
