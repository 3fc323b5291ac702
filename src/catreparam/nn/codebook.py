"""A vector quantiser whose choice of a code is a categorical variable, with the care that a codebook needs."""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor, nn

from catreparam.arguments import hands_on
from catreparam.categorical import attach_gradient, one_hot_like, to_rows, wide
from catreparam.estimators.facts import facts_of
from catreparam.estimators.sampling import Sampler, draw, sampling_estimator
from catreparam.nn.usage import UsageStatistics, in_backward, num_processes
from catreparam.pending import waits
from catreparam.schedules import Schedule
from catreparam.validation import check_count, check_features, check_generator, check_number, has_values

ROWS_PER_CODE = 64  # so many features a code are enough for k-means


class Quantized(NamedTuple):
    """What a VectorQuantizer gives.

    Fields:
        quantized: codes in place of features.
        indices: which codes they are.
        commitment_loss: add it to your loss: it keeps features near the codes.
    """

    quantized: Float[Tensor, "*batch dim"]
    indices: Int[Tensor, "*batch"]
    commitment_loss: Float[Tensor, ""]


class VectorQuantizer(UsageStatistics):
    """Replaces every feature x [*batch, dim] by a row c of a codebook [num_codes, dim].

    Choice:     while training a draw with the gradient of `estimator`, from softmax(-|x - c|^2 / (temperature * V)), V
                the summed variance of the codebook (a constant), so that the temperature has no unit. In eval mode the
                nearest code, with the gradient of that softmax.
    Gradient:   encoder and codebook learn from your loss through the choice; the codebook also through the code chosen.
    Loss:       `commitment_loss` = commitment * mean (x - c)^2, c held constant: add it to yours. It keeps features
                near the codes.
    Codebook:   starts at `kmeans_steps` of Lloyd's algorithm on the first training batch. A code that no feature chose
                in `replace_after` batches is put on a random feature of the next. Both change the parameter in place,
                before it is used.
    Statistics: `usage` and `perplexity` as in CategoricalBottleneck; `idle` counts the batches since a code was chosen.

    Parameters:
        dim: size of the features, and of the codes.
        num_codes: rows of the codebook.
        estimator: of the draw while training: a name, a made estimator, or any function logits -> x.
        temperature: of the choice; a number, or a Schedule, which you step.
        commitment: weight of `commitment_loss`.
        kmeans_steps: steps of Lloyd's algorithm on the first training batch; 0: the codebook starts where it was drawn.
        replace_after: training batches after which a code that no feature chose is put on a random feature; 0: never.
        usage_momentum: as in CategoricalBottleneck.
        track_usage: as there; False needs kmeans_steps=0 and replace_after=0.
        sync_usage: as there. With several processes start and replacement take rank 0's features, and need it.
        generator: of the codebook's first draw.

    Cost:   one product of matrices, one call of the estimator; start and replacement break torch.compile's graph.
            A CUDA device is waited for at the start, and with several processes in every batch.
    Raises: ValueError for sizes below 1, settings out of range, estimators that do not exist; when called, for features
            of another size or with NaN, and where several processes would let their codebooks drift apart.

    >>> quantizer = VectorQuantizer(16, num_codes=64)
    >>> quantized, indices, loss = quantizer(torch.zeros(8, 10, 16))
    >>> quantized.shape, indices.shape
    (torch.Size([8, 10, 16]), torch.Size([8, 10]))
    """

    idle: Tensor | None
    _begun, _batch = False, 0  # what is known here of `num_batches`, where reading it waits

    @hands_on
    def __init__(
        self,
        dim: int,
        num_codes: int,
        *,
        estimator: str | Sampler = "reinmax",
        temperature: float | Schedule = 0.05,
        commitment: float = 0.25,
        kmeans_steps: int = 10,
        replace_after: int = 20,
        usage_momentum: float = 0.99,
        track_usage: bool = True,
        sync_usage: bool = False,
        generator: Generator | None = None,
    ) -> None:
        check_count("num_codes", num_codes)
        super().__init__(num_codes, usage_momentum=usage_momentum, track_usage=track_usage, sync_usage=sync_usage)
        self.estimator = sampling_estimator(estimator)
        number = temperature.value if isinstance(temperature, Schedule) else temperature
        check_number("temperature", number, above=0.0)
        self.temperature = temperature
        self.commitment = check_number("commitment", commitment, least=0.0)
        self.kmeans_steps = check_count("kmeans_steps", kmeans_steps, minimum=0)
        self.replace_after = check_count("replace_after", replace_after, minimum=0)
        if not track_usage and (kmeans_steps or replace_after):
            raise ValueError("track_usage=False needs kmeans_steps=0 and replace_after=0, which go by the usage")
        size = (num_codes, check_count("dim", dim))
        self.codebook = nn.Parameter(torch.randn(size, generator=generator) / dim**0.5)
        self.register_buffer("idle", torch.zeros(num_codes, dtype=torch.long) if track_usage else None)

    def forward(self, x: Float[Tensor, "*batch dim"], *, generator: Generator | None = None) -> Quantized:
        """Codes for features, drawn while training, the nearest in eval mode."""
        check_features("features", x, self.codebook.shape[1])
        check_generator(generator, x.device)
        cares = self.usage is not None and (self.kmeans_steps or self.replace_after)
        if self.training and cares and not in_backward():
            self._care_for_codebook(x.detach(), generator)  # pyright: ignore[reportCallIssue]
        device = x.device.type if torch.amp.is_autocast_available(x.device.type) else "cpu"  # the meta device has none
        with torch.autocast(device, enabled=False):
            rows = to_rows(self._logits(x), generator=generator)
            if self.training:
                codes = draw(self.estimator, rows, hyperparameters={}, generator=generator)
            else:
                probs = torch.softmax(rows, -1)
                codes = attach_gradient(one_hot_like(rows.argmax(-1), rows), probs)
            quantized = (codes.to(self.codebook.dtype) @ self.codebook).to(x.dtype)
        index = codes.detach().argmax(-1)
        if self.training:
            self._count_codes(codes.detach(), index)
        gap = (wide(x) - wide(quantized.detach())).square().sum() / max(x.numel(), 1)
        return Quantized(quantized, index, self.commitment * gap)

    def extra_repr(self) -> str:
        """Shown by print(module)."""
        return f"{self.codebook.shape[1]}, num_codes={self.num_classes}, estimator={facts_of(self.estimator).name}"

    def reset_usage(self) -> None:
        """Forgets what was counted; the next training batch starts the codebook anew."""
        super().reset_usage()
        self._begun = False
        if self.idle is not None:
            self.idle.zero_()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
        self._begun = False
        super()._load_from_state_dict(state_dict, prefix, *arguments)

    def _logits(self, x: Tensor) -> Float[Tensor, "*batch num_codes"]:
        """-|x - c|^2 / (temperature * V) up to a constant of each row; centred, so that little is lost in rounding."""
        x, codes = wide(x), wide(self.codebook)
        dtype = torch.promote_types(x.dtype, codes.dtype)
        centre = codes.detach().mean(0)
        codes, features = (codes - centre).to(dtype), (x - centre).to(dtype)
        spread = codes.detach().square().mean(0).sum().clamp_min(torch.finfo(dtype).tiny ** 0.5)
        return (2 * features @ codes.T - codes.square().sum(-1)) / (float(self.temperature) * spread)

    @torch.no_grad()
    def _count_codes(self, codes: Tensor, index: Tensor) -> None:
        share = self._count(codes)
        if share is not None and self.idle is not None:
            self.idle.copy_(torch.where(share > 0, 0, self.idle + (share != 0).any()))  # no process may have had a row

    @torch.compiler.disable
    @torch.no_grad()
    def _care_for_codebook(self, x: Tensor, generator: Generator | None) -> None:
        """The start at the first batch, and the replacement of codes that are not used."""
        assert self.num_batches is not None
        assert self.idle is not None
        if not has_values(x):
            return
        if num_processes() > 1 and not self.sync_usage:
            raise ValueError(
                "with several processes give sync_usage=True, or kmeans_steps=0 and replace_after=0; "
                "otherwise each would change its codebook by itself"
            )
        features = wide(x).reshape(-1, x.shape[-1])
        if waits(x.device) and num_processes() == 1 and self._has_begun():
            self._replace_unseen(features, self._own_generator(x.device, generator))
            return
        features = features[torch.isfinite(features).all(-1)]
        starts = self.kmeans_steps > 0 and bool(self.num_batches == 0)
        dead = self.idle >= self.replace_after if self.replace_after else torch.zeros_like(self.idle, dtype=torch.bool)
        if not starts and not bool(dead.any()):
            return
        if features.shape[0]:
            own = self._own_generator(x.device, generator)
            if starts:
                self.codebook.copy_(_kmeans(features, self.num_classes, self.kmeans_steps, own))
            else:
                self.codebook[dead] = _rows(features, int(dead.sum()), own).to(self.codebook.dtype)
                self.idle.masked_fill_(dead, 0)
        if self.sync_usage and num_processes() > 1:
            torch.distributed.broadcast(self.codebook.data, src=0)

    def _has_begun(self) -> bool:
        """Whether the codebook has had its start. Read back from the device until it has, and after loading a state."""
        if not self._begun:
            self._batch = int(self.num_batches) if self.num_batches is not None else 0
            self._begun = self._batch > 0 or not self.kmeans_steps
        self._batch += 1
        return self._begun

    def _own_generator(self, device: torch.device, generator: Generator | None) -> Generator:
        """Its own stream: activation checkpointing, which does not come here again, must draw the same codes twice."""
        assert self.num_batches is not None
        batch = self._batch - 1 if waits(device) else int(self.num_batches)
        seed = (generator or torch.default_generator).initial_seed() % 2**62 + batch
        return torch.Generator(device).manual_seed(seed)

    def _replace_unseen(self, features: Tensor, generator: Generator) -> None:
        """Puts dead codes on random features, different ones as long as there are enough, without a look at either."""
        if not self.replace_after or not features.shape[0] or self.idle is None:
            return
        whole = torch.isfinite(features).all(-1)
        chance = torch.rand(features.shape[0], generator=generator, device=features.device)
        order = torch.where(whole, chance, 2.0).argsort()
        dead = (self.idle >= self.replace_after) & whole.any()
        place = (dead.cumsum(0) - 1).clamp_min(0) % whole.sum().clamp_min(1)
        fresh = features[order[place]].to(self.codebook.dtype)
        self.codebook.copy_(torch.where(dead.unsqueeze(-1), fresh, self.codebook))
        self.idle.masked_fill_(dead, 0)


def _rows(features: Tensor, count: int, generator: Generator) -> Tensor:
    """`count` random rows, different ones as long as there are enough."""
    chance = torch.rand(features.shape[0], generator=generator, device=features.device)
    order = chance.argsort()
    return features[order[torch.arange(count, device=features.device) % features.shape[0]]]


def _kmeans(features: Tensor, num_codes: int, num_steps: int, generator: Generator) -> Tensor:
    """Lloyd's algorithm from random features. A code that no feature is nearest to stays where it is."""
    features = _rows(features, min(features.shape[0], ROWS_PER_CODE * num_codes), generator)
    codes = _rows(features, num_codes, generator)
    for _ in range(num_steps):
        nearest = one_hot_like(torch.cdist(features, codes).argmin(-1), codes.T)
        sizes = nearest.sum(0).unsqueeze(-1)
        codes = torch.where(sizes > 0, nearest.T @ features / sizes.clamp_min(1.0), codes)
    return codes
