"""A tiny random AntiBERTy for the tests: its state dict, wheels around it, and its weights in a cache folder."""

import io
import zipfile
from pathlib import Path

import safetensors.torch
import torch
from torch import Generator, Tensor
from transformers import BertConfig, BertForMaskedLM

from catreparam.experiments.guide.antibody import weights
from catreparam.models.antiberty import convert_antiberty

WIDTH, INNER, LAYERS, POSITIONS = 16, 24, 2, 512


def bert() -> BertForMaskedLM:
    """transformers' network in the tiny size, with random weights."""
    config = BertConfig(
        vocab_size=25,
        hidden_size=WIDTH,
        intermediate_size=INNER,
        num_hidden_layers=LAYERS,
        num_attention_heads=1,
        max_position_embeddings=POSITIONS,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return BertForMaskedLM(config).eval()


def state_dict() -> dict[str, Tensor]:
    """As the published file has it: the network, its heads and its position ids."""
    generator = Generator().manual_seed(1)
    shapes = {"bert.pooler.dense": WIDTH, "cls.species": 6, "cls.chain": 2, "cls.graft": 2}
    state = {key: value.clone() for key, value in bert().state_dict().items()}
    for key in state:  # spread out, so that residues are not all alike
        state[key] += 0.5 * torch.randn(state[key].shape, generator=generator)
    state["cls.predictions.decoder.bias"] = state["cls.predictions.bias"]
    state["cls.predictions.decoder.weight"] = state["bert.embeddings.word_embeddings.weight"]
    state["bert.embeddings.position_ids"] = torch.arange(POSITIONS)[None]
    for name, rows in shapes.items():
        state[f"{name}.weight"] = torch.randn(rows, WIDTH, generator=generator)
        state[f"{name}.bias"] = torch.randn(rows, generator=generator)
    return state


def member(state: object) -> bytes:
    """What torch.save writes."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def wheel(content: bytes, name: str = weights.MEMBER) -> bytes:
    """A zip archive with one file of weights, and code that must stay in it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("antiberty/__init__.py", "raise SystemExit('imported')")
        archive.writestr(name, content)
    return buffer.getvalue()


def install_weights(cache: Path) -> Path:
    """Puts the tiny model where `load_prior` looks; the cache folder is CATREPARAM_DATA."""
    cache.mkdir(parents=True, exist_ok=True)
    raw = cache / "raw.bin"
    raw.write_bytes(member(state_dict()))
    target = cache / "antiberty" / "antiberty.safetensors"
    target.parent.mkdir(exist_ok=True)
    target.write_bytes(safetensors.torch.save(convert_antiberty(raw)))
    raw.unlink()
    return target
