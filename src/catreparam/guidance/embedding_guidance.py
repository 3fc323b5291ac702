"""Rivals that feed a reward with embeddings of its own making: APS's quantised expectation, EntRGi's entropy mixing."""

import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from catreparam.categorical import attach_gradient, draw_one_hot, entropy
from catreparam.guidance.generate import RoundInfo, generate
from catreparam.guidance.inference_mode import with_gradients
from catreparam.guidance.optimize import Optimization
from catreparam.guidance.rewards import Reward
from catreparam.guidance.trace import Generation
from catreparam.masked_diffusion import Condition, Denoiser, ReverseProcess, Unmasking
from catreparam.masked_diffusion.orders import Order


def entropy_mixing(
    logits: Float[Tensor, "*batch vocab_size"], *, generator: Generator | None = None
) -> Float[Tensor, "*batch vocab_size"]:
    """q + w (x - q) with x ~ q = softmax(logits) and w = H(q) / log(vocab_size) of each row; its gradient is that of q.

    Sure rows pass relaxed, uncertain ones hard. On x @ codebook this is EntRGi's mixed embedding. Use it as
    `estimator=`; the reward must take relaxed x (black boxes refuse it).

    >>> entropy_mixing(torch.zeros(2, 4)).sum(-1).tolist()
    [1.0, 1.0]

    Reference: Tejaswi et al. 2026 (EntRGi), https://arxiv.org/abs/2602.05000.
    """
    probs = torch.softmax(logits, -1)
    size = logits.shape[-1]
    weight = (entropy(logits.detach()) / math.log(size)).unsqueeze(-1) if size > 1 else 0.0
    return attach_gradient(torch.lerp(probs.detach(), draw_one_hot(probs, generator), weight), probs)


class QuantizedExpectation:
    """x = the code nearest to the expected embedding softmax(logits) @ codebook; its gradient is that of the softmax.

    APS's guidance by embeddings: the reward sees hard tokens, the step moves the expectation. No draw is made. Use an
    instance as `estimator=`.

    Parameters:
        codebook: [vocab_size, dim], an embedding for every token.

    >>> codebook = torch.tensor([[0.0], [1.0], [10.0]])
    >>> QuantizedExpectation(codebook)(torch.tensor([[2.0, 0.0, 0.0]])).tolist()  # expectation 1.17
    [[0.0, 1.0, 0.0]]

    Reference: Rout et al. 2025 (APS), https://arxiv.org/abs/2510.02291.
    """

    def __init__(self, codebook: Float[Tensor, "vocab_size dim"]) -> None:
        if codebook.ndim != 2:
            raise ValueError(f"codebook must have shape [vocab_size, dim], got {tuple(codebook.shape)}")
        self.codebook = codebook.detach()

    def __call__(
        self, logits: Float[Tensor, "*batch vocab_size"], *, generator: Generator | None = None
    ) -> Float[Tensor, "*batch vocab_size"]:
        if logits.shape[-1] != self.codebook.shape[0]:
            raise ValueError(f"a codebook of {self.codebook.shape[0]} codes does not fit logits {tuple(logits.shape)}")
        probs = torch.softmax(logits, -1)
        codebook = self.codebook.to(probs)
        # Squared, up to a constant of the row.
        distance = codebook.square().sum(-1) - 2 * (probs.detach() @ codebook) @ codebook.T
        nearest = distance.masked_fill_(logits.detach() == -torch.inf, torch.inf).argmin(-1, keepdim=True)
        return attach_gradient(torch.zeros_like(probs).scatter_(-1, nearest, 1.0), probs)


@with_gradients
def entrgi(
    denoiser: Denoiser,
    reward: Reward,
    tokens: Int[Tensor, "B L"],
    *,
    num_rounds: int = 20,
    schedule: str = "linear",
    order: str | Tensor | Order = "confidence",
    condition: Condition | None = None,
    num_steps: int = 3,
    lr: float = 0.5,
    callback: Callable[[RoundInfo], Any] | None = None,
    progress: Callable[[int, int], Any] | None = None,
    generator: Generator | None = None,
) -> Generation:
    """EntRGi: `guided_sample` by `entropy_mixing`, without KL and without a warm start; the drawn tokens are revealed.

    Cost, errors: those of `guided_sample`. Departs: steps are Adam's, as for every method here.
    """
    unmasking = Unmasking(num_rounds, schedule, order)
    process = ReverseProcess.start(denoiser, tokens, unmasking, condition, generator=generator, reward=reward)
    settings = Optimization(entropy_mixing, num_steps, lr, kl_weight=0.0, forgetting=1.0)
    return generate(process, reward, tokens, settings, callback=callback, progress=progress)


@with_gradients
def aps(
    denoiser: Denoiser,
    reward: Reward,
    tokens: Int[Tensor, "B L"],
    *,
    codebook: Float[Tensor, "vocab_size dim"],
    num_rounds: int = 20,
    schedule: str = "linear",
    order: str | Tensor | Order = "confidence",
    condition: Condition | None = None,
    num_steps: int = 3,
    lr: float = 0.5,
    callback: Callable[[RoundInfo], Any] | None = None,
    progress: Callable[[int, int], Any] | None = None,
    generator: Generator | None = None,
) -> Generation:
    """APS: `guided_sample` by a QuantizedExpectation over `codebook`, without KL and without a warm start.

    Cost, errors: those of `guided_sample`. Departs: "anchored remasking" is the order by the guided confidence
    (order="confidence"), and steps are Adam's.
    """
    unmasking = Unmasking(num_rounds, schedule, order)
    process = ReverseProcess.start(denoiser, tokens, unmasking, condition, generator=generator, reward=reward)
    settings = Optimization(QuantizedExpectation(codebook), num_steps, lr, kl_weight=0.0, forgetting=1.0)
    return generate(process, reward, tokens, settings, callback=callback, progress=progress)
