"""What torch keeps once for a whole process and code may leave changed: random numbers, grad mode, autocast."""

from dataclasses import dataclass

import torch
from torch import Tensor

DEVICES = ("cpu", "cuda")


@dataclass(frozen=True)
class TorchState:
    """How it stands at a moment, to be put back later. CUDA is neither started nor waited for.

    Fields:
        grad_enabled: the grad mode.
        numbers: of the global generator of the CPU.
        numbers_cuda: of those of the CUDA devices; None where CUDA has not started.
        autocast: for every device whether it is on, and its dtype.
        cache, nesting: whether autocast keeps what it cast, and in how many regions we are.
    """

    grad_enabled: bool
    numbers: Tensor
    numbers_cuda: tuple[Tensor, ...] | None
    autocast: tuple[tuple[bool, torch.dtype], ...]
    cache: bool
    nesting: int

    @classmethod
    def now(cls) -> "TorchState":
        """As it is."""
        started = torch.cuda.is_initialized()
        return cls(
            torch.is_grad_enabled(),
            torch.get_rng_state(),
            tuple(generator.get_state() for generator in torch.cuda.default_generators) if started else None,
            tuple((torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)) for device in DEVICES),
            torch.is_autocast_cache_enabled(),
            _nesting(),
        )

    def restore(self) -> None:
        """Puts it back. Between regions of autocast nothing that was cast is carried over."""
        torch.set_grad_enabled(self.grad_enabled)
        torch.set_rng_state(self.numbers)
        if self.numbers_cuda is not None:
            for generator, state in zip(torch.cuda.default_generators, self.numbers_cuda, strict=True):
                generator.set_state(state)
        elif torch.cuda.is_initialized():  # since then: it begins where torch.manual_seed began the CPU's numbers
            torch.cuda.manual_seed_all(torch.initial_seed())
        for device, (enabled, dtype) in zip(DEVICES, self.autocast, strict=True):
            torch.set_autocast_enabled(device, enabled)
            torch.set_autocast_dtype(device, dtype)
        torch.set_autocast_cache_enabled(self.cache)
        if _nesting() or self.nesting:
            torch.clear_autocast_cache()
        while (depth := _nesting()) != self.nesting:
            torch.autocast_increment_nesting() if depth < self.nesting else torch.autocast_decrement_nesting()


def _nesting() -> int:
    torch.autocast_increment_nesting()  # the only way to read it
    return torch.autocast_decrement_nesting()
