"""Rewards as users write them, `class:3` or `ink:0.2`, and the scores of images that they mean."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from catreparam.models.image_scores import (
    Score,
    check_imagenet_label,
    class_score,
    ink_score,
    load_efficientnet,
    symmetry_score,
)

KINDS = {
    "class": "class:3, class:all (every class in turn): log-probability that the reward classifier gives the class",
    "logit": "logit:3, logit:all: its logit instead",
    "ink": "ink:0.2: mean grey level near 0.2",
    "symmetry": "symmetry: left and right alike",
    "imagenet": "imagenet:281: log-probability of an ImageNet class (EfficientNet-Lite0, where installed)",
}


@dataclass(frozen=True)
class RewardSpec:
    """A parsed reward: its kind, and its number (None for `all` and for kinds without one)."""

    kind: str
    value: float | None = None

    @classmethod
    def parse(cls, text: str) -> "RewardSpec":
        """From `kind` or `kind:number`. Raises ValueError that lists what can be written.

        >>> RewardSpec.parse("ink:0.2")
        RewardSpec(kind='ink', value=0.2)
        """
        kind, colon, rest = text.strip().partition(":")
        problem = ValueError(f"cannot read the reward {text!r}; write one of: {'; '.join(KINDS.values())}")
        if kind not in KINDS or (kind == "symmetry") == bool(colon):
            raise problem
        if kind == "symmetry" or (rest == "all" and kind in ("class", "logit")):
            return cls(kind)
        try:
            value = float(rest)
        except ValueError:
            raise problem from None
        if kind != "ink" and (value != int(value) or value < 0):
            raise ValueError(f"reward {text!r}: a class is a whole number of at least 0")
        return cls(kind, value)

    def targets(self, batch: int, num_labels: int = 10) -> Tensor | None:
        """The class that every sequence is to become [batch], None for rewards without a class."""
        if self.kind not in ("class", "logit"):
            return None
        if self.value is not None and self.value >= num_labels:
            raise ValueError(f"reward {self.kind}:{self.value:g}: the classes are 0 to {num_labels - 1}")
        return torch.arange(batch) % num_labels if self.value is None else torch.full((batch,), int(self.value))

    def score(self, classifier: Callable[[Tensor], Tensor] | None, batch: int, device: str = "cpu") -> Score:
        """The score of images. Raises ValueError when the kind needs something that is not there."""
        if self.kind in ("class", "logit"):
            targets = self.targets(batch)
            if classifier is None or targets is None:
                raise ValueError(f"{self.kind}:… is a reward of digits; for these images use imagenet:…")
            return class_score(classifier, targets, kind="log_prob" if self.kind == "class" else "logit")
        if self.kind == "imagenet":
            label = check_imagenet_label(int(self.value or 0))
            return class_score(load_efficientnet(device), label)
        return ink_score(self.value or 0.0) if self.kind == "ink" else symmetry_score
