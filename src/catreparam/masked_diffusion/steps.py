"""One reverse step of masked diffusion: reveal some drawn tokens, mask some revealed ones again; how many of each."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor

from catreparam.masked_diffusion.orders import ORDERS, Order, Proposal, make_order, reveal
from catreparam.validation import check_choice, check_count, check_number

MASK_SCHEDULES: dict[str, Callable[[float], float]] = {
    "linear": lambda progress: 1.0 - progress,
    "even": lambda progress: 1.0 - progress,
    "floor": lambda progress: 1.0 - 0.999 * progress,
    "cosine": lambda progress: math.cos(math.pi / 2 * progress),
    "arccos": lambda progress: math.acos(progress) / (math.pi / 2),
}
"""The masked fraction as a function of progress in [0, 1], by the name that `schedule=` takes."""


def mask_fraction(schedule: str, progress: float) -> float:
    """The fraction of the maskable positions that is masked after the part `progress` of the rounds; from 1 down to 0.

    linear and even: 1 - r. floor: 1 - 0.999 r. cosine: cos(pi r / 2), reveals little at the start. arccos:
    arccos(r) / (pi / 2), much in the last rounds. Raises ValueError for an unknown schedule, a progress outside [0, 1].

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
        schedule: "linear", "cosine" or "arccos": the masked fraction over the rounds. "even" is linear with the same
            number in every round, one more in the first where it does not divide (as LLaDA). "floor" is linear down to
            0.001, and reveals that part of what is still masked, rounded down: it may be none (as Dream).
        order: which masked positions are revealed. "ancestral": each independently, with the posterior's probability
            (their number varies). The others reveal exactly the schedule's number: "random", "confidence" (most
            probable drawn token first; see `confidence_order` for MaskGIT's noise), "model_confidence" (the same by the
            model's own probabilities, without temperature or guidance), "entropy" (lowest first), "margin" (largest
            first), "left_to_right", "halton" (square grids; else pass `halton_order(height, width)`), positions [L]
            from first to last, or a function `Proposal` -> scores [B, L].
        remask_sigma: in [0, 1]: ReMDM's remasking, as a part of the largest probability that keeps the schedule's
            marginals (its `rescale` schedule). 0 is plain masked diffusion.
        block_size: the masked positions of a sequence, in blocks of so many, are filled one block after another, each
            in an equal part of the rounds; later blocks are not touched. None: all at once.
        threshold: in (0, 1]: a round reveals all tokens of at least this probability, as they were drawn, and at least
            one, instead of the schedule's number; blocks follow when they can. Not for "ancestral". None: no threshold.
        end_token: ends a text: once a step has revealed it, all generated positions behind it hold `pad_token`,
            whatever they held, and are finished. Given tokens are kept, and an end among them ends nothing. Not with
            remasking. The denoiser must allow it (`forbidden`). None: no token ends anything.
        pad_token: what stands behind the end; None: the end token.
    """

    num_rounds: int = 20
    schedule: str = "linear"
    order: str | Tensor | Order = "ancestral"
    remask_sigma: float = 0.0
    block_size: int | None = None
    threshold: float | None = None
    end_token: int | None = None
    pad_token: int | None = None

    def __post_init__(self) -> None:
        check_count("num_rounds", self.num_rounds)
        check_choice("schedule", self.schedule, MASK_SCHEDULES)
        check_number("remask_sigma", self.remask_sigma, least=0.0, most=1.0)
        if isinstance(self.order, str):
            check_choice("order", self.order, ORDERS)
        if self.block_size is not None:
            check_count("block_size", self.block_size)
        if self.threshold is not None:
            check_number("threshold", self.threshold, above=0.0, most=1.0)
            if self.order == "ancestral":
                raise ValueError('threshold chooses by probability, which order="ancestral" does not; choose another')

        for name in ("end_token", "pad_token"):
            if (token := getattr(self, name)) is not None:
                check_count(name, token, 0)
        if self.end_token is None and self.pad_token is not None:
            raise ValueError(f"pad_token stands behind an end_token, of which there is none; got {self.pad_token}")
        if self.end_token is not None and self.remask_sigma > 0:
            raise ValueError("end_token ends a text for good, remask_sigma takes tokens back; choose one of them")

    def noise_levels(self, round_index: int) -> tuple[float, float]:
        """The masked fraction by the schedule before a round and after it."""
        before, after = (mask_fraction(self.schedule, (round_index + done) / self.num_rounds) for done in (0, 1))
        return before, after

    def past_end(self, tokens: Int[Tensor, "B L"], maskable: Bool[Tensor, "B L"]) -> Bool[Tensor, "B L"]:
        """The generated positions behind the first generated end token."""
        if self.end_token is None:
            return torch.zeros_like(maskable)
        ends = (tokens == self.end_token) & maskable
        return maskable & (ends.cumsum(-1) > ends.long())

    def ended(self, tokens: Int[Tensor, "B L"], maskable: Bool[Tensor, "B L"]) -> Int[Tensor, "B L"]:
        """The tokens, with padding behind the end."""
        if self.end_token is None:
            return tokens
        pad = self.end_token if self.pad_token is None else self.pad_token
        return tokens.masked_fill(self.past_end(tokens, maskable), pad)

    def rounds_of_block(self, maskable: Bool[Tensor, "B L"]) -> int:
        """The rounds that each block gets. Raises ValueError unless they divide among the blocks."""
        if self.block_size is None:
            return self.num_rounds
        longest = int(maskable.sum(-1).max()) if maskable.numel() else 0
        blocks = max(1, -(-longest // self.block_size))
        if self.num_rounds % blocks and self.threshold is None:
            raise ValueError(
                f"num_rounds must divide among {blocks} blocks ({longest} masked positions, block_size "
                f"{self.block_size}), got {self.num_rounds}; choose a multiple of {blocks}"
            )
        return max(1, self.num_rounds // blocks)

    def window(
        self, masked: Bool[Tensor, "B L"], maskable: Bool[Tensor, "B L"], round_index: int
    ) -> Bool[Tensor, "B L"]:
        """The positions that a round works on: those of the block whose turn it is.

        With a threshold that is the first one that is not finished, in every sequence.
        """
        if self.block_size is None:
            return maskable
        block = (maskable.cumsum(-1) - 1).clamp_min(0) // self.block_size
        if self.threshold is None:
            return maskable & (block == round_index // self.rounds_of_block(maskable))
        return maskable & (block == block.masked_fill(~masked, maskable.shape[-1]).amin(-1, keepdim=True))


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
    logits: Float[Tensor, "B L V"] | None = None,
    prior: Float[Tensor, "B L V"] | None = None,
    temperature: float = 1.0,
) -> Int[Tensor, "B L"]:
    """The tokens after round `round_index` (from 0): masked ones may take their `clean` token, others be masked again.

    `log_prob` are the log-probabilities of the clean tokens; these, `logits`, `prior` and `temperature` are for orders,
    see `Proposal`. Only `maskable` positions (those masked at the very start) are ever masked again.

    With a = 1 - masked fraction before and after (a_t, a_s): a revealed token is masked with sigma = remask_sigma *
    min(1, (1 - a_s) / a_t), a masked one revealed with (a_s - (1 - sigma) a_t) / (1 - a_t), which keeps the fraction
    a_s. After the last round nothing is masked.

    Reference: Wang et al. 2025 (ReMDM), https://arxiv.org/abs/2503.00307; Sahoo et al. 2024 (MDLM).
    """
    rounds, last = unmasking.rounds_of_block(maskable), round_index + 1 >= unmasking.num_rounds
    everywhere, done, generated = tokens == mask_token, round_index % rounds, maskable
    maskable = unmasking.window(everywhere, maskable, round_index)
    masked = everywhere & maskable
    before = 1 - mask_fraction(unmasking.schedule, done / rounds)
    after = 1 - mask_fraction(unmasking.schedule, (done + 1) / rounds)
    sigma = unmasking.remask_sigma * min(1.0, (1 - after) / before) if before > 0 else 0.0
    again = torch.zeros_like(masked)
    if sigma > 0:
        again = (_uniform(log_prob, generator) < sigma) & maskable & ~masked
    score = make_order(unmasking.order, tokens.shape[1])
    if last:
        shown = everywhere
    elif score is None:
        probability = (after - (1 - sigma) * before) / (1 - before)
        shown = masked & (_uniform(log_prob, generator) < probability)
    elif done + 1 == rounds and unmasking.threshold is None:
        shown = masked  # the block ends
    else:
        now = masked.sum(-1)
        count = _count(unmasking, masked, maskable, again, log_prob, done, rounds)
        least = 0 if sigma > 0 or unmasking.schedule == "floor" else 1
        count = torch.minimum(count.clamp_min(least), now)
        proposal = Proposal(clean, log_prob, (done + 1) / rounds, logits, prior, temperature, generator)
        shown = reveal(score(proposal), masked, count)
    return unmasking.ended(torch.where(shown, clean, tokens).masked_fill(again, mask_token), generated)


def _count(
    unmasking: Unmasking, masked: Tensor, maskable: Tensor, again: Tensor, log_prob: Tensor, done: int, rounds: int
) -> Int[Tensor, " B"]:
    """How many of the masked positions of a block a round reveals, `done` of its rounds over, `again` masked anew."""
    if unmasking.threshold is not None:
        return (masked & (log_prob >= math.log(unmasking.threshold))).sum(-1)
    total = maskable.sum(-1)
    if unmasking.schedule == "floor":
        before, after = (mask_fraction("floor", (done + ended) / rounds) for ended in (0, 1))
        return (masked.sum(-1) * (1 - after / before)).floor().long() + again.sum(-1)
    if unmasking.schedule == "even":
        return total // rounds + (done < total % rounds).long() + again.sum(-1)
    left = (mask_fraction(unmasking.schedule, (done + 1) / rounds) * total - 1e-6).ceil().long()
    return masked.sum(-1) + again.sum(-1) - left


def _uniform(like: Tensor, generator: Generator | None) -> Tensor:
    return torch.empty_like(like, dtype=torch.float32).uniform_(generator=generator)
