"""Gumbel vector quantisers with the arguments, outputs and state of fairseq's and Hugging Face's, for any estimator."""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor, nn

from catreparam.categorical import one_hot_like
from catreparam.estimators.facts import ESTIMATORS, facts_of
from catreparam.estimators.sampling import Sampler, sampling_estimator
from catreparam.kernels.tracing import refuse_script
from catreparam.schedules import ExponentialSchedule, Schedule
from catreparam.validation import check_count

# Methods whose `temperature` is a relaxation's: they get the module's annealed one. Others keep their own settings.
_RELAXATIONS = tuple(
    facts.function
    for facts in map(facts_of, ESTIMATORS)
    if facts.family == "Gumbel" and "temperature" in facts.hyperparameters
)


class GumbelVectorQuantizer(nn.Module):
    """fairseq's module of this name: projects x, chooses one of `num_vars` codewords in each of `groups`, joins them.

    Arguments, outputs, parameter names (`vars`, `weight_proj`) and initial laws are fairseq's; `estimator` is new.
    `temp` is (start, end, factor a step), or any Schedule; `set_num_updates(n)` moves it. The temperature goes to
    gumbel_softmax, gumbel_rao and gapped_straight_through; other estimators keep their own hyperparameters. In eval
    mode the most probable codewords are taken.

    Returns: {"num_vars", "code_perplexity", "prob_perplexity", "temp", "x"} and, on request, "targets" [batch, time,
             groups].
    Raises:  ValueError for sizes below 1, a vq_dim that groups do not divide, an estimator that has no `hard` if
             hard=False.

    >>> quantizer = GumbelVectorQuantizer(dim=32, num_vars=20, groups=2, vq_dim=16, estimator="reinmax")
    >>> sorted(quantizer(torch.zeros(3, 7, 32)))
    ['code_perplexity', 'num_vars', 'prob_perplexity', 'temp', 'x']
    """

    __prepare_scriptable__ = refuse_script

    def __init__(
        self,
        dim: int,
        num_vars: int,
        temp: tuple[float, float, float] | Schedule = (2.0, 0.5, 0.999995),
        groups: int = 2,
        combine_groups: bool = False,
        vq_dim: int = 256,
        time_first: bool = True,
        activation: nn.Module | None = None,
        weight_proj_depth: int = 1,
        weight_proj_factor: int = 3,
        hard: bool = True,
        std: float = 0.0,
        *,
        estimator: str | Sampler = "gumbel_softmax",
    ) -> None:
        super().__init__()
        sizes = {"dim": dim, "num_vars": num_vars, "groups": groups, "vq_dim": vq_dim}
        for name, size in {**sizes, "weight_proj_depth": weight_proj_depth}.items():
            check_count(name, size)
        if vq_dim % groups:
            raise ValueError(f"vq_dim must be a multiple of groups={groups}, got {vq_dim}")
        self.groups, self.num_vars = groups, num_vars
        self.combine_groups, self.time_first = combine_groups, time_first
        self.temperature = temp if isinstance(temp, Schedule) else ExponentialSchedule(temp[0], temp[1], decay=temp[2])
        self.estimator, self.hard = sampling_estimator(estimator), hard
        if not hard and self.estimator not in (ESTIMATORS["gumbel_softmax"], ESTIMATORS["gapped_straight_through"]):
            raise ValueError("hard=False needs a relaxation: estimator 'gumbel_softmax' or 'gapped_straight_through'")
        books = 1 if combine_groups else groups
        self.vars = nn.Parameter(torch.empty(1, books * num_vars, vq_dim // groups))
        if std:
            nn.init.normal_(self.vars, std=std)
        else:
            nn.init.uniform_(self.vars)
        self.weight_proj = _projection(dim, groups * num_vars, weight_proj_depth, weight_proj_factor, activation)

    def set_num_updates(self, num_updates: int) -> None:
        """Moves the temperature to where it is after `num_updates` steps."""
        self.temperature.num_taken = check_count("num_updates", num_updates, minimum=0)

    def forward(
        self, x: Float[Tensor, "batch n m"], produce_targets: bool = False, *, generator: Generator | None = None
    ) -> dict[str, Any]:
        """Quantises x [batch, time, dim] ([batch, dim, time] unless time_first) into "x", laid out alike."""
        x = x if self.time_first else x.transpose(1, 2)
        # [batch, time, groups, num_vars]
        logits = self.weight_proj(x).unflatten(-1, (self.groups, self.num_vars)).float()
        best = one_hot_like(logits.detach().argmax(-1), logits)
        temperature = self.temperature.value
        codes = _draw(self.estimator, logits, temperature, self.hard, generator) if self.training else best
        result: dict[str, Any] = {
            "num_vars": self.num_vars * self.groups,
            "code_perplexity": _perplexity(best.mean((0, 1))),
            "prob_perplexity": _perplexity(torch.softmax(logits, -1).mean((0, 1))),
            "temp": temperature,
        }
        if produce_targets:
            result["targets"] = codes.detach().argmax(-1)
        quantized = _look_up(codes.to(self.vars.dtype), self.vars)
        result["x"] = quantized if self.time_first else quantized.transpose(1, 2)
        return result


class Wav2Vec2GumbelVectorQuantizer(nn.Module):
    """Hugging Face's module of this name (wav2vec 2.0 and its relatives), for any estimator.

    `config` needs num_codevector_groups, num_codevectors_per_group, codevector_dim and conv_dim; parameters are
    `codevectors` and `weight_proj`, so that checkpoints of theirs load. `temperature` is a number that the model's
    `set_gumbel_temperature` sets; it goes to gumbel_softmax, gumbel_rao and gapped_straight_through, other estimators
    keep their own hyperparameters. In eval mode the most probable codevectors are taken.

    Raises: ValueError if the groups do not divide codevector_dim, and for estimators that do not exist.
    """

    __prepare_scriptable__ = refuse_script

    def __init__(self, config: Any, *, estimator: str | Sampler = "gumbel_softmax") -> None:
        super().__init__()
        self.num_groups, self.num_vars = config.num_codevector_groups, config.num_codevectors_per_group
        if config.codevector_dim % self.num_groups:
            raise ValueError(
                f"codevector_dim must be a multiple of num_codevector_groups={self.num_groups}, "
                f"got {config.codevector_dim}"
            )
        self.estimator = sampling_estimator(estimator)
        size = (1, self.num_groups * self.num_vars, config.codevector_dim // self.num_groups)
        self.codevectors = nn.Parameter(nn.init.uniform_(torch.empty(size)))
        self.weight_proj = _projection(config.conv_dim[-1], self.num_groups * self.num_vars)
        self.temperature: float = 2

    def forward(
        self,
        hidden_states: Float[Tensor, "batch time dim"],
        mask_time_indices: Bool[Tensor, "batch time"] | None = None,
        *,
        generator: Generator | None = None,
    ) -> tuple[Float[Tensor, "batch time codevector_dim"], Float[Tensor, ""]]:
        """Codevectors and the perplexity of their use, over the masked positions only where these are given."""
        logits = self.weight_proj(hidden_states).unflatten(-1, (self.num_groups, self.num_vars)).float()
        if self.training:
            codes, counted = _draw(self.estimator, logits, self.temperature, True, generator), torch.softmax(logits, -1)
        else:
            codes = counted = one_hot_like(logits.argmax(-1), logits)
        if mask_time_indices is None:
            share = counted.mean((0, 1))
        else:
            mask = mask_time_indices.to(counted.dtype)
            share = torch.einsum("bt,btgv->gv", mask, counted) / mask.sum()
        perplexity = torch.exp(-torch.xlogy(share, share).sum(-1)).sum()
        return _look_up(codes.to(hidden_states.dtype), self.codevectors), perplexity


def _draw(
    method: Sampler, logits: Tensor, temperature: float, hard: bool, generator: Generator | None
) -> Float[Tensor, "batch time groups num_vars"]:
    settings: dict[str, Any] = {} if generator is None else {"generator": generator}
    if method in _RELAXATIONS:
        settings["temperature"] = float(temperature)
    return method(logits, **settings) if hard else method(logits, hard=False, **settings)


def _look_up(codes: Tensor, codewords: Tensor) -> Tensor:
    """Codes [batch, time, groups, num_vars], codewords [1, books * num_vars, size] -> [batch, time, groups * size]."""
    books = codewords[0].unflatten(0, (-1, codes.shape[-1])).expand(codes.shape[-2], -1, -1)  # one book may serve all
    return torch.einsum("btgv,gvd->btgd", codes, books.to(codes.dtype)).flatten(-2)


def _perplexity(share: Tensor) -> Tensor:
    """Sum over the groups of exp(entropy) of shares [groups, num_vars]; 1e-7 is fairseq's."""
    return torch.exp(-(share * (share + 1e-7).log()).sum(-1)).sum()


def _projection(dim: int, size: int, depth: int = 1, factor: int = 1, activation: nn.Module | None = None) -> nn.Module:
    last = nn.Linear(dim if depth == 1 else dim * factor, size)
    nn.init.normal_(last.weight)
    nn.init.zeros_(last.bias)
    if depth == 1:
        return last
    widths = [dim, *([dim * factor] * (depth - 1))]
    blocks = [nn.Sequential(nn.Linear(a, b), activation or nn.GELU()) for a, b in zip(widths, widths[1:], strict=False)]
    return nn.Sequential(*blocks, last)
