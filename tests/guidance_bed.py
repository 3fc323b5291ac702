"""Small denoisers and rewards with known laws, for the tests of masked diffusion and guidance."""

import torch

from catreparam.masked_diffusion import Denoiser, TableDenoiser, as_denoiser


def uniform(vocab_size: int = 9) -> Denoiser:
    return as_denoiser(lambda tokens: torch.zeros(*tokens.shape, vocab_size), mask_token=vocab_size)


def chain(length: int = 4) -> TableDenoiser:
    initial = torch.tensor([0.6, 0.3, 0.1])
    transition = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.4, 0.1, 0.5]])
    return TableDenoiser.markov_chain(initial, transition, length)
