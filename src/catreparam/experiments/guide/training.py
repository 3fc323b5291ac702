"""What `catreparam guide train` trains: examples, loss and quality of each network."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from catreparam.data import ImageDataset
from catreparam.models.vq_digits import DigitsVQ, vq_loss

NULL_RATE = 0.3  # how often the prior is shown the null label
LossOf = Callable[[nn.Module, Tensor, Generator], Tensor]  # model, chosen indices [B], generator -> loss


@dataclass(frozen=True)
class Training:
    """One network's training: how many examples there are, and the loss on some of them."""

    name: str
    num_examples: int
    loss: LossOf
    lr: float


def vq_training(data: ImageDataset) -> Training:
    """Squared error and commitment, on all training images."""

    def loss(model: nn.Module, chosen: Tensor, generator: Generator) -> Tensor:
        return vq_loss(model, data.train[chosen], generator=generator)[0]  # type: ignore[arg-type]

    return Training("vq", len(data.train), loss, lr=2e-3)


def classifier_training(data: ImageDataset, name: str) -> Training:
    """Cross-entropy on shifted images: `reward` learns from one half of the images, `heldout` from the other."""
    first = 0 if name == "reward" else 1
    images, labels = data.train[first::2], data.train_labels[first::2]

    def loss(model: nn.Module, chosen: Tensor, generator: Generator) -> Tensor:
        return F.cross_entropy(model(shifted(images[chosen], generator)), labels[chosen], label_smoothing=0.02)

    return Training(name, len(images), loss, lr=3e-3)


def prior_training(data: ImageDataset, vq: DigitsVQ) -> Training:
    """Cross-entropy of masked tokens at a uniform rate of masking, on all training images, labels dropped at times."""
    tokens, labels = tokenise(vq, data.train), data.train_labels

    def loss(model: nn.Module, chosen: Tensor, generator: Generator) -> Tensor:
        targets = tokens[chosen]  # [B, L]
        rate = torch.rand(len(chosen), 1, generator=generator)
        masked = torch.rand(targets.shape, generator=generator) < rate
        masked[:, 0] |= ~masked.any(1)
        null = torch.rand(len(chosen), generator=generator) < NULL_RATE
        logits = model(targets.masked_fill(masked, vq.num_codes), labels[chosen], null)
        return F.cross_entropy(logits[masked], targets[masked])

    return Training("prior", len(tokens), loss, lr=2e-3)


@torch.no_grad()
def tokenise(vq: DigitsVQ, images: Tensor) -> Tensor:
    """Tokens [n, 49] of images, a thousand at a time."""
    return torch.cat([vq.encode(batch) for batch in images.split(1000)])


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Fraction of images that a classifier gets right."""
    right = [(model(x).argmax(-1) == y).sum() for x, y in zip(images.split(1000), labels.split(1000), strict=True)]
    return float(torch.stack(right).sum()) / len(images)


@torch.no_grad()
def psnr(vq: DigitsVQ, images: Tensor) -> float:
    """Peak signal-to-noise ratio of the reconstructions in dB, from the mean squared error over all images."""
    errors = [(vq.decode_tokens(vq.encode(batch)) - batch).square().mean((-2, -1)) for batch in images.split(1000)]
    return -10 * float(torch.log10(torch.cat(errors).mean()))


@torch.no_grad()
def prior_loss(training: Training, model: nn.Module, generator: Generator, *, batch_size: int = 500) -> float:
    """Mean loss of the prior in nats per masked token, over the examples of a training on other images."""
    batches = torch.arange(training.num_examples).split(batch_size)
    return sum(float(training.loss(model, batch, generator)) for batch in batches) / len(batches)


def shifted(images: Tensor, generator: Generator, most: int = 2) -> Tensor:
    """Every image moved by up to `most` pixels each way; what enters is black."""
    padded = F.pad(images, (most, most, most, most))
    n, height, width = images.shape
    down, right = torch.randint(2 * most + 1, (2, n, 1), generator=generator)
    rows = (down + torch.arange(height)).unsqueeze(2)
    columns = (right + torch.arange(width)).unsqueeze(1)
    return padded[torch.arange(n)[:, None, None], rows, columns]
