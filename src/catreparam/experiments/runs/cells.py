"""Studies made of independent cells: each is one call, one line of metrics.jsonl, and never made twice."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from filelock import FileLock
from pydantic import TypeAdapter

from catreparam.experiments.runs.configs import Fields, identity_of
from catreparam.experiments.runs.folder import Record, RunFolder, open_run_folder
from catreparam.experiments.runs.machine import describe_machine
from catreparam.experiments.runs.parallel import run_side_by_side
from catreparam.experiments.runs.progress import Progress, show_progress


class CellsConfig(Fields, Protocol):
    """The config of a study made of cells, `jobs` of them side by side."""

    @property
    def jobs(self) -> int: ...


@dataclass(frozen=True)
class Cell:
    """What to measure: `measure(given, **key)` is a module-level function that returns the values of the cell."""

    given: object
    key: Record
    measure: Callable[..., Record]
    folder: Path

    def owns(self, record: Record) -> bool:
        """Whether a line of the metrics is of this cell."""
        return all(record.get(name) == value for name, value in self.key.items())

    def is_measured(self) -> bool:
        """Whether the cell has its line."""
        return any(map(self.owns, RunFolder(self.folder).read_metrics()))

    def lock(self) -> FileLock:
        """Held by whoever works on the cell; dies with its process."""
        name = "-".join(f"{value}" for value in self.key.values())
        (self.folder / "locks").mkdir(exist_ok=True)
        return FileLock(self.folder / "locks" / f"{name.replace('/', '_').replace(':', '-')}.lock")


@contextmanager
def run_cells(
    name: str,
    config: CellsConfig,
    keys: Sequence[Record],
    measure: Callable[..., Record],
    path: Path,
    lines: TypeAdapter[Any],
) -> Iterator[RunFolder]:
    """Measures what is missing, config.jobs cells at a time, each durably appended before its worker takes another.

    `lines` is what the line of a cell must be.
    The folder stays locked until the block ends. Raises RunFolderError and WriteFailed as `open_run_folder` does.
    """
    facts = {"machine": describe_machine(jobs=config.jobs)}
    with open_run_folder(path, experiment=name, config=identity_of(config), facts=facts, lines=lines) as folder:
        folder.read_metrics()  # a damaged line is one error now
        cells = [Cell(config, key, measure, path.resolve()) for key in keys]
        with show_progress() as progress:
            for cell, _ in measure_cells(name, cells, progress, jobs=config.jobs):
                progress.advance(name, ", ".join(f"{key} {value}" for key, value in cell.key.items()))
        yield folder


def measure_cells(
    name: str, cells: Sequence[Cell], progress: Progress, *, jobs: int, engine: str = "processes", address: str = ""
) -> Iterator[tuple[Cell, Record | None]]:
    """Yields what was missing as it is measured, with its line if the engine brings it; the caller says how it went."""
    left = [cell for cell in cells if not cell.is_measured()]
    progress.start(name, total=len(cells), done=len(cells) - len(left))
    yield from run_side_by_side(
        measure_cell, left, jobs=jobs, is_done=Cell.is_measured, engine=engine, address=address, say=progress.say
    )


def measure_cell(cell: Cell) -> Record | None:
    """Measures a cell and writes its line; None if that was done meanwhile by a worker that outlived its driver."""
    with cell.lock():
        if cell.is_measured():
            return None
        record = {**cell.key, **cell.measure(cell.given, **cell.key)}
        RunFolder(cell.folder).append_metrics(record)
        return record
