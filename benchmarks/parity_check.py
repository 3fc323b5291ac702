"""A quick parity check before timing: every compiled method against its naive twin, noise and sample given."""

from __future__ import annotations

import torch
from peers import Sampler

from catreparam.kernels import library
from catreparam.kernels.library import Setting
from catreparam.kernels.twins import naive_surrogate
from catreparam.noise_schedule import make_schedule

LAMBDAS = make_schedule("alpha", 4, 0.5).lambdas
SETTINGS = {
    "redge": Setting("redge", LAMBDAS),
    "exact_redge": Setting("exact_redge", LAMBDAS),
    "exact_redge, 4 noises": Setting("exact_redge", LAMBDAS, num_noises=4),
    "reinmax": Setting("reinmax"),
    "straight_through": Setting("straight_through"),
    "gumbel_softmax": Setting("gumbel_softmax", hard=False),
}


def parity_error(samplers: list[Sampler]) -> dict[str, float]:
    """The largest difference of gradients, name by name, of the samplers that run on the compiled path."""
    return {
        sampler.name: max(
            _error(SETTINGS[sampler.name.split(" (")[0]], classes) for classes in (2, 9, 10, 32, 100, 500)
        )
        for sampler in samplers
        if sampler.path == "compiled"
    }


def _error(setting: Setting, classes: int) -> float:
    generator = torch.Generator().manual_seed(classes)
    logits, upstream = torch.randn(2, 40, classes, generator=generator)
    noise = torch.randn(setting.num_noises, 40, classes, generator=generator)
    noise = noise if setting.method == "exact_redge" else noise[0]
    x = torch.eye(classes)[torch.softmax(logits, -1).multinomial(1, generator=generator)[:, 0]]
    leaf = logits.double().requires_grad_()
    surrogate = naive_surrogate(setting, leaf, noise.double(), x.double())
    (wanted,) = torch.autograd.grad(surrogate, leaf, upstream.double())
    found = library.backward(setting, logits.contiguous(), upstream, 0, noise.contiguous(), x.contiguous())
    return (found - wanted).abs().max().item()
