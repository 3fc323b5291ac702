"""The sizes of models as their official configs spell them."""

from catreparam.models.maskgit_config import MaskGITConfig
from catreparam.models.vq_config import VQConfig


def maskgit_config(options: dict) -> MaskGITConfig:
    """Of the official constructor's options, which give mlp_dim: two thirds of it, up to a multiple of 256."""
    names = ("input_size", "hidden_dim", "codebook_size", "depth", "heads", "nclass", "register", "proj")
    ff_dim = int(2 * options["mlp_dim"] / 3)
    return MaskGITConfig(**{name: options[name] for name in names if name in options}, ff_dim=-(-ff_dim // 256) * 256)


def vq_config(options: dict, *, usage_buffer: int = 0) -> VQConfig:
    """Of official options: `ch_mult` for both halves, or `encoder_ch_mult` and `decoder_ch_mult`."""
    decoder = options.get("decoder_ch_mult", options.get("ch_mult"))
    given = {key: value for key, value in options.items() if key in VQConfig.__dataclass_fields__}
    mults = {"ch_mult": tuple(decoder), "encoder_ch_mult": tuple(options.get("encoder_ch_mult", decoder))}
    return VQConfig(**{"ch": 128, **given, **mults, "usage_buffer": usage_buffer})
