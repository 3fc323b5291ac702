"""A structured choice: one slot for every meeting, learned by gradient, slots that a meeting cannot take masked out."""

import torch

from catreparam import expectation, make_estimator

NUM_STEPS, NUM_RESTARTS = 200, 32
NUM_MEETINGS, NUM_SLOTS = 8, 6
GUESTS = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2])  # meetings with the same guest must not share a slot
WISHES = torch.rand(
    NUM_MEETINGS, NUM_SLOTS, generator=torch.Generator().manual_seed(0)
)  # what a meeting loses by a slot
ALLOWED = torch.rand(NUM_MEETINGS, NUM_SLOTS, generator=torch.Generator().manual_seed(1)) < 0.7


def loss_of(x: torch.Tensor) -> torch.Tensor:
    """One-hot x [*batch, NUM_MEETINGS, NUM_SLOTS] -> wishes missed plus two for every clash [*batch]."""
    return (x * WISHES).sum((-1, -2)) + 2 * clashes(x)


def clashes(x: torch.Tensor) -> torch.Tensor:
    together = torch.stack([x[..., guest == GUESTS, :].sum(-2) for guest in range(3)], -2)  # [*batch, guests, slots]
    return (together * (together - 1)).sum((-1, -2)) / 2


def solve(name: str) -> torch.Tensor:
    """The most likely plan of every restart, one-hot [NUM_RESTARTS, NUM_MEETINGS, NUM_SLOTS]."""
    generator = torch.Generator().manual_seed(2)
    logits = torch.zeros(NUM_RESTARTS, NUM_MEETINGS, NUM_SLOTS, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.1)
    samples = 4 if name == "rloo" else 1
    for _ in range(NUM_STEPS):
        loss = expectation(
            loss_of, logits, estimator=make_estimator(name), num_samples=samples, mask=ALLOWED, generator=generator
        )
        optimizer.zero_grad()
        loss.sum().backward()
        optimizer.step()
    best = logits.detach().masked_fill(~ALLOWED, -torch.inf).argmax(-1)
    return torch.nn.functional.one_hot(best, NUM_SLOTS).float()


def main() -> None:
    print("| estimator | mean loss | best loss | plans without a clash |\n|---|---:|---:|---:|")
    for name in ("straight_through", "reinmax", "exact_redge", "rloo"):
        plans = solve(name)
        assert not (plans * ~ALLOWED).any()
        loss, legal = loss_of(plans), (clashes(plans) == 0).float().mean()
        print(f"| {name} | {loss.mean():.3f} | {loss.min():.3f} | {legal:.0%} |")


if __name__ == "__main__":
    main()
