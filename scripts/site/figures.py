"""The figure on every estimator's page: expected gradient and spread, and its Jacobian or the law of one draw.

    python scripts/site/figures.py            # all, to docs/assets/estimators/<name>.svg
    python scripts/site/figures.py redge      # some

Three classes with logits (s, 0, -s/2) and the loss f(x) = (w . x)^3: curved enough for
the bias of second-order methods to show.
"""

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch

from catreparam import ESTIMATORS, expectation, make_estimator, takes_objective
from catreparam.estimators import fewest_samples

FOLDER = Path(__file__).parents[2] / "docs" / "assets" / "estimators"
NUM_DRAWS = 10_000
WEIGHTS = torch.tensor([1.5, 0.3, 0.8])
DIRECTION = torch.tensor([1.0, 0.0, -0.5])
POSITIONS = torch.linspace(-3, 3, 25)
BLUE, GREY, RED = "#3f51b5", "#555555", "#d2452d"


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    style = {"svg.hashsalt": "catreparam", "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9}
    with plt.rc_context(style):
        for name in sys.argv[1:] or ESTIMATORS:
            draw_figure(name)


def draw_figure(name: str) -> None:
    """Writes one SVG: 7 by 2.6 inches, text as text."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(7, 2.6), width_ratios=(1.7, 1), layout="constrained")
    plot_gradient(left, name)
    plot_draws(right, name) if takes_objective(ESTIMATORS[name]) else plot_jacobian(right, name)
    figure.savefig(FOLDER / f"{name}.svg", metadata={"Date": None, "Creator": None})
    plt.close(figure)


def loss(x: torch.Tensor) -> torch.Tensor:
    return (x @ WEIGHTS) ** 3


def slopes(name: str, position: float) -> torch.Tensor:
    """The estimate of dE[f]/ds from each of NUM_DRAWS independent draws."""
    logits = (position * DIRECTION).expand(NUM_DRAWS, 3).clone().requires_grad_()
    num_samples = {"reinmax_rloo": 4}.get(name, fewest_samples(name))
    generator = torch.Generator().manual_seed(0)
    estimator = make_estimator(name)
    value = expectation(loss, logits, estimator=estimator, num_samples=num_samples, generator=generator)
    (gradient,) = torch.autograd.grad(value.sum(), logits)
    return gradient @ DIRECTION


def exact_slope(position: float) -> float:
    p = torch.softmax(position * DIRECTION, -1)
    values = loss(torch.eye(3))
    return float((p * (values - p @ values)) @ DIRECTION)


def plot_gradient(axes: plt.Axes, name: str) -> None:
    draws = [slopes(name, float(position)) for position in POSITIONS]
    mean, deviation = torch.stack([d.mean() for d in draws]), torch.stack([d.std() for d in draws])
    axes.fill_between(
        POSITIONS, mean - deviation, mean + deviation, color=BLUE, alpha=0.18, lw=0, label="± one deviation"
    )
    axes.plot(POSITIONS, [exact_slope(float(s)) for s in POSITIONS], color=GREY, lw=2.5, label="exact")
    axes.plot(POSITIONS, mean, color=BLUE, ls="--", lw=1.5, label="mean of the estimator")
    axes.set(xlabel="s, logits (s, 0, -s/2)", title="Gradient dE[f]/ds, one draw", ylim=(-1.6, 3.2))
    axes.legend(frameon=False, fontsize=7, loc="upper left")
    axes.spines[["top", "right"]].set_visible(False)


def plot_jacobian(axes: plt.Axes, name: str) -> None:
    logits = (0.5 * DIRECTION).expand(NUM_DRAWS, 3).clone().requires_grad_()
    x = make_estimator(name)(logits, generator=torch.Generator().manual_seed(1))
    rows = [torch.autograd.grad(x[:, k].sum(), logits, retain_graph=True)[0] for k in range(3)]
    jacobian = torch.stack(rows, 1)[x[:, 0] > 0.5].mean(0)  # [x_k, logit_j], given that class 1 was drawn
    axes.imshow(jacobian, cmap="RdBu_r", vmin=-0.5, vmax=0.5)
    for k in range(3):
        for j in range(3):
            shade = "white" if abs(jacobian[k, j]) > 0.3 else "black"
            axes.text(j, k, f"{jacobian[k, j]:.2f}".replace("-0.00", "0.00"), ha="center", va="center", color=shade)
    axes.set(title="Mean Jacobian, class 1 drawn", xticks=range(3), yticks=range(3))
    axes.set_xticklabels([f"logit {j + 1}" for j in range(3)])
    axes.set_yticklabels([f"x {k + 1}" for k in range(3)])


def plot_draws(axes: plt.Axes, name: str) -> None:
    draws = slopes(name, 0.5)
    low, high = float(draws.quantile(0.005)), float(draws.quantile(0.995))
    middle = exact_slope(0.5)
    span = max(high - middle, middle - low, 0.5)
    axes.hist(draws, bins=41, range=(middle - span, middle + span), color=BLUE, alpha=0.6, density=True)
    axes.axvline(middle, color=RED, lw=1.5)
    axes.set(title="Single draws at s = 0.5", xlabel="estimate (red: exact)", yticks=[])
    axes.spines[["top", "right", "left"]].set_visible(False)


if __name__ == "__main__":
    main()
