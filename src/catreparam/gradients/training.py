"""One training of a race: it is continued where it stopped, and nothing that it does to torch reaches the others."""

import math
import reprlib
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Real

import torch
from torch import Tensor

from catreparam.estimators.registry import Estimator
from catreparam.gradients.torch_state import TorchState
from catreparam.gradients.tune import show_setting
from catreparam.terminal import out_of_memory

END = object()


@dataclass(frozen=True)
class TrainedRow:
    """One setting, and what its training has said.

    Fields:
        estimator: the setting, ready to use.
        values: what the training yielded, one after the other; lower is better.
        seconds: how long that took.
        learning_rate: what it was trained at; None if `train` has its own.
    """

    estimator: Estimator
    values: tuple[float, ...]
    seconds: float
    learning_rate: float | None = None

    @property
    def diverged(self) -> bool:
        """Whether it ended in a value that is not finite."""
        return bool(self.values) and not math.isfinite(self.values[-1])

    def show(self) -> str:
        """name:key=value,… as the command line takes it, and the learning rate."""
        rate = "" if self.learning_rate is None else f" at learning rate {self.learning_rate:g}"
        return show_setting(self.estimator) + rate


class Training:
    """A training that can be continued. It begins with torch as it is now, grad mode on, and keeps its own from there.

    So it sees the random numbers, grad mode and autocast that it would see alone.
    """

    def __init__(
        self, train: Callable[..., Iterable[float]], estimator: Estimator, learning_rate: float | None
    ) -> None:
        self.train, self.estimator, self.learning_rate = train, estimator, learning_rate
        self.iterator: Iterator[float] | None = None
        self.values: list[float] = []
        self.seconds, self.over = 0.0, False
        self.inference_outside = torch.is_inference_mode_enabled()
        with torch.enable_grad():
            self.state = TorchState.now()

    def advance(self) -> None:
        """One value more, or it is over.

        Raises TypeError for what is no number; ValueError for an exception of the training, and if it yields inside
        `inference_mode()`, which cannot be kept from the others.
        """
        began = time.perf_counter()
        iterator = self._begun()
        with self._own_state():
            value = next(iterator, END)
        self.seconds += time.perf_counter() - began
        if torch.is_inference_mode_enabled() and not self.inference_outside:
            said = f"train yielded inside torch.inference_mode() with {self.show()}"
            raise ValueError(f"{said}, which stays on then; yield outside of it")
        if value is END:
            if not self.values:
                raise ValueError(f"train yielded no loss with {self.show()}")
            self.over = True
            return
        self.values.append(self._loss(value))
        self.over = self.row().diverged

    def _begun(self) -> Iterator[object]:
        if self.iterator is None:
            more = {} if self.learning_rate is None else {"learning_rate": self.learning_rate}
            with self._own_state():
                made = self.train(self.estimator, **more)
            if not isinstance(made, Iterator):
                got = type(made).__name__
                raise TypeError(f"train must be a generator function, which yields its losses; it returned {got}")
            self.iterator = made
        return self.iterator

    def _loss(self, value: object) -> float:
        many = isinstance(value, Tensor) and (value.numel() != 1 or value.is_meta)
        try:
            number = value.item() if hasattr(value, "item") and not many else value  # pyright: ignore
        except (TypeError, ValueError):  # of an array of several
            number = value
        if isinstance(number, bool) or not isinstance(number, Real):
            got = " ".join(reprlib.repr(value).split())
            raise TypeError(f"train must yield losses, one number each; with {self.show()} it yielded {got}")
        return float(number)

    @contextmanager
    def _own_state(self) -> Iterator[None]:
        """Code of the training runs with torch as that left it, whose exceptions name the setting."""
        outside = TorchState.now()
        self.state.restore()
        try:
            yield
        except ArithmeticError:  # it has diverged
            raise
        except Exception as error:
            said = out_of_memory(error) or f"{type(error).__name__}: {error}".rstrip(": ")
            raise ValueError(f"train failed with {self.show()}: {said}") from error
        finally:
            self.state = TorchState.now()
            outside.restore()

    def row(self) -> TrainedRow:
        """What is known of it."""
        return TrainedRow(self.estimator, tuple(self.values), self.seconds, self.learning_rate)

    def show(self) -> str:
        """Its name in messages."""
        return self.row().show()

    def value_after(self, count: int) -> float:
        """The value after so many, or the last one if the training ended before."""
        return math.inf if not self.values or self.row().diverged else self.values[min(count, len(self.values)) - 1]

    def close(self) -> None:
        """Ends the training, so that its memory is free."""
        iterator, self.iterator, self.over = self.iterator, None, True
        if iterator is not None and hasattr(iterator, "close"):
            with self._own_state():
                iterator.close()  # pyright: ignore[reportAttributeAccessIssue]
