"""A loss that torch cannot see into: codes compared with a secret as strings, learned by the score function."""

import torch

from catreparam import expectation, make_estimator

NUM_STEPS, NUM_ROWS = 150, 64
LETTERS, SECRET = "abcdef", "facade"


def mistakes(x: torch.Tensor) -> torch.Tensor:
    """One-hot x [*batch, 6, 6] -> letters that differ from the secret [*batch]. Strings: no gradient comes back."""
    words = ["".join(LETTERS[k] for k in row) for row in x.argmax(-1).flatten(0, -2).tolist()]
    wrong = [sum(a != b for a, b in zip(word, SECRET, strict=True)) for word in words]
    return torch.tensor(wrong, dtype=x.dtype).reshape(x.shape[:-2])


def train(name: str, num_samples: int) -> list[float]:
    """The mean number of mistakes over NUM_ROWS independent learners, at a third, two thirds and the end."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.zeros(NUM_ROWS, len(SECRET), len(LETTERS), requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.1)
    estimator = make_estimator(name)  # reinforce owns its moving-average baseline
    history = []
    for _ in range(NUM_STEPS):
        loss = expectation(mistakes, logits, estimator=estimator, num_samples=num_samples, generator=generator)
        optimizer.zero_grad()
        loss.sum().backward()
        optimizer.step()
        history.append(loss.mean().item())
    return [history[NUM_STEPS * part // 3 - 1] for part in (1, 2, 3)]


def main() -> None:
    print(f"Mistakes in {len(SECRET)} letters; by chance {len(SECRET) * (1 - 1 / len(LETTERS)):.1f}.\n")
    print("| estimator | evaluations a step | after a third | two thirds | the end |\n|---|---:|---:|---:|---:|")
    for name, num_samples in (("reinforce", 1), ("reinforce", 4), ("rloo", 2), ("rloo", 4)):
        cells = " | ".join(f"{value:.2f}" for value in train(name, num_samples))
        print(f"| {name} | {num_samples} | {cells} |")


if __name__ == "__main__":
    main()
