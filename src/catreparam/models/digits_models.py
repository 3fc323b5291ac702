"""The shipped models of digits as image tokens: VQ, masked-diffusion prior, reward classifier, held-out classifier."""

import json
from dataclasses import dataclass, fields
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from catreparam.models.checkpoints import CheckpointError, load_into, read_safetensors
from catreparam.models.classifier import HeldOutClassifier, RewardClassifier
from catreparam.models.maskgit import MaskGIT
from catreparam.models.maskgit_config import MaskGITConfig
from catreparam.models.vq_digits import DigitsVQ

SHIPPED = "weights/tokens_digits.safetensors"
PRIOR = MaskGITConfig(
    input_size=7, hidden_dim=96, codebook_size=64, depth=4, heads=4, ff_dim=256, nclass=10, register=1
)


@dataclass(frozen=True)
class DigitsModels:
    """Everything guided generation of digits needs.

    `reference_*` are the moments of the held-out classifier's features of real test images: of each label, then of all.
    """

    vq: DigitsVQ
    prior: MaskGIT
    reward: RewardClassifier
    heldout: HeldOutClassifier
    reference_mean: Float[Tensor, "labels_and_all d"]
    reference_covariance: Float[Tensor, "labels_and_all d d"]
    facts: dict[str, Any]

    def modules(self) -> dict[str, nn.Module]:
        """The four networks by name."""
        return {f.name: value for f in fields(self) if isinstance(value := getattr(self, f.name), nn.Module)}


def build_digits_models() -> dict[str, nn.Module]:
    """The four networks without weights, on the meta device."""
    with torch.device("meta"):
        return {
            "vq": DigitsVQ(num_codes=PRIOR.codebook_size),
            "prior": MaskGIT(PRIOR),
            "reward": RewardClassifier(),
            "heldout": HeldOutClassifier(),
        }


def load_digits_models(path: Path | str | None = None, *, device: str = "cpu") -> DigitsModels:
    """Reads the shipped file, or one made by `catreparam guide train`. All in float32, in eval mode, frozen.

    Raises CheckpointError (a ValueError) for a damaged file and for one that holds other tensors.
    """
    source = Path(str(files("catreparam") / SHIPPED)) if path is None else Path(path)
    tensors, metadata = read_safetensors(source)
    tensors = {name: tensor.float() for name, tensor in tensors.items()}
    models = build_digits_models()
    for name, model in models.items():
        mine = {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}
        load_into(model, mine, source=f"{source}, {name}")
        model.to(device).eval().requires_grad_(False)
    try:
        moments = {f"reference_{key}": tensors[f"reference.{key}"].to(device) for key in ("mean", "covariance")}
        facts = json.loads(metadata["facts"])
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"{source} was not made by `catreparam guide train` (no {error})") from error
    return DigitsModels(**models, **moments, facts=facts)  # type: ignore[arg-type]
