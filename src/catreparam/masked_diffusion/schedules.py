"""How many positions are still masked as a generation proceeds."""

import math
from collections.abc import Callable

from catreparam.validation import check_choice, check_number

MASK_SCHEDULES: dict[str, Callable[[float], float]] = {
    "linear": lambda progress: 1.0 - progress,
    "cosine": lambda progress: math.cos(math.pi / 2 * progress),
    "arccos": lambda progress: math.acos(progress) / (math.pi / 2),
}


def mask_fraction(schedule: str, progress: float) -> float:
    """The fraction of the maskable positions that is masked after the part `progress` of the rounds; from 1 down to 0.

    linear: 1 - r. cosine: cos(pi r / 2), reveals little at the start. arccos: arccos(r) / (pi / 2), much in the last
    rounds. Raises ValueError for an unknown schedule or a progress outside [0, 1].

    >>> [round(mask_fraction(name, 0.5), 3) for name in ("linear", "cosine", "arccos")]
    [0.5, 0.707, 0.667]

    Reference: Chang et al. 2022 (MaskGIT), https://arxiv.org/abs/2202.04200.
    """
    function = MASK_SCHEDULES[check_choice("schedule", schedule, MASK_SCHEDULES)]
    progress = check_number("progress", progress, least=0.0, most=1.0)
    return 0.0 if progress == 1.0 else function(progress)
