"""An estimator as modules and distributions call it: any spelling of it, hyperparameters that may differ by row."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from catreparam.categorical import attach_gradient, draw_gumbel_like, from_rows, one_hot_like, softmax_at, to_rows
from catreparam.estimators.arguments import remedy
from catreparam.estimators.facts import ESTIMATORS, facts_of, resolve, takes_argument

Sampler = Callable[..., Tensor]
Hyperparameters = Mapping[str, float | Tensor]


def sampling_estimator(estimator: str | Sampler) -> Sampler:
    """The function logits -> x behind a name in ESTIMATORS, a made estimator or a function.

    Raises: ValueError for an unknown name or a score-function method, which draws only together with an objective;
    TypeError for anything that cannot be called.

    >>> sampling_estimator("reinmax").__name__
    'reinmax'
    """
    function, _, facts = resolve(estimator)
    if facts.takes_objective:
        raise ValueError(
            f"{facts.name} needs the objective and gives a loss, not a sample; "
            "use catreparam.expectation(objective, logits, estimator=...) or a reparameterised estimator"
        )
    return function if isinstance(estimator, str) else estimator


def check_hyperparameters(method: Sampler, given: Hyperparameters) -> None:
    """Raises ValueError if a method of this library has no hyperparameter of a name in `given`."""
    facts = facts_of(method)
    names = facts.hyperparameters if facts.family else list(given)
    for key in given:
        if key not in names:
            raise ValueError(f"{facts.name} has no hyperparameter {key!r}; {remedy(key, names)}")


def draw(
    method: Sampler,
    logits: Float[Tensor, "*batch num_classes"],
    *,
    hyperparameters: Hyperparameters,
    generator: Generator | None = None,
) -> Float[Tensor, "*batch num_classes"]:
    """One call of the method. A hyperparameter that is a tensor holds one value per row and broadcasts to [*batch].

    Cost:   one call; for tensors, one call per distinct combination of values, and a read of them from the device. A
            tensor `temperature` of `gumbel_softmax` is one call and gets a gradient.
    Raises: ValueError for a tensor that asks for a gradient where the method has none to give.
    """
    numbers: dict[str, Any] = {key: value for key, value in hyperparameters.items() if not isinstance(value, Tensor)}
    tensors = {key: value for key, value in hyperparameters.items() if isinstance(value, Tensor)}
    if generator is not None and takes_argument(method, "generator"):
        numbers["generator"] = generator
    if not tensors:
        return method(logits, **numbers)
    if _is_hard_gumbel_softmax(method) and not numbers.keys() - {"generator"}:
        return _gumbel_softmax_rows(logits, tensors["temperature"], generator)
    for key, value in tensors.items():
        if value.requires_grad:
            raise ValueError(f"{facts_of(method).name} gives {key} no gradient; pass {key}.detach()")
    return _group_by_value(method, logits, tensors, numbers)


def _is_hard_gumbel_softmax(method: Sampler) -> bool:
    function, bound, _ = resolve(method)
    return function is ESTIMATORS["gumbel_softmax"] and not bound.keys() - {"temperature"}


def _gumbel_softmax_rows(logits: Tensor, temperature: Tensor, generator: Generator | None) -> Tensor:
    rows = to_rows(logits, generator=generator)
    perturbed = rows + draw_gumbel_like(rows, generator)
    x_soft = softmax_at(perturbed, temperature.to(rows.dtype).unsqueeze(-1))
    return from_rows(attach_gradient(one_hot_like(perturbed.argmax(-1), rows), x_soft), logits)


def _group_by_value(method: Sampler, logits: Tensor, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> Tensor:
    batch = logits.shape[:-1]
    rows = logits.reshape(-1, logits.shape[-1])
    if rows.shape[0] == 0:
        return method(logits, **numbers)
    values = torch.stack([value.double().expand(batch).reshape(-1) for value in tensors.values()], -1)
    distinct, group = values.unique(dim=0, return_inverse=True)
    parts = [
        method(rows[group == index], **dict(zip(tensors, combination, strict=True)), **numbers)
        for index, combination in enumerate(distinct.tolist())
    ]
    order = group.argsort(stable=True)  # where the rows of the concatenated parts belong
    return torch.cat(parts)[order.argsort()].reshape(logits.shape)
