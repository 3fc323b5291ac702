"""Official files to models: the sizes are read off the tensors, every name and shape is checked, nothing is copied."""

from pathlib import Path

import torch

from catreparam.models.checkpoints import CheckpointError, load_into, read_checkpoint
from catreparam.models.maskgit import MaskGIT
from catreparam.models.maskgit_config import MaskGITConfig
from catreparam.models.vq import VQModel
from catreparam.models.vq_config import VQConfig


def load_maskgit(path: Path | str, *, heads: int | None = None, device: str | torch.device = "cpu") -> MaskGIT:
    """The transformer of a Halton-MaskGIT checkpoint, in eval mode, frozen.

    `heads` is needed only for widths that the official sizes do not have. Raises CheckpointError (a ValueError) for a
    file that is missing, truncated, wants to run code, or holds other tensors.
    """
    tensors = read_checkpoint(path)
    try:
        config = MaskGITConfig.from_tensors(tensors, heads=heads)
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{path}: {error}") from error
    with torch.device("meta"):
        model = MaskGIT(config)
    load_into(model, tensors, source=path)
    if torch.equal(model.head.weight, model.tok_emb.weight):
        model.head.weight = model.tok_emb.weight
    return model.to(device).eval().requires_grad_(False)


def load_vq(
    path: Path | str,
    *,
    encoder: bool = False,
    l2_normalised_codebook: bool = True,
    group_norm_groups: int = 32,
    device: str | torch.device = "cpu",
) -> VQModel:
    """The VQ model of a LlamaGen checkpoint, in eval mode, frozen; its encoder only if asked for.

    Raises CheckpointError (a ValueError) as `load_maskgit` does.
    """
    tensors = read_checkpoint(path)
    if not encoder:
        tensors = {k: v for k, v in tensors.items() if not k.startswith(("encoder.", "quant_conv."))}
    try:
        config = VQConfig.from_tensors(
            tensors, l2_normalised_codebook=l2_normalised_codebook, group_norm_groups=group_norm_groups
        )
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{path}: {error}") from error
    if encoder and not config.encoder_ch_mult:
        raise CheckpointError(f"{path} has no encoder; load it with encoder=False")
    with torch.device("meta"):
        model = VQModel(config)
    load_into(model, tensors, source=path)
    return model.to(device).eval().requires_grad_(False)


def check_vocabulary(transformer: MaskGIT, vq: VQModel) -> None:
    """Raises ValueError unless the transformer's tokens are the VQ model's codes, as far as their number tells."""
    if transformer.config.codebook_size != vq.config.codebook_size:
        raise ValueError(
            f"the transformer has {transformer.config.codebook_size} codes and the VQ model "
            f"{vq.config.codebook_size}; use checkpoints that were trained together"
        )
