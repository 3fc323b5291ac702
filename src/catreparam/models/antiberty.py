"""AntiBERTy, a masked language model of antibodies, as a denoiser of the twenty residues; with its classifying heads.

The weights are those of the wheel antiberty 0.1.3 (MIT); the network is transformers' BertForMaskedLM.
Reference: Ruffolo, Gray & Sulam 2021, https://arxiv.org/abs/2112.07782.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from catreparam.extras import install
from catreparam.models.checkpoints import CheckpointError, load_into, read_checkpoint, read_safetensors

NUM_RESIDUES = 20  # in the alphabetical order of their letters
MAX_LENGTH = 510  # residues: 512 positions, of which the start and the end take two
CHAINS = ("heavy", "light")
SPECIES = ("camel", "human", "mouse", "rabbit", "rat", "rhesus")
HEADS = {"chain": CHAINS, "species": SPECIES}
START, END, MASK, FIRST_RESIDUE = 2, 3, 4, 5  # the model's own ids
HEAD_WIDTH = 64  # of attention
OURS = {"bert.pooler.dense": "pooler", "cls.species": "species", "cls.chain": "chain"}
UNUSED = ("bert.embeddings.position_ids", "cls.graft.weight", "cls.graft.bias")


@dataclass(frozen=True)
class AntiBERTySizes:
    """Width, feed-forward width, layers and positions; the defaults are those of the published weights."""

    width: int = 512
    inner: int = 2048
    layers: int = 8
    positions: int = MAX_LENGTH + 2


class AntiBERTy(nn.Module):
    """A denoiser: tokens [B, L], residues 0 to 19 and `mask_token` where masked -> prior logits [B, L, 20].

    The start and end that the model was trained with are added on the way, and its special tokens cannot be drawn.
    Raises ImportError without transformers; ValueError for more than 510 residues.
    """

    mask_token = NUM_RESIDUES

    def __init__(self, sizes: AntiBERTySizes | None = None) -> None:
        super().__init__()
        sizes = sizes or AntiBERTySizes()
        try:
            from transformers import BertConfig, BertForMaskedLM
        except ImportError as error:
            raise ImportError(f"AntiBERTy needs transformers: {install('antibody')}") from error
        config = BertConfig(
            vocab_size=FIRST_RESIDUE + NUM_RESIDUES,
            hidden_size=sizes.width,
            intermediate_size=sizes.inner,
            num_hidden_layers=sizes.layers,
            num_attention_heads=max(1, sizes.width // HEAD_WIDTH),
            max_position_embeddings=sizes.positions,
        )
        self.sizes = sizes
        self.language_model = BertForMaskedLM(config)
        self.pooler = nn.Linear(sizes.width, sizes.width)
        self.chain, self.species = nn.Linear(sizes.width, len(CHAINS)), nn.Linear(sizes.width, len(SPECIES))

    def forward(self, tokens: Int[Tensor, "B L"]) -> Float[Tensor, "B L 20"]:
        """Prior logits of every residue; sequences that are alike, as in the first round, are evaluated once."""
        tokens, place = tokens.unique(dim=0, return_inverse=True)
        ids = torch.where(tokens == self.mask_token, MASK, tokens + FIRST_RESIDUE)
        ends = [torch.full_like(ids[:, :1], end) for end in (START, END)]
        output = self._run(self.language_model, input_ids=torch.cat([ends[0], ids, ends[1]], 1))
        return output.logits[:, 1:-1, FIRST_RESIDUE:][place]

    def log_probs(self, head: str, x: Float[Tensor, "B L 20"]) -> Float[Tensor, "B classes"]:
        """Log-probabilities of the classes HEADS[head] of whole sequences; differentiable in one-hot or relaxed x.

        Cost: one evaluation of the network, and its gradient.
        """
        table = self.language_model.bert.embeddings.word_embeddings.weight
        start, end = (table[id].expand(x.shape[0], 1, -1) for id in (START, END))
        embedded = torch.cat([start, x.to(table.dtype) @ table[FIRST_RESIDUE:], end], 1)
        first = self._run(self.language_model.bert, inputs_embeds=embedded).last_hidden_state[:, 0]
        return torch.log_softmax(getattr(self, head)(torch.tanh(self.pooler(first))), -1).to(x.dtype)

    def _run(self, network: nn.Module, **inputs: Tensor) -> Any:
        (given,) = inputs.values()
        batch, length = given.shape[:2]
        if length > self.sizes.positions:
            raise ValueError(f"AntiBERTy takes at most {self.sizes.positions - 2} residues, got {length - 2}")
        types = torch.zeros(batch, length, dtype=torch.long, device=given.device)
        places = torch.arange(length, device=given.device).expand(batch, length)
        return network(**inputs, token_type_ids=types, position_ids=places)


def convert_antiberty(path: Path | str) -> dict[str, Tensor]:
    """The tensors of AntiBERTy's pytorch_model.bin under this module's names, checked by name, shape and value.

    Nothing in the file is executed. Raises CheckpointError for a file that wants to run code, is damaged, or holds
    other tensors than these.
    """
    tensors = {key: value for key, value in read_checkpoint(path).items() if key not in UNUSED}
    tensors = {_renamed(key): value.clone().contiguous() for key, value in tensors.items()}  # tied ones apart
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"{path}: {name} holds values that are no finite numbers; fetch the file again")
    _build(tensors, source=path)
    return tensors


def load_antiberty(path: Path | str) -> AntiBERTy:
    """The model from a file of the tensors of `convert_antiberty`; in eval mode, frozen.

    Raises CheckpointError (a ValueError) for a damaged file and for one that holds other tensors.
    """
    return _build(read_safetensors(path)[0], source=path)


def _build(tensors: Mapping[str, Tensor], *, source: Path | str) -> AntiBERTy:
    with torch.device("meta"):
        model = AntiBERTy(_sizes(tensors, source))
    load_into(model, tensors, source=source)
    embeddings, places = model.language_model.bert.embeddings, torch.arange(model.sizes.positions)[None]
    for name, _ in list(embeddings.named_buffers(recurse=False)):  # its defaults, which no file holds
        embeddings.register_buffer(name, places if name == "position_ids" else 0 * places, persistent=False)
    return model.eval().requires_grad_(False)


def _renamed(key: str) -> str:
    start, _, kind = key.rpartition(".")
    return f"{OURS[start]}.{kind}" if start in OURS else f"language_model.{key}"


def _sizes(tensors: Mapping[str, Tensor], source: Path | str) -> AntiBERTySizes:
    """Read off the tensors; what does not fit together is `load_into`'s to say."""
    bert = "language_model.bert."
    names = ("embeddings.position_embeddings.weight", "encoder.layer.0.intermediate.dense.weight")
    found = [tensors.get(f"{bert}{name}") for name in names]
    if any(tensor is None or tensor.ndim != 2 for tensor in found):
        raise CheckpointError(f"{source} is not AntiBERTy: it lacks {' or '.join(names)}")
    (positions, width), (inner, _) = (tensor.shape for tensor in found if tensor is not None)
    layers = sum(key.endswith(".intermediate.dense.bias") for key in tensors)
    return AntiBERTySizes(width, inner, layers, positions)
