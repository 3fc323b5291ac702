"""Sequence logos: at every designed position the residues, as high as they carry information."""

import math
from collections import Counter
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from catreparam.objectives.residues import RESIDUES

WIDTH, HEIGHT, DPI = 10.4, 1.35, 110  # inches, and pixels an inch
COLOURS = dict.fromkeys("KRH", "#0072b2") | dict.fromkeys("DE", "#d55e00") | dict.fromkeys("STNQ", "#009e73")
COLOURS |= dict.fromkeys("AVLIMFWY", "#334155") | dict.fromkeys("GPC", "#cc79a7")


def letter_heights(sequences: Sequence[str], position: int) -> list[tuple[str, float]]:
    """Letters of a position with their heights in bits, lowest first: share * (log2 20 - entropy).

    >>> letter_heights(["AA", "AC"], 0)
    [('A', 4.321928094887363)]
    """
    counts = Counter(sequence[position] for sequence in sequences)
    shares = {letter: count / len(sequences) for letter, count in counts.items()}
    bits = math.log2(len(RESIDUES)) + sum(share * math.log2(share) for share in shares.values())
    return sorted(((letter, share * bits) for letter, share in shares.items()), key=lambda pair: (pair[1], pair[0]))


def draw_logo(title: str, sequences: Sequence[str], positions: Sequence[int]) -> Float[Tensor, "3 height width"]:
    """A picture in [0, 1]; positions are numbered from 1 below, and gaps between loops are left open."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, HEIGHT), dpi=DPI, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    places = [
        place + sum(b - a > 1 for a, b in zip(positions, positions[1 : place + 1], strict=False))
        for place in range(len(positions))
    ]
    for place, position in zip(places, positions, strict=True):
        bottom = 0.0
        for letter, height in letter_heights(sequences, position):
            _draw_letter(axes, letter, place, bottom, height)
            bottom += height
    axes.set_xlim(-0.6, max(places, default=0) + 0.6)
    axes.set_ylim(0, math.log2(len(RESIDUES)))
    axes.set_xticks(places, [str(position + 1) for position in positions], fontsize=6, rotation=90)
    axes.set_yticks([0, 2, 4])
    axes.set_title(title, fontsize=8, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    canvas.draw()
    pixels = torch.frombuffer(bytearray(canvas.buffer_rgba()), dtype=torch.uint8)
    width, height = canvas.get_width_height()
    return pixels.reshape(height, width, 4)[..., :3].permute(2, 0, 1).float() / 255


def _draw_letter(axes, letter: str, place: float, bottom: float, height: float) -> None:
    """The letter, stretched to `height`, and to a box one wide unless it is a narrow one (I)."""
    from matplotlib.patches import PathPatch
    from matplotlib.textpath import TextPath
    from matplotlib.transforms import Affine2D

    path = TextPath((0, 0), letter, size=1)
    box = path.get_extents()
    width = 0.9 * min(1.0, box.width / 0.35)
    stretched = Affine2D().translate(-box.x0, -box.y0).scale(width / box.width, height / box.height)
    shape = stretched.translate(place - width / 2, bottom).transform_path(path)
    axes.add_patch(PathPatch(shape, color=COLOURS[letter], lw=0))
