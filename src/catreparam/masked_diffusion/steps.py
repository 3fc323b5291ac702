"""One reverse step of masked diffusion: reveal some drawn tokens, mask some revealed ones again; how many of each."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor

from catreparam.masked_diffusion.orders import ORDERS, Order, make_order, reveal
from catreparam.validation import check_choice, check_count, check_number

MASK_SCHEDULES: dict[str, Callable[[float], float]] = {
    "linear": lambda progress: 1.0 - progress,
    "cosine": lambda progress: math.cos(math.pi / 2 * progress),
    "arccos": lambda progress: math.acos(progress) / (math.pi / 2),
}
"""The masked fraction as a function of progress in [0, 1], by the name that `schedule=` takes."""


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


@dataclass(frozen=True, eq=False)
class Unmasking:
    """The settings of a reverse process.

    Parameters:
        num_rounds: model evaluations.
        schedule: "linear", "cosine" or "arccos": the masked fraction over the rounds.
        order: which masked positions are revealed. "ancestral": each independently, with the posterior's probability
            (their number varies). The others reveal exactly the schedule's number: "random", "confidence" (most
            probable first; see `confidence_order` for MaskGIT's noise), "halton" (square grids; else pass
            `halton_order(height, width)`), positions [L] from first to last, or a function (log_prob [B, L], progress,
            generator) -> scores [B, L].
        remask_sigma: in [0, 1]: ReMDM's remasking, as a part of the largest probability that keeps the schedule's
            marginals (its `rescale` schedule). 0 is plain masked diffusion.
    """

    num_rounds: int = 20
    schedule: str = "linear"
    order: str | Tensor | Order = "ancestral"
    remask_sigma: float = 0.0

    def __post_init__(self) -> None:
        check_count("num_rounds", self.num_rounds)
        check_choice("schedule", self.schedule, MASK_SCHEDULES)
        check_number("remask_sigma", self.remask_sigma, least=0.0, most=1.0)
        if isinstance(self.order, str):
            check_choice("order", self.order, ORDERS)


def reverse_step(
    tokens: Int[Tensor, "B L"],
    clean: Int[Tensor, "B L"],
    log_prob: Float[Tensor, "B L"],
    *,
    round_index: int,
    unmasking: Unmasking,
    maskable: Bool[Tensor, "B L"],
    mask_token: int,
    generator: Generator | None = None,
) -> Int[Tensor, "B L"]:
    """The tokens after round `round_index` (from 0): masked ones may take their `clean` token, others be masked again.

    `log_prob` are the log-probabilities of the clean tokens (read by confidence orders). Only `maskable` positions
    (those masked at the very start) are ever masked again. With a = 1 - masked fraction before and after (a_t, a_s): a
    revealed token is masked with sigma = remask_sigma * min(1, (1 - a_s) / a_t), a masked one revealed with
    (a_s - (1 - sigma) a_t) / (1 - a_t), which keeps the fraction a_s. After the last round nothing is masked.

    Reference: Wang et al. 2025 (ReMDM), https://arxiv.org/abs/2503.00307; Sahoo et al. 2024 (MDLM).
    """
    masked = tokens == mask_token
    before = 1 - mask_fraction(unmasking.schedule, round_index / unmasking.num_rounds)
    after = 1 - mask_fraction(unmasking.schedule, (round_index + 1) / unmasking.num_rounds)
    sigma = unmasking.remask_sigma * min(1.0, (1 - after) / before) if before > 0 else 0.0
    again = torch.zeros_like(masked)
    if sigma > 0:
        again = (_uniform(log_prob, generator) < sigma) & maskable & ~masked
    score = make_order(unmasking.order, tokens.shape[1])
    if round_index + 1 >= unmasking.num_rounds:
        shown = masked
    elif score is None:
        probability = (after - (1 - sigma) * before) / (1 - before)
        shown = masked & (_uniform(log_prob, generator) < probability)
    else:
        now, total = masked.sum(-1), maskable.sum(-1)
        left = ((1 - after) * total - 1e-6).ceil().long()  # masked after this round
        count = now + again.sum(-1) - left
        count = torch.minimum(count.clamp_min(0 if sigma > 0 else 1), now)
        shown = reveal(score(log_prob, (round_index + 1) / unmasking.num_rounds, generator), masked, count)
    return torch.where(shown, clean, tokens).masked_fill(again, mask_token)


def _uniform(like: Tensor, generator: Generator | None) -> Tensor:
    return torch.empty_like(like, dtype=torch.float32).uniform_(generator=generator)
