"""The sizes of a Halton-MaskGIT transformer, as the tensors of its checkpoints show them."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from catreparam.validation import check_count

HEADS_BY_WIDTH = {384: 6, 512: 6, 768: 12, 1024: 16, 1152: 16}  # the official sizes: tiny, small, base, large, xlarge
FF_MULTIPLE = 256  # the official feed-forward width is two thirds of mlp_dim, rounded up to a multiple of this


@dataclass(frozen=True)
class MaskGITConfig:
    """Sizes under the official names; `ff_dim` and `head_dim` are what the official rules make of the others.

    input_size^2 tokens with a position each, codes 0 .. codebook_size - 1 and the mask token, labels 0 .. nclass - 1
    and the null label, `register` extra tokens inside, patches of `proj` x `proj` tokens (1 or 2).
    """

    input_size: int
    hidden_dim: int
    codebook_size: int
    depth: int
    heads: int
    ff_dim: int
    nclass: int = 1000
    register: int = 1
    proj: int = 1

    def __post_init__(self) -> None:
        for name in ("input_size", "hidden_dim", "codebook_size", "depth", "heads", "ff_dim", "nclass"):
            check_count(name, getattr(self, name))
        check_count("register", self.register, 0)
        if self.proj not in (1, 2):
            raise ValueError(f"proj must be 1 or 2 (the official architecture has no other patches), got {self.proj}")
        if self.heads > self.hidden_dim:
            raise ValueError(f"heads must be at most hidden_dim, {self.hidden_dim}, got {self.heads}")

    @property
    def head_dim(self) -> int:
        """Width of a head; heads * head_dim is less than hidden_dim where that does not divide (512 by 6)."""
        return self.hidden_dim // self.heads

    @property
    def mask_token(self) -> int:
        """The token that stands for "masked"."""
        return self.codebook_size

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], *, heads: int | None = None) -> "MaskGITConfig":
        """From the names and shapes of a checkpoint. Only the number of heads leaves no trace in them.

        Without `heads` the official number for the width is taken. Raises ValueError when the tensors are not those
        of a MaskGIT transformer, or when the number of heads is needed.
        """
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        feed, query = "transformer.layers.0.ff.w1.weight", "transformer.layers.0.attn.wq.weight"
        needed = ("tok_emb.weight", "pos_emb.weight", "cls_emb.weight", feed, query)
        if missing := [name for name in needed if len(shapes.get(name, ())) != 2]:
            raise ValueError(f"this is no checkpoint of a MaskGIT transformer: it has no matrix {missing[0]}")
        vocabulary, width = shapes["tok_emb.weight"]
        return cls(
            input_size=_exact_root(shapes["pos_emb.weight"][0]),
            hidden_dim=width,
            codebook_size=vocabulary - 1,
            depth=1 + max(int(name.split(".")[2]) for name in shapes if name.startswith("transformer.layers.")),
            heads=_number_of_heads(width, shapes[query][0], heads),
            ff_dim=shapes[feed][0],
            nclass=shapes["cls_emb.weight"][0] - 1,
            register=shapes.get("reg_tokens.weight", (0,))[0],
            proj=2 if "in_proj.weight" in shapes else 1,
        )


def _exact_root(positions: int) -> int:
    side = round(positions**0.5)
    if side * side != positions:
        raise ValueError(f"pos_emb.weight has {positions} rows, which is no square grid of tokens")
    return side


def _number_of_heads(width: int, inner: int, heads: int | None) -> int:
    heads = HEADS_BY_WIDTH.get(width) if heads is None else heads
    if heads is None:
        raise ValueError(
            f"the number of heads cannot be read off a checkpoint of width {width} (official widths: "
            f"{', '.join(map(str, HEADS_BY_WIDTH))}); pass heads="
        )
    check_count("heads", heads)
    if heads > width or heads * (width // heads) != inner:
        raise ValueError(f"heads={heads} does not fit a checkpoint of width {width} with {inner} attention channels")
    return heads
