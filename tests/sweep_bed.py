"""A study that costs nothing, writes down what happens to it, and can kill the process it runs in."""

import os
import signal
import sys
import time
from dataclasses import dataclass, field
from math import log
from pathlib import Path

from catreparam.experiments.runs.folder import RunFolder
from catreparam.experiments.runs.training import Diverged
from catreparam.experiments.sweep.config import SweepConfig
from catreparam.experiments.sweep.study import run_sweep


@dataclass(frozen=True)
class BedStudy:
    """Lowest at learning rate .02; `events` collects a line per start and end of a run."""

    events: Path
    seconds: float = 0.0
    kill_at: str = ""  # kill -9 before the end of this run, the first time
    diverge_at: str = ""
    name: str = "bed"
    lr: float = 0.01
    value_title: str = "test value"
    y_label: str = "value"
    x_label: str = "step"
    log_y: bool = False
    num_steps: int = 4
    facts: dict = field(default_factory=dict)

    def search(self, spec, lr, seed, say):
        return self._value("search", spec, lr, seed, say)

    def final(self, spec, lr, seed, folder):
        value = self._value("final", spec, lr, seed, lambda step, value: None)
        return {"validation": value, "test": value + 1, "curves": {"step": [1, 2], "gap": [2 * value, value]}}

    def grids(self, finals, folder):
        return []

    def _value(self, phase, spec, lr, seed, say):
        run = f"{phase} {spec} {lr:.6g} {seed}"
        self._note(f"start {run}")
        value = log(lr / 0.02) ** 2 + seed / 1e6 + (spec.startswith("redge"))
        for step in range(1, 5):
            time.sleep(self.seconds)
            say(step, value + 1 / step)
        mark = self.events.with_name("killed")
        if self.kill_at and run.startswith(self.kill_at) and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if self.diverge_at and run.startswith(self.diverge_at):
            raise Diverged("not finite")
        self._note(f"end {run}")
        return value

    def _note(self, line):
        with self.events.open("a") as file:
            file.write(line + "\n")


def bed_config(folder, **changes):
    values = {"estimators": ("straight_through", "redge:num_steps=2"), "num_trials": 3, "seeds": (0, 1)}
    return SweepConfig(**{**values, "folder": folder, **changes}).checked()


def records_of(folder):
    """All lines, in an order that does not depend on interruptions."""
    records = RunFolder(folder).read_metrics()
    return sorted(records, key=lambda r: (r["phase"], r["estimator"], r["number"]))


def stop_after(patch, count, error=None):
    """Makes the line after the next `count` ones raise instead of being written."""
    original, left = RunFolder.append_metrics, [count]

    def append_metrics(self, record):
        left[0] -= 1
        if left[0] < 0:
            raise error or SystemError("stopped")
        original(self, record)

    patch.setattr(RunFolder, "append_metrics", append_metrics)


def main(folder, seconds, jobs, engine="processes", address=""):
    """A sweep in a process of its own, to be killed; on a cluster the search alone: final runs connect anew."""
    study = BedStudy(Path(folder).with_name("events"), float(seconds))
    seeds = (0, 1) if engine == "processes" else ()
    config = bed_config(Path(folder), jobs=int(jobs), engine=engine, address=address, seeds=seeds, pruner="none")
    run_sweep(config, study)


if __name__ == "__main__":
    main(*sys.argv[1:])
