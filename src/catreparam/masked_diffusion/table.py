"""An exact denoiser: any joint law over a few short sequences, as a table. For tests, figures and first steps."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from catreparam.validation import check_count, check_number


class TableDenoiser:
    """The exact denoiser of a joint law over all sequences: the log marginals given the revealed tokens.

    The mask token is V. `sequences` [V^L, L] lists all sequences in the order of `log_probs` [V^L]. Memory and time
    grow as V^L.

    Parameters:
        log_joint: [V, V, ..., V], one axis a position; unnormalised, -inf legal.

    >>> transition = torch.tensor([[0.9, 0.1], [0.1, 0.9]])
    >>> denoiser = TableDenoiser.markov_chain(torch.tensor([0.5, 0.5]), transition, length=3)
    >>> denoiser(torch.tensor([[0, 2, 0]])).exp()[0, 1].tolist()  # both neighbours are 0: 0.81 / (0.81 + 0.01)
    [0.987..., 0.012...]
    """

    evaluations_per_call = 1

    def __init__(self, log_joint: Tensor) -> None:
        shape = log_joint.shape
        if log_joint.ndim == 0 or len(set(shape)) != 1:
            raise ValueError(f"log_joint must have one axis of the same size for every position, got {tuple(shape)}")
        self.vocab_size = self.mask_token = shape[0]
        self.length = log_joint.ndim
        self.log_probs = torch.log_softmax(log_joint.double().flatten(), -1)
        grid = torch.meshgrid(*[torch.arange(self.vocab_size)] * self.length, indexing="ij")
        self.sequences = torch.stack([axis.flatten() for axis in grid], -1)
        self._one_hot = torch.nn.functional.one_hot(self.sequences, self.vocab_size).double()

    @staticmethod
    def markov_chain(initial: Float[Tensor, " V"], transition: Float[Tensor, "V V"], length: int) -> "TableDenoiser":
        """The law of a Markov chain with the given first law and transition probabilities (rows sum to 1)."""
        check_count("length", length)
        log_joint = initial.double().log()
        for _ in range(length - 1):
            log_joint = log_joint.unsqueeze(-1) + transition.double().log()
        return TableDenoiser(log_joint)

    def __call__(self, tokens: Int[Tensor, "B L"], **condition: Any) -> Float[Tensor, "B L V"]:
        places = (self.vocab_size + 1) ** torch.arange(self.length)
        codes, which = (tokens * places).sum(-1).unique(return_inverse=True)  # [U], [B]: particles repeat themselves
        distinct = codes.unsqueeze(-1) // places % (self.vocab_size + 1)  # [U, L]
        known = (distinct != self.mask_token).unsqueeze(1)  # [U, 1, L]
        fits = ((distinct.unsqueeze(1) == self.sequences) | ~known).all(-1)  # [U, V^L]
        weights = self.log_probs.masked_fill(~fits, -torch.inf)
        conditional = (weights - weights.amax(-1, keepdim=True)).exp()
        marginals = torch.einsum("us,slv->ulv", conditional / conditional.sum(-1, keepdim=True), self._one_hot)
        return marginals.log().float()[which]

    def tilted(self, reward: Callable[[Tensor], Tensor], weight: float = 1.0) -> "TableDenoiser":
        """The law in proportion to p(x) exp(weight * reward(x)): the posterior that guidance aims at."""
        check_number("weight", weight)
        with torch.no_grad():
            rewards = reward(self._one_hot.float()).double()
        shape = (self.vocab_size,) * self.length
        return TableDenoiser((self.log_probs + weight * rewards).reshape(shape))

    def index(self, tokens: Int[Tensor, "B L"]) -> Int[Tensor, " B"]:
        """Where sequences stand in `sequences`."""
        places = self.vocab_size ** torch.arange(self.length - 1, -1, -1)
        return (tokens * places).sum(-1)
