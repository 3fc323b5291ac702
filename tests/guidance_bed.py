"""Small denoisers and rewards with known laws, for the tests of masked diffusion and guidance."""

import torch

from catreparam.masked_diffusion import Denoiser, TableDenoiser, as_denoiser


def uniform(vocab_size: int = 9) -> Denoiser:
    return as_denoiser(lambda tokens: torch.zeros(*tokens.shape, vocab_size), mask_token=vocab_size)


def chain(length: int = 4) -> TableDenoiser:
    initial = torch.tensor([0.6, 0.3, 0.1])
    transition = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.4, 0.1, 0.5]])
    return TableDenoiser.markov_chain(initial, transition, length)


LINEAR_WEIGHTS = torch.tensor([0.0, 0.4, 1.0])
_PAIRS = torch.tensor([[0.0, 1.0, -0.5], [0.3, -1.0, 0.8], [0.9, 0.2, 0.1]])


def linear_reward(x: torch.Tensor) -> torch.Tensor:
    """[B, L, 3] -> [B]; the tilted law of a product prior is a product."""
    return (x @ LINEAR_WEIGHTS).sum(-1)


def pair_reward(x: torch.Tensor) -> torch.Tensor:
    """[B, L, 3] -> [B]: scores neighbouring tokens, so that the tilted law is no product."""
    return torch.einsum("bli,ij,blj->b", x[:, :-1], _PAIRS, x[:, 1:])


def product(logits: torch.Tensor) -> Denoiser:
    """Independent positions with the given logits [L, V], whatever is revealed."""
    length, vocab_size = logits.shape
    return as_denoiser(lambda tokens: logits.expand(tokens.shape[0], length, vocab_size), mask_token=vocab_size)


ONE_BY_ONE = {"num_rounds": 3, "order": "random"}  # one position a round: the sampler's law is the table's


def masked(batch: int, length: int = 3) -> torch.Tensor:
    return torch.full((batch, length), 3)
