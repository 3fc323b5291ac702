"""What a model was trained to undo: tokens that are masked, or replaced by tokens drawn at random."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor

from catreparam.masked_diffusion.steps import Unmasking, reverse_step
from catreparam.validation import check_count


@runtime_checkable
class Corruption(Protocol):
    """A token stays clean with probability 1 - level, or is drawn from the limit; the level rises from 0 to 1.

    A reverse process asks it for four things. `maskable` [B, L] says in all of them where tokens are generated; the
    others never change.
    """

    def check(self, unmasking: Unmasking, mask_token: int) -> None:
        """Raises ValueError for settings that have no meaning here."""
        ...

    def limit(self, tokens: Tensor, maskable: Tensor, generator: Generator | None) -> Tensor:
        """The tokens [B, L] at level 1, where a reverse process starts."""
        ...

    def undecided(self, tokens: Tensor, maskable: Tensor) -> Tensor:
        """Where the prior of a position [B, L] is the model's; elsewhere only the present token is possible."""
        ...

    def step(self, tokens: Tensor, clean: Tensor, log_prob: Tensor, settings: Mapping[str, Any]) -> Tensor:
        """The tokens [B, L] after a round that has proposed `clean` ones; `settings` are those of `reverse_step`."""
        ...

    def transition(self, logits: Tensor, tokens: Tensor, before: float, after: float) -> Tensor:
        """Logits [N, V] of the next token at N positions where a step draws, from those of the clean token [N, V].

        `tokens` [N] stand there at present; the levels are those before and after the step.
        """
        ...

    def decided(self, before: Tensor, after: Tensor, maskable: Tensor, *, last: bool) -> tuple[Tensor, Tensor]:
        """Where a step has fixed the final token [B, L], and where it has drawn from `transition` [B, L]."""
        ...


@dataclass(frozen=True)
class Masked:
    """Masked (absorbing) diffusion: the limit is the mask token; what a step has revealed stays.

    Parameters:
        mask_token: the id of masked positions.
    """

    mask_token: int

    def check(self, unmasking: Unmasking, mask_token: int) -> None:
        """All settings have a meaning."""

    def limit(
        self, tokens: Int[Tensor, "B L"], maskable: Bool[Tensor, "B L"], generator: Generator | None
    ) -> Int[Tensor, "B L"]:
        """The tokens: what is generated holds the mask token already."""
        return tokens

    def undecided(self, tokens: Int[Tensor, "B L"], maskable: Bool[Tensor, "B L"]) -> Bool[Tensor, "B L"]:
        """The masked positions."""
        return tokens == self.mask_token

    def step(
        self,
        tokens: Int[Tensor, "B L"],
        clean: Int[Tensor, "B L"],
        log_prob: Float[Tensor, "B L"],
        settings: Mapping[str, Any],
    ) -> Int[Tensor, "B L"]:
        """See `reverse_step`."""
        return reverse_step(tokens, clean, log_prob, mask_token=self.mask_token, **settings)

    def transition(
        self, logits: Float[Tensor, "N V"], tokens: Int[Tensor, " N"], before: float, after: float
    ) -> Float[Tensor, "N V"]:
        """Those of the clean token, which is what a step shows."""
        return logits

    def decided(
        self, before: Int[Tensor, "B L"], after: Int[Tensor, "B L"], maskable: Bool[Tensor, "B L"], *, last: bool
    ) -> tuple[Bool[Tensor, "B L"], Bool[Tensor, "B L"]]:
        """What was revealed."""
        revealed = (before == self.mask_token) & (after != self.mask_token)
        return revealed, revealed


@dataclass(frozen=True)
class Uniform:
    """Uniform-state diffusion (D3PM's uniform kernel, SEDD uniform, UDLM, Duo): the limit is a token drawn at random.

    Every position may change in every round, so that the model can mend its own errors; the clean tokens of the last
    round are the result. A step draws from q(next | present, clean), clean drawn from the model. For positions that are
    independent of one another this is exact in any number of rounds.

    Use it as `as_denoiser(function, mask_token=vocab_size, corruption=Uniform(vocab_size))`. The mask token only says
    where to generate; the function never sees it. It has an argument `noise_level` [B], and gives logits of the clean
    token given all tokens, the position's own included (`posterior` makes them from UDLM's and Duo's networks).
    `schedule` is the level's; settings that speak of masks (order, blocks, threshold, remasking, end) are errors.

    Parameters:
        vocab_size: tokens lie in [0, vocab_size), all of them as probable.

    Reference: Austin et al. 2021 (D3PM), https://arxiv.org/abs/2107.03006; Schiff et al. 2024 (UDLM),
    https://arxiv.org/abs/2412.10193.
    """

    vocab_size: int

    def __post_init__(self) -> None:
        check_count("vocab_size", self.vocab_size)

    def posterior(
        self, logits: Float[Tensor, "B L V"], tokens: Int[Tensor, "B L"], noise_level: Float[Tensor, " B"]
    ) -> Float[Tensor, "B L V"]:
        """Logits of the clean token given all tokens, from logits given all *other* tokens, by Bayes' rule.

        Networks whose output stands for the clean token in q(next | present, clean), as UDLM's and Duo's, give the
        latter. A position's own token is kept with probability 1 - level: it counts 1 + vocab_size (1 - level) / level.

        >>> Uniform(3).posterior(torch.zeros(1, 1, 3), torch.tensor([[2]]), torch.tensor([0.5])).exp()
        tensor([[[1., 1., 4.]]])
        """
        level = noise_level.to(logits).clamp_min(torch.finfo(logits.dtype).eps).reshape(-1, 1, 1)
        gain = torch.log1p(self.vocab_size * ((1 - level) / level)).expand(*tokens.shape, 1)
        return logits.scatter_add(-1, tokens.unsqueeze(-1), gain)

    def check(self, unmasking: Unmasking, mask_token: int) -> None:
        """Raises ValueError for settings of masks, and for a mask token that is a token."""
        if mask_token < self.vocab_size:
            raise ValueError(
                f"mask_token only says where to generate: it must be at least {self.vocab_size}, got {mask_token}"
            )
        plain = Unmasking(unmasking.num_rounds, unmasking.schedule)
        for name, value in vars(unmasking).items():
            if value is not (default := getattr(plain, name)) and (isinstance(value, Tensor) or value != default):
                raise ValueError(
                    f"{name} is a setting of masked diffusion, got {value!r}; uniform-state diffusion takes "
                    f"{name}={default!r}"
                )

    def limit(
        self, tokens: Int[Tensor, "B L"], maskable: Bool[Tensor, "B L"], generator: Generator | None
    ) -> Int[Tensor, "B L"]:
        """Tokens drawn at random where something is generated."""
        return torch.where(maskable, self._any_token(tokens, generator), tokens)

    def undecided(self, tokens: Int[Tensor, "B L"], maskable: Bool[Tensor, "B L"]) -> Bool[Tensor, "B L"]:
        """All that is generated: in every round."""
        return maskable

    def step(
        self,
        tokens: Int[Tensor, "B L"],
        clean: Int[Tensor, "B L"],
        log_prob: Float[Tensor, "B L"],
        settings: Mapping[str, Any],
    ) -> Int[Tensor, "B L"]:
        """Draws from q(next | present, clean): the clean token, the present one, or any."""
        maskable, generator = settings["maskable"], settings["generator"]
        before, after = settings["unmasking"].noise_levels(settings["round_index"])
        if after == 0:
            return torch.where(maskable, clean, tokens)
        both, stay, go, noise = self._weights(before, after)
        place = torch.empty_like(log_prob, dtype=torch.float32).uniform_(generator=generator)
        place = place * (stay + go + noise + both * (tokens == clean))
        noisy = torch.where(place < noise, self._any_token(tokens, generator), clean)
        after_step = torch.where((place >= noise) & (place < noise + stay), tokens, noisy)
        return torch.where(maskable, after_step, tokens)

    def transition(
        self, logits: Float[Tensor, "N V"], tokens: Int[Tensor, " N"], before: float, after: float
    ) -> Float[Tensor, "N V"]:
        """q(next | present, clean), the mean over the clean token's law."""
        if after == 0:
            return logits
        both, stay, go, noise = self._weights(before, after)
        same, other = both + stay + go + noise, stay + go + noise  # q(present | clean), times a constant
        probs, index = torch.softmax(logits, -1), tokens.unsqueeze(-1)
        own = probs.gather(-1, index)
        at_own = own / same * (both + stay + go) + (1 - own) / other * stay
        anywhere = (own / same + (1 - own) / other) * (noise / self.vocab_size)
        return ((go / other * probs).scatter(-1, index, at_own) + anywhere).log()

    def decided(
        self, before: Int[Tensor, "B L"], after: Int[Tensor, "B L"], maskable: Bool[Tensor, "B L"], *, last: bool
    ) -> tuple[Bool[Tensor, "B L"], Bool[Tensor, "B L"]]:
        """Nothing is final before the last step; all are drawn in each."""
        return maskable & last, maskable

    def _weights(self, before: float, after: float) -> tuple[float, float, float, float]:
        """Of q(next | present, clean) as a mixture: both where they agree, the present, the clean, any token.

        The product of kept [next is present] + (1 - kept) / V and (1 - after) [next is clean] + after / V, times V.
        """
        kept = (1 - before) / (1 - after)
        return self.vocab_size * kept * (1 - after), kept * after, (1 - kept) * (1 - after), (1 - kept) * after

    def _any_token(self, like: Tensor, generator: Generator | None) -> Tensor:
        return torch.randint(self.vocab_size, like.shape, generator=generator, device=like.device)
