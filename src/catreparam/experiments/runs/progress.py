"""Progress on the terminal: bars with time left where a person watches, plain lines everywhere else."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

PLAIN_LINES = 10  # per name, first and last included: enough to follow a log, few enough to read


class Progress:
    """Where an experiment tells how far it is; this one says nothing, for workers, whose driver tells it."""

    def start(self, name: str, *, total: int, done: int = 0) -> None:
        """Begins something of `total` steps, of which `done` were made in an earlier session."""

    def advance(self, name: str, note: str) -> None:
        """One more step of it is done; `note` says how it went."""

    def say(self, message: str) -> None:
        """A line that stays."""


@contextmanager
def show_progress() -> Iterator[Progress]:
    """Bars by rich if standard error is a terminal, otherwise plain lines, also on standard error."""
    if not sys.stderr.isatty():
        yield _PlainProgress()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=Console(stderr=True)) as bars:
        yield _BarProgress(bars)


class _BarProgress(Progress):
    def __init__(self, bars: Any) -> None:
        self.bars, self.ids = bars, {}

    def start(self, name: str, *, total: int, done: int = 0) -> None:
        self.ids[name] = self.bars.add_task(name, total=total, completed=done, note="")

    def advance(self, name: str, note: str) -> None:
        self.bars.update(self.ids[name], advance=1, note=note)

    def say(self, message: str) -> None:
        self.bars.console.print(message, markup=False, highlight=False)


class _PlainProgress(Progress):
    def __init__(self) -> None:
        # steps done, total, done at the start, time of the start
        self.states: dict[str, list[float]] = {}

    def start(self, name: str, *, total: int, done: int = 0) -> None:
        self.states[name] = [done, total, done, time.monotonic()]

    def advance(self, name: str, note: str) -> None:
        state = self.states[name]
        state[0] += 1
        done, total, before, began = state
        if done % max(1, total // PLAIN_LINES) == 0 or done == total:
            left = (time.monotonic() - began) / (done - before) * (total - done)
            self.say(f"{name}: {done:.0f}/{total:.0f} {note} ({left:.0f} s left)")

    def say(self, message: str) -> None:
        print(message, file=sys.stderr, flush=True)
