"""The sampler of masked diffusion; it reads like the algorithm."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from catreparam.masked_diffusion.conditions import Condition
from catreparam.masked_diffusion.denoiser import Denoiser
from catreparam.masked_diffusion.orders import Order
from catreparam.masked_diffusion.process import ReverseProcess
from catreparam.masked_diffusion.steps import Unmasking
from catreparam.validation import check_choice


@dataclass(frozen=True)
class Sample:
    """What `sample` made.

    Fields:
        tokens: [B, L], without masks.
        log_prob: [B], of all reveals on the way under the model.
        model_evaluations: calls of the model, for each sequence.
        vocab_size: the last axis of the model's logits; None where there was nothing to generate.
    """

    tokens: Tensor
    log_prob: Tensor
    model_evaluations: int
    vocab_size: int | None


def sample(
    denoiser: Denoiser,
    tokens: Int[Tensor, "B L"],
    *,
    num_rounds: int = 20,
    schedule: str = "linear",
    order: str | Tensor | Order = "ancestral",
    remask_sigma: float = 0.0,
    block_size: int | None = None,
    threshold: float | None = None,
    end_token: int | None = None,
    pad_token: int | None = None,
    condition: Condition | None = None,
    temperature: float = 1.0,
    commit: str = "sample",
    callback: Callable[[int, Tensor], None] | None = None,
    generator: Generator | None = None,
) -> Sample:
    """Fills the masked positions of `tokens` by masked diffusion; unmasked positions are kept.

    `tokens` hold `denoiser.mask_token` where something is to be generated. Settings: see `Unmasking`. `commit` is what
    a round proposes: "sample", a draw at the `temperature`, or "argmax", the most probable token (greedy).
    `callback(round_index, tokens)` is called after every round.
    Cost:   at most num_rounds calls of the denoiser (fewer when nothing is left to do).
    Raises: ValueError or TypeError for bad settings, tokens outside the vocabulary, and NaN or ill-shaped logits.

    >>> from catreparam.masked_diffusion import as_denoiser
    >>> denoiser = as_denoiser(lambda tokens: torch.zeros(*tokens.shape, 9), mask_token=9)
    >>> start = torch.tensor([[9, 9, 4, 9]])
    >>> result = sample(denoiser, start, num_rounds=2, generator=torch.Generator().manual_seed(0))
    >>> int(result.tokens[0, 2]), bool((result.tokens < 9).all())
    (4, True)
    """
    check_choice("commit", commit, ("sample", "argmax"))
    unmasking = Unmasking(num_rounds, schedule, order, remask_sigma, block_size, threshold, end_token, pad_token)
    process = ReverseProcess.start(denoiser, tokens, unmasking, condition, temperature, generator)
    return run_process(process, tokens, callback, greedy=commit == "argmax")


def run_process(
    process: ReverseProcess,
    tokens: Int[Tensor, "B L"],
    callback: Callable[[int, Tensor], None] | None = None,
    *,
    greedy: bool = False,
) -> Sample:
    """The loop of `sample`: all rounds of a process, each position drawn from the prior, or its most probable token."""
    tokens = process.limit(tokens)
    log_prob, evaluations, vocab_size = torch.zeros(tokens.shape[0], device=tokens.device), 0, None
    for round_index in range(process.unmasking.num_rounds):
        if process.is_done(tokens):
            break
        prior = process.prior(tokens, round_index)
        clean, drawn = likeliest_tokens(prior) if greedy else process.draw(prior, tokens)
        after = process.step(tokens, clean, drawn, round_index, prior=prior)
        log_prob = log_prob + (drawn * process.revealed(tokens, after, round_index)).sum(-1)
        tokens, vocab_size = after, prior.shape[-1]
        evaluations += process.evaluations_per_round
        if callback is not None:
            callback(round_index, tokens)
    return Sample(tokens, log_prob, evaluations, vocab_size)


def likeliest_tokens(logits: Float[Tensor, "B L V"]) -> tuple[Int[Tensor, "B L"], Float[Tensor, "B L"]]:
    """The most probable token of every position, and its log-probability (float32)."""
    top, tokens = torch.log_softmax(logits.float(), -1).max(-1)
    return tokens, top


def one_hot_tokens(tokens: Int[Tensor, "B L"], vocab_size: int) -> Float[Tensor, "B L V"]:
    """x [B, L, vocab_size] in float32. Raises ValueError for tokens outside the vocabulary (masked ones, say)."""
    if tokens.numel() and int(tokens.max()) >= vocab_size:
        raise ValueError(f"tokens must lie in [0, {vocab_size}), got {int(tokens.max())}")
    return torch.zeros(*tokens.shape, vocab_size, device=tokens.device).scatter_(-1, tokens.unsqueeze(-1), 1.0)
