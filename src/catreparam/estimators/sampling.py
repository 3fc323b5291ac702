"""An estimator as modules and distributions call it: any spelling of it, hyperparameters that may differ by row."""

from collections.abc import Callable, Mapping
from typing import Any

from jaxtyping import Float
from torch import Generator, Tensor

from catreparam.arguments import remedy
from catreparam.estimators.facts import facts_of, resolve, takes_argument

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

    The method is handed such a tensor with an axis of size 1 for the classes. Raises ValueError for one that asks for a
    gradient where the method has none to give.
    """
    given: dict[str, Any] = {key: _with_classes(value) for key, value in hyperparameters.items()}
    if generator is not None and takes_argument(method, "generator"):
        given["generator"] = generator
    return method(logits, **given)


def _with_classes(value: float | Tensor) -> float | Tensor:
    return value.unsqueeze(-1) if isinstance(value, Tensor) and value.ndim else value
