"""Initial weights drawn from a given generator, never from torch's global state."""

import math

import torch
from torch import Generator, nn
from torch.nn.modules.conv import _ConvNd


def initialise(model: nn.Module, generator: Generator, device: str | torch.device = "cpu") -> nn.Module:
    """Materialises a model built under `torch.device("meta")` and draws its weights; returns the same model.

    Linear and convolution layers get the uniform law of fan-in that torch gives them, embeddings N(0, 0.02), norms the
    identity. Raises ValueError for a parameter of another kind of layer, whose law would be unknown.
    """
    model.to_empty(device=device)
    with torch.no_grad():
        for module in model.modules():
            for name, parameter in module.named_parameters(recurse=False):
                _draw(module, name, parameter, generator)
            for buffer in module.buffers(recurse=False):
                buffer.zero_()
    return model


def _draw(module: nn.Module, name: str, parameter: nn.Parameter, generator: Generator) -> None:
    if isinstance(module, nn.Linear | _ConvNd):
        bound = 1 / math.sqrt(module.weight[0].numel())
        parameter.uniform_(-bound, bound, generator=generator)
    elif isinstance(module, nn.Embedding):
        parameter.normal_(std=0.02, generator=generator)
    elif name in ("weight", "bias"):  # a norm: scale 1, shift 0
        parameter.fill_(1.0 if name == "weight" else 0.0)
    else:
        raise ValueError(f"no initial law is known for {name} of {type(module).__name__}")
