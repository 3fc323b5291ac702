"""A sparse mixture of experts on a task with hidden regimes: the usual top-k router, and ones that learn."""

import torch

from catreparam.nn import TopKRouter

NUM_EXPERTS, DIM, NUM_STEPS = 6, 8, 250


class MixtureOfExperts(torch.nn.Module):
    def __init__(self, router: TopKRouter) -> None:
        super().__init__()
        self.router = router  # the line that changes
        self.experts = torch.nn.ModuleList(torch.nn.Linear(DIM, DIM) for _ in range(NUM_EXPERTS))

    def forward(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        routing, out = self.router(tokens), torch.zeros_like(tokens)
        for index, expert in enumerate(self.experts):
            mine = (routing.experts == index).any(-1).nonzero()[:, 0]
            out = out.index_add(0, mine, routing.weights[mine, index, None] * expert(tokens[mine]))
        return out, routing.load_balancing_loss


def make_task(generator: torch.Generator):
    """y = A_c x, the regime c being the direction that x leans to most."""
    matrices = torch.randn(NUM_EXPERTS, DIM, DIM, generator=generator) / DIM**0.5
    directions = torch.randn(NUM_EXPERTS, DIM, generator=generator)

    def batch(size: int) -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.randn(size, DIM, generator=generator)
        return x, torch.einsum("nij,nj->ni", matrices[(x @ directions.T).argmax(-1)], x)

    return batch


def train(estimator: str | None, k: int, seed: int) -> float:
    """Mean squared error on fresh data, in eval mode (the k most probable experts)."""
    torch.manual_seed(seed)
    settings = {"num_experts": NUM_EXPERTS, "k": k, "train_mode": "sample" if estimator else "topk"}
    model = MixtureOfExperts(TopKRouter(DIM, estimator=estimator, **settings))
    batch, optimizer = make_task(torch.Generator().manual_seed(seed)), torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(NUM_STEPS):
        x, y = batch(256)
        out, balance = model(x)
        ((out - y).square().mean() + 0.01 * balance).backward()
        optimizer.step(), optimizer.zero_grad()
    x, y = batch(4096)
    return (model.eval()(x)[0] - y).square().mean().item()


def main() -> None:
    print("| gradient of the choice | k = 1: mean squared error, two seeds | k = 2 |\n|---|---:|---:|")
    for estimator in (None, "straight_through", "redge"):
        cells = [", ".join(f"{train(estimator, k, seed):.3f}" for seed in range(2)) for k in (1, 2)]
        print(f"| {estimator or 'none (the usual router)'} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
