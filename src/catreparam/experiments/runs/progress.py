"""Progress on the terminal: bars with time left where a person watches, plain lines everywhere else."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from catreparam.terminal import is_watched

PLAIN_LINES = 10  # per name, first and last included: enough to follow a log, few enough to read
WIDE = 100  # columns from which bars are long


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
    """Bars by rich if a person watches standard error, otherwise plain lines, also on standard error."""
    if not is_watched(sys.stderr):
        yield _PlainProgress()
        return
    from rich.console import Console

    with bars_on(Console(stderr=True)) as progress:
        yield progress


@contextmanager
def bars_on(console: Any) -> Iterator[Progress]:
    """Bars on a rich console, each with its count, the time left and its last note; a line for each that is done."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars
    from rich.table import Column
    from rich.text import Text

    class WithNotes(Bars):
        """A line for the note of each bar below it."""

        def get_renderables(self) -> Iterator[Any]:
            for task in self.tasks:
                yield self.make_tasks_table([task])
                if task.fields["note"]:
                    yield Text(f"  {task.fields['note']}", style="dim", no_wrap=True, overflow="ellipsis")

    def text(template: str, **column: Any) -> TextColumn:
        return TextColumn(template, markup=False, table_column=Column(no_wrap=True, **column))

    columns = (
        text("{task.description}", ratio=1, overflow="ellipsis"),
        BarColumn(bar_width=24 if console.width >= WIDE else 10),
        MofNCompleteColumn(table_column=Column(no_wrap=True)),
        TimeRemainingColumn(compact=True, table_column=Column(no_wrap=True)),
        text("left"),
    )
    with WithNotes(*columns, console=console, expand=True) as bars:
        yield _BarProgress(bars)


@dataclass
class _Steps:
    """How far one thing is."""

    total: int
    done: int
    before: int
    bar: Any = None
    began: float = field(default_factory=time.monotonic)

    def seconds(self) -> float:
        return time.monotonic() - self.began


class _BarProgress(Progress):
    def __init__(self, bars: Any) -> None:
        self.bars = bars
        self.states: dict[str, _Steps] = {}

    def start(self, name: str, *, total: int, done: int = 0) -> None:
        bar = self.bars.add_task(name, total=total, completed=done, note="") if done < total else None
        self.states[name] = _Steps(total, done, done, bar)

    def advance(self, name: str, note: str) -> None:
        state = self.states[name]
        state.done += 1
        if state.done < state.total:
            self.bars.update(state.bar, completed=state.done, note=note)
            return
        if state.bar is not None:  # what is done makes room, and stays as a line
            self.bars.remove_task(state.bar)
            state.bar = None
        self.say(f"{name}: {note or 'done'} ({duration(state.seconds())})")

    def say(self, message: str) -> None:
        self.bars.console.print(message, markup=False, highlight=False)


class _PlainProgress(Progress):
    def __init__(self) -> None:
        self.states: dict[str, _Steps] = {}

    def start(self, name: str, *, total: int, done: int = 0) -> None:
        self.states[name] = _Steps(total, done, done)

    def advance(self, name: str, note: str) -> None:
        state = self.states[name]
        state.done += 1
        if state.done % max(1, state.total // PLAIN_LINES) == 0 or state.done == state.total:
            left = state.seconds() / (state.done - state.before) * (state.total - state.done)
            self.say(f"{name}: {state.done}/{state.total} {note} ({duration(left)} left)")

    def say(self, message: str) -> None:
        print(message, file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """Seconds as people say them.

    >>> duration(7.4), duration(75), duration(3700)
    ('7 s', '1 min 15 s', '1 h 1 min')
    """
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if minutes else f"{rest} s"
    return f"{minutes // 60} h {minutes % 60} min"
