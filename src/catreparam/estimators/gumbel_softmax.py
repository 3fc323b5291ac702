"""Gumbel-Softmax, soft and straight-through: argmax relaxed to softmax at a temperature."""

import warnings

from jaxtyping import Bool, Float
from torch import Generator, Tensor

from catreparam.categorical import Rows, softmax_at
from catreparam.estimators.facts import Range, estimator
from catreparam.hyperparameters import check_hyperparameter
from catreparam.kernels import dispatch
from catreparam.kernels.methods import Method, Rule
from catreparam.kernels.settings import Setting, remembered
from catreparam.validation import check_flag


@estimator(
    "Gumbel",
    search={"temperature": Range(0.1, 2.0, 1.0, log=True, grid=(0.3, 0.5, 1.0))},
)
def gumbel_softmax(
    logits: Float[Tensor, "*batch num_classes"],
    tau: float | Tensor | None = None,
    hard: bool | None = None,
    eps: float = 1e-10,
    dim: int = -1,
    *,
    temperature: float | Tensor = 1.0,
    mask: Bool[Tensor, "..."] | None = None,
    generator: Generator | None = None,
) -> Float[Tensor, "*batch num_classes"]:
    """Draws a one-hot x (or, with hard=False, a relaxed one) by the Gumbel-max trick.

    Estimates: grad E[f(x)], x ~ Categorical(softmax(logits)).
    By:        the gradient of softmax((logits + Gumbel noise) / temperature), whose argmax is x.
    Bias:      grows with temperature; variance grows as temperature falls. The law of the hard x is exact;
               hard=False returns the relaxed sample, whose own expectation has an unbiased gradient.
    Cost:      one softmax forward, one backward.
    Raises:    ValueError unless temperature > 0, or if both tau and temperature are given; TypeError or ValueError for
               bad logits, masks and generators.

    `tau` and `eps`, and positions, are those of torch.nn.functional.gumbel_softmax, so that its calls run unchanged. A
    call that gives `tau` also gets torch's default hard=False; one that does not draws hard, as every estimator here.
    `eps` has no effect, in torch neither.

    >>> x = gumbel_softmax(torch.zeros(8, 3), temperature=0.5, generator=torch.Generator().manual_seed(0))
    >>> x.sum(-1).tolist() == [1.0] * 8
    True

    References: Jang et al. 2017, https://arxiv.org/abs/1611.01144; Maddison et al. 2017,
                https://arxiv.org/abs/1611.00712.
    """
    if eps != 1e-10:
        warnings.warn("eps of gumbel_softmax has no effect; leave it out", stacklevel=3)
    return dispatch.sample(logits, mask, dim, generator, gumbel_setting(tau, temperature, hard))


def gumbel_softmax_surrogate(logits: Rows, *, noise: Rows, temperature: float | Tensor = 1.0) -> Rows:
    """The relaxed sample softmax((logits + noise) / temperature) for standard Gumbel noise [*batch, num_classes]."""
    temperature = check_hyperparameter("temperature", temperature, above=0.0)
    return softmax_at(logits + noise, temperature)


GUMBEL_SOFTMAX = Method(gumbel_softmax_surrogate, Rule.GUMBEL)


@remembered
def gumbel_setting(tau: float | Tensor | None, temperature: float | Tensor, hard: bool | None) -> Setting:
    """For the arguments of `gumbel_softmax`. Raises TypeError or ValueError for bad ones."""
    hard = tau is None if hard is None else check_flag("hard", hard)
    if tau is None:
        value = check_hyperparameter("temperature", temperature, above=0.0)
    elif isinstance(temperature, Tensor) or temperature != 1.0:
        raise ValueError(f"tau is torch's name for temperature: give one of them, got {tau=} and {temperature=}")
    else:
        value = check_hyperparameter("tau", tau, above=0.0)
    return Setting(GUMBEL_SOFTMAX, hard=hard, temperature=value)
