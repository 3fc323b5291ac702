"""Where exact-law ReDGE lies between straight-through (w = 0) and ReinMax (w = 1): its noise-averaged Jacobian, fitted.

Given the hard sample x = e_j, the mean Jacobian A_j is compared with J(p) + (w/2) [(e_j - p)(e_j - p)^T - J(p)].
"""

import torch

from catreparam import exact_redge_surrogate, lambda_grid

NUM_NOISES = 20_000


def mean_jacobians(logits: torch.Tensor, t1: float) -> torch.Tensor:
    """A_j for every class j: [num_classes (j), num_classes, num_classes]."""
    num_classes = len(logits)
    noise = torch.randn(NUM_NOISES // 2, num_classes, num_classes, generator=torch.Generator().manual_seed(0)).to(
        logits
    )
    x = torch.eye(num_classes, dtype=logits.dtype)
    rows = logits.expand(num_classes, num_classes).clone().requires_grad_()
    surrogate = exact_redge_surrogate(rows, noise=torch.cat([noise, -noise]), x=x, schedule=lambda_grid(12, t1))
    columns = [torch.autograd.grad(surrogate[:, k].sum(), rows, retain_graph=True)[0] for k in range(num_classes)]
    return torch.stack(columns, -1)


def fit(logits: torch.Tensor, t1: float) -> tuple[float, float]:
    """The weight w and the share of A_j - J(p) that it explains (R^2), both over all j weighted by p_j."""
    p = torch.softmax(logits, -1)
    covariance = torch.diag(p) - torch.outer(p, p)
    d = torch.eye(len(p), dtype=p.dtype) - p
    basis = (d[:, :, None] * d[:, None, :] - covariance) / 2
    rest = mean_jacobians(logits, t1) - covariance
    share = p[:, None, None]
    weight = (share * basis * rest).sum() / (share * basis * basis).sum()
    left = (share * (rest - weight * basis) ** 2).sum() / (share * rest**2).sum()
    return float(weight), float(1 - left)


def main() -> None:
    print(
        "| num_classes | "
        + " | ".join(f"t1 = {t1}" for t1 in (0.9, 0.7, 0.6, 0.5, 0.4, 0.3))
        + " |\n|---|"
        + "---|" * 6
    )
    for num_classes in (2, 3, 5, 8):
        logits = torch.randn(num_classes, generator=torch.Generator().manual_seed(1), dtype=torch.float64) / 2
        cells = ["{:.2f} (R² {:.2f})".format(*fit(logits, t1)) for t1 in (0.9, 0.7, 0.6, 0.5, 0.4, 0.3)]
        print(f"| {num_classes} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
