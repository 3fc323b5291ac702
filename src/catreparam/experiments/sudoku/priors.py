"""The Sudoku priors: their network, and weights by name: untrained (made by seed), shipped, or a file of your own."""

from importlib.resources import files
from pathlib import Path

import safetensors
import safetensors.torch
import torch

from catreparam.data.sudoku_solver import UNITS
from catreparam.experiments.runs.streams import stream
from catreparam.models.denoiser import MaskedDenoiser
from catreparam.validation import check_choice

SHIPPED = ("short", "medium", "long")
PRIORS = ("untrained", *SHIPPED)
DESIGN = {"width": 96, "num_layers": 2, "num_heads": 3, "num_loops": 4}


class DamagedWeights(ValueError):
    """A weights file cannot be used; the message says why and what to do."""


def load_prior(name: str) -> MaskedDenoiser:
    """The prior called `name` (untrained, short, medium, long, or a path of a .safetensors file), in evaluation mode.

    Raises ValueError for an unknown name, FileNotFoundError for a missing file, DamagedWeights for one that is cut
    short, is no safetensors file, or holds other tensors than this network has. Nothing in a file is executed.
    """
    if name == "untrained":
        return sudoku_denoiser().eval().requires_grad_(False)
    if name.endswith(".safetensors"):
        return _read(
            Path(name), f"train it again with `catreparam run sudoku-prior`, or choose from {', '.join(PRIORS)}"
        )
    check_choice("prior", name, PRIORS)
    return _read(Path(str(files("catreparam.weights") / f"sudoku_{name}.safetensors")), "install catreparam again")


def sudoku_denoiser(seed: int = 0) -> MaskedDenoiser:
    """An untrained prior. One head looks along the row, one down the column, one around the box of every cell.

    Cells are told apart by what they see alone, so the network treats every board and its row, column and box shuffles
    alike.
    """
    units = torch.zeros(27, 81)
    for unit, cells in enumerate(UNITS):
        units[unit, cells] = 1
    by_kind = units.unflatten(0, (3, 9))  # [row | column | box, unit, cell]
    sees = by_kind.transpose(-1, -2) @ by_kind > 0  # [3, 81, 81]
    return MaskedDenoiser(
        9, 81, positions=False, attention_mask=sees, generator=stream(seed, "sudoku weights"), **DESIGN
    )


def _read(path: Path, remedy: str) -> MaskedDenoiser:
    if not path.is_file():
        raise FileNotFoundError(f"there are no weights at {path}; {remedy}")
    try:
        tensors = safetensors.torch.load(path.read_bytes())
    except safetensors.SafetensorError as error:
        raise DamagedWeights(f"{path} is damaged ({error}); {remedy}") from error
    model = sudoku_denoiser()
    expected = model.state_dict()
    for key in sorted(expected.keys() | tensors.keys()):
        ours, theirs = expected.get(key), tensors.get(key)
        if ours is None or theirs is None or ours.shape != theirs.shape:
            shapes = [None if tensor is None else tuple(tensor.shape) for tensor in (ours, theirs)]
            raise DamagedWeights(
                f"{path} does not fit the Sudoku prior: {key} has shape {shapes[1]}, not {shapes[0]}; {remedy}"
            )
        if not torch.isfinite(theirs).all():
            raise DamagedWeights(f"{path} is damaged ({key} is not finite); {remedy}")
    model.load_state_dict({key: tensor.float() for key, tensor in tensors.items()})
    return model.eval().requires_grad_(False)
