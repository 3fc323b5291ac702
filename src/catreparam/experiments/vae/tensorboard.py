"""Scalars for TensorBoard, if asked for; the package is only needed then."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def scalar_log(folder: Path, *, enabled: bool, after: int) -> Iterator[Callable[[Mapping[str, Any], int], None]]:
    """Yields log(values, step), which writes the numbers among the values into `folder`.

    Steps after `after`, from a run that was killed, are shown no more. Raises ValueError, naming the package, if
    TensorBoard is not installed.
    """
    if not enabled:
        yield lambda values, step: None
        return
    check_tensorboard()
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder), purge_step=after + 1) as writer:
        yield lambda values, step: _add(writer, values, step)


def _add(writer: Any, values: Mapping[str, Any], step: int) -> None:
    for name, value in values.items():
        if isinstance(value, int | float):
            writer.add_scalar(name, value, step)
    writer.flush()


def check_tensorboard() -> None:
    """Raises ValueError unless TensorBoard is installed."""
    try:
        import tensorboard  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ValueError("--tensorboard needs the package: pip install 'catreparam[tensorboard]'") from error
