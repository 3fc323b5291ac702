"""What a guided generation reports: rows of numbers to plot, and the evaluations it took."""

from dataclasses import astuple, dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class Evaluations:
    """Evaluations per returned sequence: of the model, of the reward, of the reward's gradient.

    Under torch.vmap (estimator "exact") a reward call counts once, however many configurations it covers.
    """

    model: int = 0
    reward: int = 0
    reward_gradient: int = 0

    def __add__(self, other: "Evaluations") -> "Evaluations":
        return Evaluations(*map(sum, zip(astuple(self), astuple(other), strict=True)))


@dataclass
class Trace:
    """Rows of numbers, one per optimisation step (or round); means over the batch.

    Keys of `optimize_logits`: step, reward, kl, entropy, gradient_norm (kl and entropy summed over positions);
    `guided_sample` adds round and masked. `column("reward")` is ready to plot.

    >>> trace = Trace([{"step": 0, "reward": 1.0}, {"step": 1, "reward": 2.0}])
    >>> trace.column("reward")
    [1.0, 2.0]
    """

    rows: list[dict[str, float | int]] = field(default_factory=list)

    def column(self, key: str) -> list[float | int]:
        """All values of one key; NaN in rows that lack it."""
        return [row.get(key, float("nan")) for row in self.rows]

    def append(self, **numbers: float | int) -> None:
        """Adds a row."""
        self.rows.append(numbers)


@dataclass(frozen=True)
class Generation:
    """The result of every guided method.

    tokens [B, L]; reward [B] of these tokens; prior_log_prob [B]: log-probability under the prior of all reveals on the
    way, comparable across methods at equal rounds; kl [B]: KL of the guided reveals from the prior's, summed over the
    rounds, where the method has one, else None; trace; evaluations per returned sequence.
    """

    tokens: Tensor
    reward: Tensor
    prior_log_prob: Tensor
    kl: Tensor | None
    trace: Trace
    evaluations: Evaluations
