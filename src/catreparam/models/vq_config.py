"""The sizes of a LlamaGen VQ model, as its checkpoints show them."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from catreparam.validation import check_count


@dataclass(frozen=True)
class VQConfig:
    """Sizes under the official names. `ch_mult` are the decoder's widths, finest first, as multiples of `ch`.

    Without `encoder_ch_mult` there is no encoder. `usage_buffer` is the length of a record that training leaves behind.
    """

    ch: int
    ch_mult: tuple[int, ...]
    z_channels: int
    codebook_size: int
    codebook_embed_dim: int
    encoder_ch_mult: tuple[int, ...] = ()
    num_res_blocks: int = 2
    channels: int = 3
    l2_normalised_codebook: bool = True
    group_norm_groups: int = 32
    group_norm_eps: float = 1e-6
    usage_buffer: int = 0

    def __post_init__(self) -> None:
        for name in ("ch", "z_channels", "codebook_size", "codebook_embed_dim", "num_res_blocks", "channels"):
            check_count(name, getattr(self, name))
        if not self.ch_mult:
            raise ValueError("ch_mult must name at least one level")
        for multiple in (*self.ch_mult, *self.encoder_ch_mult):
            if check_count("ch_mult", multiple) * self.ch % self.group_norm_groups:
                raise ValueError(f"{multiple} * {self.ch} channels do not split into {self.group_norm_groups} groups")

    @property
    def downsampling(self) -> int:
        """Pixels to a side of one token."""
        return 2 ** (len(self.ch_mult) - 1)

    def norm(self, width: int) -> nn.GroupNorm:
        """The normalisation layer of so many channels."""
        return nn.GroupNorm(self.group_norm_groups, width, eps=self.group_norm_eps)

    @classmethod
    def from_tensors(
        cls, tensors: Mapping[str, Tensor], *, l2_normalised_codebook: bool = True, group_norm_groups: int = 32
    ) -> "VQConfig":
        """From the names and shapes of a checkpoint; what leaves no trace in them is an argument, official by default.

        Raises ValueError when the tensors are not those of a LlamaGen VQ model.
        """
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        dims = {"decoder.conv_out.weight": 4, "decoder.conv_in.weight": 4, "quantize.embedding.weight": 2}
        if missing := [name for name, ndim in dims.items() if len(shapes.get(name, ())) != ndim]:
            raise ValueError(f"this is no checkpoint of a LlamaGen VQ model: it has no tensor {missing[0]}")
        finest_first = list(reversed(_widths(shapes, "decoder")))
        encoder = _widths(shapes, "encoder")
        ch = shapes["encoder.conv_in.weight"][0] if "encoder.conv_in.weight" in shapes else finest_first[0]
        for width in (*finest_first, *encoder):
            if width % ch:
                raise ValueError(f"a level of {width} channels is no multiple of {ch}")
        return cls(
            ch=ch,
            ch_mult=tuple(width // ch for width in finest_first),
            encoder_ch_mult=tuple(width // ch for width in encoder),
            z_channels=shapes["decoder.conv_in.weight"][1],
            codebook_size=shapes["quantize.embedding.weight"][0],
            codebook_embed_dim=shapes["quantize.embedding.weight"][1],
            num_res_blocks=_count(shapes, "decoder.conv_blocks.0.res.") - 1,
            channels=shapes["decoder.conv_out.weight"][0],
            l2_normalised_codebook=l2_normalised_codebook,
            group_norm_groups=group_norm_groups,
            usage_buffer=shapes.get("quantize.codebook_used", (0,))[0],
        )


def _widths(shapes: Mapping[str, tuple[int, ...]], part: str) -> list[int]:
    """Output channels of every level of the encoder or decoder, in the order of its layers."""
    levels = _count(shapes, f"{part}.conv_blocks.")
    names = [f"{part}.conv_blocks.{level}.res.0.conv1.weight" for level in range(levels)]
    if missing := [name for name in names if name not in shapes]:
        raise ValueError(f"this is no checkpoint of a LlamaGen VQ model: it has no tensor {missing[0]}")
    return [shapes[name][0] for name in names]


def _count(shapes: Mapping[str, tuple[int, ...]], prefix: str) -> int:
    """How many children (numbered from 0) the names below a prefix have."""
    return len({name[len(prefix) :].partition(".")[0] for name in shapes if name.startswith(prefix)})
