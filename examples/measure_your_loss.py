"""Before you train: bias and variance of estimators on a small copy of your own loss, the exact gradient as judge."""

import torch

from catreparam import exact_gradient, make_estimator, measure, tune

NUM_DRAWS = 4000
LOGITS = torch.randn(
    1, 4, 3, generator=torch.Generator().manual_seed(0)
)  # 1 example, 4 variables, 3 classes: 81 states
MIXING = torch.randn(4 * 3, 2, generator=torch.Generator().manual_seed(1))


def your_loss(x: torch.Tensor) -> torch.Tensor:
    """One-hot x [*batch, 4, 3] -> loss [*batch]: curved, with interactions between the variables."""
    return torch.tanh(x.flatten(-2) @ MIXING).square().sum(-1)


def main() -> None:
    exact = exact_gradient(your_loss, LOGITS)
    print(f"Exact gradient by enumeration, norm {exact.norm():.3f}. Relative to its square, for one draw:\n")
    print("| estimator | bias² | variance | cosine of the mean |\n|---|---:|---:|---:|")
    for estimator in (
        make_estimator("straight_through"),
        make_estimator("gumbel_softmax", temperature=0.5),
        make_estimator("reinmax"),
        make_estimator("redge"),
        make_estimator("exact_redge", num_noises=2, second_order_weight=1.0),
        make_estimator("rebar"),
    ):
        stats = measure(
            your_loss,
            LOGITS,
            estimator=estimator,
            num_draws=NUM_DRAWS,
            reference=exact,
            generator=torch.Generator().manual_seed(2),
        )
        bias = f"{stats.squared_bias:.4f} ± {stats.squared_bias_stderr:.4f}"
        print(f"| `{estimator!r}` | {bias} | {stats.variance:.2f} | {stats.cosine:.3f} |")
    generator = torch.Generator().manual_seed(3)
    for criterion in ("mse", "bias"):
        result = tune(your_loss, LOGITS, criterion=criterion, num_draws=NUM_DRAWS // 10, generator=generator)
        print(f"\nBest by {criterion}: `{result.best!r}`")


if __name__ == "__main__":
    main()
