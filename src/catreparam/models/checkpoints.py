"""Checkpoints from elsewhere: read without executing anything, then matched name by name and shape by shape."""

import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

CONTAINERS = ("model_state_dict", "state_dict", "model", "ema")  # keys under which official files keep their weights
PREFIXES = re.compile(r"module\.|_orig_mod\.")  # left behind by DistributedDataParallel and torch.compile
SHOWN = 3  # names shown of each kind of mismatch


class CheckpointError(ValueError):
    """A checkpoint cannot be used; the message says why and what to do."""


def read_checkpoint(path: Path | str) -> dict[str, Tensor]:
    """The tensors of a .safetensors, .pth, .pt, .ckpt or .bin file by name, without containers and prefixes.

    PyTorch files are read with `weights_only=True` and memory-mapped: nothing in them is executed, and tensors are
    paged in as they are used. Raises CheckpointError for a file that is missing, truncated, wants to run code, or
    holds no tensors.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        return _without_prefixes(read_safetensors(path)[0])
    return _without_prefixes(_unpack(_read_torch(path), path))


def read_safetensors(path: Path | str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file. Raises CheckpointError when it is missing or damaged."""
    import safetensors

    path = Path(path)
    _check_exists(path)
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is truncated or no safetensors file ({error}); fetch it again") from error


def load_into(model: nn.Module, tensors: Mapping[str, Tensor], *, source: Path | str) -> None:
    """Puts tensors into a model (built on the meta device if large) after checking every name and every shape.

    The model takes the tensors themselves, nothing is copied. Raises CheckpointError that lists what differs.
    """
    expected = model.state_dict()
    missing = [name for name in expected if name not in tensors]
    unexpected = [name for name in tensors if name not in expected]
    shapes = [
        f"{name} is {list(tensors[name].shape)} there and {list(tensor.shape)} here"
        for name, tensor in expected.items()
        if name in tensors and tensors[name].shape != tensor.shape
    ]
    complaints = [
        f"{kind}: {', '.join(names[:SHOWN])}{f' and {len(names) - SHOWN} more' if len(names) > SHOWN else ''}"
        for kind, names in (("missing", missing), ("unexpected", unexpected), ("other shape", shapes))
        if names
    ]
    if complaints:
        raise CheckpointError(f"{source} does not fit {type(model).__name__}: {'; '.join(complaints)}")
    model.load_state_dict(dict(tensors), strict=True, assign=True)


def _read_torch(path: Path) -> Any:
    _check_exists(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of unusual pickles: they load, or are one error below
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        if "weights" in str(error).lower():
            raise CheckpointError(
                f"{path} holds more than tensors and was refused: reading it could run code "
                f"({reason_of(error)}). Ask its author for a .safetensors file or a plain state dict"
            ) from error
        raise CheckpointError(f"{path} is truncated or no PyTorch checkpoint ({reason_of(error)})") from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{path} is truncated or no PyTorch checkpoint ({reason_of(error)})") from error


def _check_exists(path: Path) -> None:
    if not path.is_file():
        raise CheckpointError(
            f"there is no checkpoint {path}; download it first (docs/image-tokens.md says from where)"
        )


def _unpack(content: Any, path: Path) -> dict[str, Tensor]:
    outer = content if isinstance(content, Mapping) else {}
    inner = next((outer[key] for key in CONTAINERS if isinstance(outer.get(key), Mapping)), outer)
    tensors = {name: value for name, value in inner.items() if isinstance(value, Tensor)}
    if not tensors or not all(isinstance(name, str) for name in tensors):
        raise CheckpointError(
            f"{path} holds no state dict; expected tensors by name, or under one of {', '.join(CONTAINERS)}"
        )
    return tensors


def _without_prefixes(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Every name without wrappers' prefixes, wherever in the name they stand."""
    return {PREFIXES.sub("", name): tensor for name, tensor in tensors.items()}


def reason_of(error: BaseException) -> str:
    """What went wrong in one line, without what libraries say around it."""
    text = str(error).strip()
    for mark in ("WeightsUnpickler error:", "Unsupported"):
        if mark in text:
            text = text[text.index(mark) :].removeprefix("WeightsUnpickler error:")
            break
    return " ".join(text.split())[:160] or type(error).__name__
