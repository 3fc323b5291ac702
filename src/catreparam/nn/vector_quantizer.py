"""Gumbel vector quantisers with the arguments, outputs and state of fairseq's and Hugging Face's, for any estimator."""

import ast
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor, nn

from catreparam.arguments import hands_on
from catreparam.categorical import centred, one_hot_like, spoil, wide
from catreparam.estimators.facts import ESTIMATORS, facts_of, resolve
from catreparam.estimators.sampling import Sampler, sampling_estimator
from catreparam.kernels.tracing import refuse_script
from catreparam.nn.usage import perplexity_of, share_of
from catreparam.schedules import ConstantSchedule, ExponentialSchedule, Schedule
from catreparam.validation import check_count, check_counted, check_features, check_rows

# Methods whose `temperature` is a relaxation's: they get the module's annealed one. Others keep their own settings.
_RELAXATIONS = tuple(
    facts.function
    for facts in map(facts_of, ESTIMATORS)
    if facts.family == "Gumbel" and "temperature" in facts.hyperparameters
)
_SOFT = (ESTIMATORS["gumbel_softmax"], ESTIMATORS["gapped_straight_through"])


class GumbelVectorQuantizer(nn.Module):
    """fairseq's module of this name: projects x, chooses one of `num_vars` codewords in each of `groups`, joins them.

    Arguments, methods, outputs, parameter names (`vars`, `weight_proj`) and initial laws are fairseq's, so that its
    checkpoints load. `set_num_updates(n)` moves the temperature, `curr_temp` tells it. It goes to gumbel_softmax,
    gumbel_rao and gapped_straight_through unless they are made with one; other estimators keep their own. In eval mode
    the most probable codewords are taken, which gives `vars` a gradient and `weight_proj` none, as in fairseq.

    Perplexities are those of the batch at hand: `code_perplexity` of the most probable codewords, without a gradient;
    `prob_perplexity` of the mean probabilities, with one. They are computed, as the draw is, in float32 or wider.

    Parameters:
        dim: size of the input.
        num_vars: codewords in a group.
        temp: (start, end, factor a step), also as a string, or any Schedule.
        groups: groups of codewords; one is chosen in each.
        combine_groups: whether all groups share one codebook.
        vq_dim: size of the output, a multiple of groups.
        time_first: True: inputs are [*batch, time, dim]; False: [*batch, dim, time].
        activation: between the layers of a deep projection; None: GELU.
        weight_proj_depth: layers of the projection.
        weight_proj_factor: width of its inner layers, as a multiple of dim.
        hard: False: the relaxed sample, of an estimator that has one.
        std: standard deviation of the codewords at the start; 0: uniform in [0, 1].
        estimator: a name, a made estimator, or any function logits -> x. This one is new.

    Returns: {"num_vars", "code_perplexity", "prob_perplexity", "temp", "x"} and, on request, "targets" [*batch,
             groups].
    Raises:  ValueError for sizes below 1, a vq_dim that groups do not divide, a temp that is no such triple, an
             estimator that has no `hard` if hard=False; when called, for NaN.

    >>> quantizer = GumbelVectorQuantizer(dim=32, num_vars=20, groups=2, vq_dim=16, estimator="reinmax")
    >>> sorted(quantizer(torch.zeros(3, 7, 32)))
    ['code_perplexity', 'num_vars', 'prob_perplexity', 'temp', 'x']
    """

    __prepare_scriptable__ = refuse_script

    @hands_on
    def __init__(
        self,
        dim: int,
        num_vars: int,
        temp: Sequence[float] | str | Schedule = (2.0, 0.5, 0.999995),
        groups: int = 2,
        combine_groups: bool = False,
        vq_dim: int = 256,
        time_first: bool = True,
        activation: nn.Module | None = None,
        weight_proj_depth: int = 1,
        weight_proj_factor: int = 1,
        hard: bool = True,
        std: float = 0.0,
        *,
        estimator: str | Sampler = "gumbel_softmax",
    ) -> None:
        super().__init__()
        sizes = {"dim": dim, "num_vars": num_vars, "groups": groups, "vq_dim": vq_dim}
        depth = {"weight_proj_depth": weight_proj_depth, "weight_proj_factor": weight_proj_factor}
        for name, size in {**sizes, **depth}.items():
            check_count(name, size)
        if vq_dim % groups:
            raise ValueError(f"vq_dim must be a multiple of groups={groups}, got {vq_dim}")
        self.dim, self.groups, self.num_vars = dim, groups, num_vars
        self.combine_groups, self.time_first = combine_groups, time_first
        self.temperature = temp if isinstance(temp, Schedule) else _temperature_schedule(temp)
        self.estimator, self.hard = sampling_estimator(estimator), hard
        if not hard and resolve(self.estimator).function not in _SOFT:
            raise ValueError("hard=False needs a relaxation: estimator 'gumbel_softmax' or 'gapped_straight_through'")
        books = 1 if combine_groups else groups
        self.vars = nn.Parameter(torch.empty(1, books * num_vars, vq_dim // groups))
        if std:
            nn.init.normal_(self.vars, std=std)
        else:
            nn.init.uniform_(self.vars)
        self.weight_proj = _projection(dim, groups * num_vars, weight_proj_depth, weight_proj_factor, activation)

    @property
    def curr_temp(self) -> float:
        """The temperature as it is now."""
        return self.temperature.value

    def set_num_updates(self, num_updates: int) -> None:
        """Moves the temperature to where it is after `num_updates` steps."""
        self.temperature.num_taken = check_count("num_updates", num_updates, minimum=0)

    def forward(
        self, x: Float[Tensor, "*batch n m"], produce_targets: bool = False, *, generator: Generator | None = None
    ) -> dict[str, Any]:
        """Quantises x [*batch, time, dim] ([*batch, dim, time] unless time_first) into "x", laid out alike."""
        check_features("x", x, self.dim, -1 if self.time_first else -2)
        x = x if self.time_first else x.transpose(-1, -2)
        # [*batch, time, groups, num_vars]
        logits = wide(self.weight_proj(x).unflatten(-1, (self.groups, self.num_vars)))
        best = one_hot_like(logits.detach().argmax(-1), logits)
        temperature = self.curr_temp
        if self.training:
            codes = _draw(self.estimator, logits, temperature, self.hard, generator)
        else:
            codes = best if check_rows(logits) else spoil(best, centred(logits))
        result: dict[str, Any] = {
            "num_vars": self.num_vars * self.groups,
            "code_perplexity": _perplexity(share_of(best.flatten(0, -3))),
            "prob_perplexity": _perplexity(share_of(torch.softmax(logits, -1).flatten(0, -3))),
            "temp": temperature,
        }
        if produce_targets:
            result["targets"] = codes.detach().argmax(-1)
        quantized = _look_up(codes.to(self.vars.dtype), self.vars)
        result["x"] = quantized if self.time_first else quantized.transpose(-1, -2)
        return result

    def forward_idx(
        self, x: Float[Tensor, "*batch n m"], *, generator: Generator | None = None
    ) -> tuple[Tensor, Int[Tensor, "*batch groups"]]:
        """ "x" and "targets" of a call."""
        result = self(x, produce_targets=True, generator=generator)
        return result["x"], result["targets"]

    def get_codebook_indices(self) -> Int[Tensor, " size"]:
        """The rows of `vars` that make each joined codeword, num_vars^groups times groups of them, in one axis."""
        choices = torch.arange(self.num_vars, device=self.vars.device)
        return self._rows_of(torch.cartesian_prod(*[choices] * self.groups).view(-1, self.groups)).flatten()

    def codebook(self) -> Float[Tensor, "size vq_dim"]:
        """All num_vars^groups joined codewords, in the order of `to_codebook_index`."""
        return self.vars[0][self.get_codebook_indices()].view(self.num_vars**self.groups, -1)

    def sample_from_codebook(
        self, b: int, n: int, *, generator: Generator | None = None
    ) -> Float[Tensor, "b n vq_dim"]:
        """Joined codewords, each drawn uniformly from all. Raises ValueError unless n < num_vars^groups."""
        if n >= self.num_vars**self.groups:
            raise ValueError(f"n must be less than the {self.num_vars**self.groups} joined codewords, got {n}")
        size = (b, n, self.groups)
        drawn = torch.randint(self.num_vars, size, generator=generator, device=self.vars.device)
        return self.vars[0][self._rows_of(drawn)].flatten(-2)

    def to_codebook_index(self, indices: Int[Tensor, "*batch groups"]) -> Int[Tensor, "*batch"]:
        """One number for the choices in all groups ("targets"): the last group counts in ones."""
        index = torch.zeros_like(indices[..., 0])
        for choice in indices.unbind(-1):
            index = index * self.num_vars + choice
        return index

    def _rows_of(self, choices: Int[Tensor, "*batch groups"]) -> Int[Tensor, "*batch groups"]:
        first = torch.arange(self.groups, device=choices.device) * self.num_vars
        return choices if self.combine_groups else choices + first


class Wav2Vec2GumbelVectorQuantizer(nn.Module):
    """Hugging Face's module of this name (wav2vec 2.0 and its relatives), for any estimator.

    Its tensors are `codevectors` and `weight_proj`, so that checkpoints of theirs load. `temperature` is a number that
    the model's `set_gumbel_temperature` sets; it goes to gumbel_softmax, gumbel_rao and
    gapped_straight_through unless they are made with one, other estimators keep their own hyperparameters. In eval mode
    the most probable codevectors are taken, which gives `codevectors` a gradient and `weight_proj` none, as in theirs.

    Parameters:
        config: needs num_codevector_groups, num_codevectors_per_group, codevector_dim and conv_dim (UniSpeechSat's:
            hidden_size).
        estimator: a name, a made estimator, or any function logits -> x.

    Raises: ValueError if the groups do not divide codevector_dim, for estimators that do not exist, NaN and masks of
            another shape; TypeError for masks that are not boolean tensors.
    """

    __prepare_scriptable__ = refuse_script

    @hands_on
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
        after_encoder = getattr(config, "model_type", None) == "unispeech-sat"  # it quantises what the encoder gives
        dim = config.hidden_size if after_encoder else config.conv_dim[-1]
        self.dim, self.weight_proj = dim, _projection(dim, self.num_groups * self.num_vars)
        self.temperature: float = 2

    def forward(
        self,
        hidden_states: Float[Tensor, "*batch dim"],
        mask_time_indices: Bool[Tensor, "*batch"] | None = None,
        *,
        generator: Generator | None = None,
    ) -> tuple[Float[Tensor, "*batch codevector_dim"], Float[Tensor, ""]]:
        """Codevectors and the perplexity of their use, over the masked positions only where these are given.

        The perplexity is the sum over the groups, each at least 1: that of a mask with nothing in it. An unused
        codevector adds nothing to it and gets no gradient from it.
        """
        check_features("hidden_states", hidden_states, self.dim)
        logits = wide(self.weight_proj(hidden_states).unflatten(-1, (self.num_groups, self.num_vars)))
        if self.training:
            codes, counted = _draw(self.estimator, logits, self.temperature, True, generator), torch.softmax(logits, -1)
        else:
            best = one_hot_like(logits.argmax(-1), logits)
            codes = counted = best if check_rows(logits) else spoil(best, centred(logits))
        if mask_time_indices is None:
            mask_time_indices = torch.ones(hidden_states.shape[:-1], dtype=torch.bool, device=logits.device)
        check_counted(mask_time_indices, hidden_states, "mask_time_indices")
        perplexity = perplexity_of(share_of(counted, mask_time_indices)).sum()
        return _look_up(codes.to(hidden_states.dtype), self.codevectors), perplexity


def _draw(
    method: Sampler, logits: Tensor, temperature: float, hard: bool, generator: Generator | None
) -> Float[Tensor, "*batch groups num_vars"]:
    settings: dict[str, Any] = {} if generator is None else {"generator": generator}
    function, bound, _ = resolve(method)
    if function in _RELAXATIONS and "temperature" not in bound:
        settings["temperature"] = float(temperature)
    return method(logits, **settings) if hard else method(logits, hard=False, **settings)


def _look_up(codes: Tensor, codewords: Tensor) -> Tensor:
    """Codes [*batch, groups, num_vars], codewords [1, books * num_vars, size] -> [*batch, groups * size]."""
    books = codewords[0].unflatten(0, (-1, codes.shape[-1])).expand(codes.shape[-2], -1, -1)  # one book may serve all
    return torch.einsum("...gv,gvd->...gd", codes, books.to(codes.dtype)).flatten(-2)


def _perplexity(share: Tensor) -> Tensor:
    """Sum over the groups of exp(entropy) of shares [groups, num_vars]; 1e-7 is fairseq's."""
    return torch.exp(-(share * (share + 1e-7).log()).sum(-1)).sum()


def _temperature_schedule(temp: Sequence[float] | str) -> Schedule:
    """fairseq's triple: max(start * factor^step, end)."""
    try:
        start, end, factor = ast.literal_eval(temp) if isinstance(temp, str) else temp
    except (ValueError, SyntaxError, TypeError) as error:
        raise ValueError(f"temp must be (start, end, factor a step) or a Schedule, got {temp!r}") from error
    if factor == 1:
        return ConstantSchedule(max(start, end))
    return ExponentialSchedule(start, end, decay=factor)


def _projection(dim: int, size: int, depth: int = 1, factor: int = 1, activation: nn.Module | None = None) -> nn.Module:
    """One layer with normal weights, or a deep network with torch's own initial laws: as in fairseq."""
    if depth == 1:
        layer = nn.Linear(dim, size)
        nn.init.normal_(layer.weight)
        nn.init.zeros_(layer.bias)
        return layer
    widths = [dim, *([dim * factor] * (depth - 1))]
    blocks = [nn.Sequential(nn.Linear(a, b), activation or nn.GELU()) for a, b in zip(widths, widths[1:], strict=False)]
    return nn.Sequential(*blocks, nn.Linear(dim * factor, size))
