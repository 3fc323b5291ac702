"""Two small digit classifiers that share nothing but their input: one gives the reward, the other judges."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


class RewardClassifier(nn.Module):
    """Plain 3x3 convolutions, ReLU and max pooling: the classifier that a generation is guided by."""

    def __init__(self, *, num_labels: int = 10, width: int = 16) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, 2 * width, 3, padding=1)
        self.conv3 = nn.Conv2d(2 * width, 4 * width, 3, padding=1)
        self.hidden = nn.Linear(4 * width * 9, 4 * width)
        self.head = nn.Linear(4 * width, num_labels)

    def forward(self, images: Float[Tensor, "batch 28 28"]) -> Float[Tensor, "batch num_labels"]:
        """Logits of the labels, from grey images in [0, 1]."""
        h = F.max_pool2d(F.relu(self.conv1(images.unsqueeze(1))), 2)  # [B, width, 14, 14]
        h = F.max_pool2d(F.relu(self.conv2(h)), 2)  # [B, 2 width, 7, 7]
        h = F.max_pool2d(F.relu(self.conv3(h)), 2)  # [B, 4 width, 3, 3]
        return self.head(F.relu(self.hidden(h.flatten(1))))


class HeldOutClassifier(nn.Module):
    """Patches, depthwise 5x5 convolutions, group norms, GELU and global average pooling: the classifier that judges.

    `features` [batch, width] feed the Frechet distance.
    """

    def __init__(self, *, num_labels: int = 10, width: int = 64, depth: int = 4) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, 6, stride=4, padding=1)
        self.spatial = nn.ModuleList(nn.Conv2d(width, width, 5, padding=2, groups=width) for _ in range(depth))
        self.channel = nn.ModuleList(nn.Conv2d(width, width, 1) for _ in range(depth))
        self.norms = nn.ModuleList(nn.GroupNorm(8, width) for _ in range(2 * depth))
        self.head = nn.Linear(width, num_labels)

    def features(self, images: Float[Tensor, "batch 28 28"]) -> Float[Tensor, "batch width"]:
        """What the last layer sees."""
        h = F.gelu(self.patches(images.unsqueeze(1) - 0.13))  # [B, width, 7, 7]; 0.13 is the mean grey level
        for i, (spatial, channel) in enumerate(zip(self.spatial, self.channel, strict=True)):
            h = h + F.gelu(self.norms[2 * i](spatial(h)))
            h = F.gelu(self.norms[2 * i + 1](channel(h)))
        return h.mean((-2, -1))

    def forward(self, images: Float[Tensor, "batch 28 28"]) -> Float[Tensor, "batch num_labels"]:
        """Logits of the labels, from grey images in [0, 1]."""
        return self.head(self.features(images))


def frechet_distance(
    mean_a: Float[Tensor, " d"],
    covariance_a: Float[Tensor, "d d"],
    mean_b: Float[Tensor, " d"],
    covariance_b: Float[Tensor, "d d"],
) -> float:
    """Squared Frechet distance between two normal laws, |m_a - m_b|^2 + tr(A + B - 2 (A B)^{1/2}); in float64.

    The trace of the root is the sum of the roots of the eigenvalues of A^{1/2} B A^{1/2}, which is symmetric.

    >>> eye = torch.eye(2)
    >>> frechet_distance(torch.zeros(2), eye, torch.tensor([3.0, 4.0]), eye)
    25.0
    """
    values, vectors = torch.linalg.eigh(covariance_a.double())
    root = vectors * values.clamp_min(0).sqrt() @ vectors.T
    middle = root @ covariance_b.double() @ root
    trace_of_root = torch.linalg.eigvalsh((middle + middle.T) / 2).clamp_min(0).sqrt().sum()
    traces = covariance_a.double().trace() + covariance_b.double().trace() - 2 * trace_of_root
    return round(float((mean_a.double() - mean_b.double()).square().sum() + traces), 9)
