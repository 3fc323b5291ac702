"""Studies made of independent cells: each is one call, one line of metrics.jsonl, and never made twice."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from filelock import FileLock

from catreparam.experiments.runs.configs import Fields, identity_of
from catreparam.experiments.runs.folder import Record, RunFolder, open_run_folder
from catreparam.experiments.runs.machine import describe_machine
from catreparam.experiments.runs.parallel import run_side_by_side
from catreparam.experiments.runs.progress import show_progress


class CellsConfig(Fields, Protocol):
    """The config of a study made of cells."""

    @property
    def jobs(self) -> int:
        """Cells side by side."""
        ...


@dataclass(frozen=True)
class Cell:
    """What to measure: `measure(config, **key)` is a module-level function that returns the values of the cell."""

    config: CellsConfig
    key: Record
    measure: Callable[..., Record]
    folder: Path

    def owns(self, record: Record) -> bool:
        """Whether a line of the metrics is of this cell."""
        return all(record.get(name) == value for name, value in self.key.items())


@contextmanager
def run_cells(
    name: str, config: CellsConfig, keys: Sequence[Record], measure: Callable[..., Record], path: Path
) -> Iterator[RunFolder]:
    """Measures what is missing, config.jobs cells at a time, each durably appended before its worker takes another.

    The folder stays locked until the block ends. Raises RunFolderError and WriteFailed as `open_run_folder` does.
    """
    facts = {"machine": describe_machine(jobs=config.jobs)}
    with open_run_folder(path, experiment=name, config=identity_of(config), facts=facts) as folder:
        cells = [Cell(config, key, measure, path.resolve()) for key in keys]
        records = folder.read_metrics()
        left = [cell for cell in cells if not any(map(cell.owns, records))]
        with show_progress() as progress:
            progress.start(name, total=len(cells), done=len(cells) - len(left))
            side_by_side = run_side_by_side(measure_cell, left, jobs=config.jobs, is_done=is_measured, say=progress.say)
            for cell, _ in side_by_side:
                progress.advance(name, ", ".join(f"{key} {value}" for key, value in cell.key.items()))
        yield folder


def measure_cell(cell: Cell) -> None:
    """Measures a cell and writes its line, unless that was done meanwhile by a worker that outlived its driver."""
    with cell_lock(cell):
        if not is_measured(cell):
            record = {**cell.key, **cell.measure(cell.config, **cell.key)}
            RunFolder(cell.folder).append_metrics(record)


def is_measured(cell: Cell) -> bool:
    """Whether the cell has its line."""
    return any(map(cell.owns, RunFolder(cell.folder).read_metrics()))


def cell_lock(cell: Cell) -> FileLock:
    """Held by whoever works on the cell; dies with its process."""
    name = "-".join(f"{value}" for value in cell.key.values())
    (cell.folder / "locks").mkdir(exist_ok=True)
    return FileLock(cell.folder / "locks" / f"{name.replace('/', '_').replace(':', '-')}.lock")
