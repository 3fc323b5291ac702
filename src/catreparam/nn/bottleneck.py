"""A categorical bottleneck: logits in, one-hot codes or their embeddings out."""

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor, nn

from catreparam.arguments import hands_on
from catreparam.categorical import attach_gradient, from_rows, one_hot_like, to_rows
from catreparam.estimators.facts import facts_of
from catreparam.estimators.sampling import Sampler, draw, sampling_estimator
from catreparam.nn.usage import UsageStatistics
from catreparam.validation import check_choice, check_count

MODES = ("sample", "argmax", "mean")


class CategoricalBottleneck(UsageStatistics):
    """Turns logits [*batch, num_classes] into one-hot codes, or rows of a codebook if `embedding_dim` is given.

    The modes:
    - sample: a draw, with the gradient of `estimator`;
    - argmax: the most probable class, with the straight-through gradient (that of softmax(logits));
    - mean:   softmax(logits), no draw at all.

    While training it keeps the share of each class in a moving average, `usage`, with `perplexity` =
    exp(entropy of usage): the number of classes in use, between 1 and num_classes. Buffers are float32,
    whatever the rest is cast to, and in state_dict. A batch that activation checkpointing runs twice counts once, one
    that is not finite does not count and warns.

    Each process counts what it sees, and DistributedDataParallel copies the buffers of rank 0 to all: rank 0's data
    only.

    Parameters:
        num_classes: the last axis of the logits.
        embedding_dim: size of the codebook's rows; None: one-hot codes.
        estimator: of a draw: a name, a made estimator, or any function logits -> x.
        train_mode: how module.train() chooses: "sample", "argmax" or "mean".
        eval_mode: how module.eval() chooses, likewise.
        usage_momentum: of the moving average `usage`.
        track_usage: False registers no buffers: for vmap and torch.func, which allow no updates in place, and for
            trainers that refuse buffers.
        sync_usage: True counts the data of all processes, all of which must then call the module.
        generator: of the draws; None: torch's own.

    Cost:   one call of the estimator and, with a codebook, one product of matrices.
    Raises: ValueError for modes and estimators that do not exist, score-function estimators and sizes below 1; when
            called, for logits of another number of classes and what estimators raise.

    >>> bottleneck = CategoricalBottleneck(5, embedding_dim=16, estimator="redge").eval()
    >>> bottleneck(torch.zeros(8, 3, 5)).shape
    torch.Size([8, 3, 16])
    """

    @hands_on
    def __init__(
        self,
        num_classes: int,
        *,
        embedding_dim: int | None = None,
        estimator: str | Sampler = "reinmax",
        train_mode: str = "sample",
        eval_mode: str = "argmax",
        usage_momentum: float = 0.99,
        track_usage: bool = True,
        sync_usage: bool = False,
        generator: Generator | None = None,
    ) -> None:
        super().__init__(num_classes, usage_momentum=usage_momentum, track_usage=track_usage, sync_usage=sync_usage)
        self.estimator = sampling_estimator(estimator)
        self.train_mode = check_choice("train_mode", train_mode, MODES)
        self.eval_mode = check_choice("eval_mode", eval_mode, MODES)
        self.codebook = None
        if embedding_dim is not None:
            size = (num_classes, check_count("embedding_dim", embedding_dim))
            self.codebook = nn.Parameter(torch.randn(size, generator=generator) / embedding_dim**0.5)

    def forward(
        self,
        logits: Float[Tensor, "*batch num_classes"],
        mask: Bool[Tensor, "..."] | None = None,
        *,
        generator: Generator | None = None,
    ) -> Float[Tensor, "*batch code"]:
        """One-hot codes [*batch, num_classes] or embeddings [*batch, embedding_dim]; True in `mask`: allowed class."""
        x = self.codes(logits, mask, generator=generator)
        return x if self.codebook is None else x.to(self.codebook.dtype) @ self.codebook

    def codes(
        self,
        logits: Float[Tensor, "*batch num_classes"],
        mask: Bool[Tensor, "..."] | None = None,
        *,
        generator: Generator | None = None,
    ) -> Float[Tensor, "*batch num_classes"]:
        """The codes without the codebook, counted in `usage` while training."""
        rows = to_rows(logits, mask, generator=generator)
        if rows.shape[-1] != self.num_classes:
            raise ValueError(f"logits must have {self.num_classes} classes, got shape {tuple(logits.shape)}")
        mode = self.train_mode if self.training else self.eval_mode
        if mode == "sample":
            x = draw(self.estimator, rows, hyperparameters={}, generator=generator)
        else:
            x = torch.softmax(rows, -1)
            x = attach_gradient(one_hot_like(rows.argmax(-1), rows), x) if mode == "argmax" else x
        if self.training:
            self._count(x.detach())
        return from_rows(x, logits)

    def extra_repr(self) -> str:
        """Shown by print(module)."""
        size = "" if self.codebook is None else f", embedding_dim={self.codebook.shape[1]}"
        modes = f"train_mode={self.train_mode!r}, eval_mode={self.eval_mode!r}"
        return f"{self.num_classes}{size}, estimator={facts_of(self.estimator).name}, {modes}"
