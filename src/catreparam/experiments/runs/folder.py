"""A run folder: config, metrics and checkpoints that survive kills, full disks and a second run; and its report.

Files are replaced whole; metrics grow by one synced line at a time and are written before the checkpoint they belong
to, so a checkpoint never knows more than the metrics. Nothing that is read back can execute code: JSON and safetensors.
"""

import dataclasses
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from filelock import FileLock, Timeout
from pydantic import TypeAdapter
from torch import Tensor
from typing_extensions import TypedDict

from catreparam.experiments.runs.records import OBJECT, Record, checked_json, line
from catreparam.report import Report, sweep_parts, write_atomically, write_report

LOCK_NAME = ".lock"
TABLES = ("report.html", "table.md", "table.csv", "table.jsonl")
BOOKKEEPING = ("config.json", LOCK_NAME, ".metrics.lock", "locks", *TABLES)


@line
class Facts(TypedDict):
    """Of the machine that a run was started on."""

    machine: str


@line
class Content(TypedDict):
    """What config.json holds."""

    experiment: str
    config: Record
    facts: Facts


CONTENT = TypeAdapter(Content)


class RunFolderError(ValueError):
    """A run folder cannot be used as asked; the message says what to do."""


class WriteFailed(OSError):
    """Something could not be written (disk full, no permission); the files written earlier are intact."""

    report: Report | None = None
    """What was to be written, if that was a report."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, after the report of what there is was written into the run folder."""

    def __init__(self, report: Report, folder: Path) -> None:
        super().__init__(f"interrupted; the same command resumes in {folder}")
        self.report, self.folder = report, folder


class RunFolder:
    """Paths and file operations of one run. Use `open_run_folder` to write, `RunFolder(path)` only to read.

    `lines` is what every line of the metrics must be: the study's types of records.
    """

    def __init__(self, path: Path | str, lines: TypeAdapter[Any] = OBJECT) -> None:
        self.path, self.lines = Path(path), lines
        self.config_path = self.path / "config.json"
        self.metrics_path = self.path / "metrics.jsonl"
        self.metrics_lock = FileLock(self.path / ".metrics.lock")  # workers of one run append to one file

    def read_config(self) -> Record:
        """The content of config.json. Raises RunFolderError when there is none or it is damaged."""
        try:
            text = self.config_path.read_bytes()
            checked_json(CONTENT, text)
            return json.loads(text)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise RunFolderError(f"{self.path} is not a run folder: it has no config.json") from error
        except ValueError as error:
            raise RunFolderError(f"{self.config_path} is damaged ({error}); delete the folder to start over") from error

    @property
    def machine(self) -> str:
        """The machine that the run was started on, in words. Raises as `read_config` does."""
        return self.read_config()["facts"]["machine"]

    def read_metrics(self) -> list[Record]:
        """All whole lines of metrics.jsonl. A last line cut short (kill, power loss) is left out."""
        try:
            state = self.metrics_path.stat()
        except FileNotFoundError:
            return []
        return list(_parse_metrics(self.metrics_path, self.lines, state.st_ino, state.st_mtime_ns, state.st_size))

    def append_metrics(self, record: Record) -> None:
        """Adds one line and waits until it is on the disk. A line cut short by an earlier kill is dropped first."""
        content = json.dumps(record, allow_nan=False) + "\n"
        with writing(self.metrics_path), self.metrics_lock, self.metrics_path.open("ab+") as file:
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)
            file.write(content.encode())
            file.flush()
            os.fsync(file.fileno())

    def replace_metrics(self, records: list[Record]) -> None:
        """Rewrites metrics.jsonl, atomically."""
        self.write("metrics.jsonl", "".join(json.dumps(record, allow_nan=False) + "\n" for record in records))

    def write(self, name: str, content: str | bytes) -> None:
        """Replaces a file of the folder atomically. Raises WriteFailed; the earlier file then is as it was."""
        path = self.path / name
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, content)

    def save_checkpoint(self, name: str, tensors: dict[str, Tensor], facts: Record) -> None:
        """Replaces checkpoints/<name>.safetensors; `facts` travel in its metadata as JSON."""
        plain = {key: tensor.detach().contiguous().cpu() for key, tensor in tensors.items()}
        self.write(f"checkpoints/{name}.safetensors", safetensors.torch.save(plain, {"facts": json.dumps(facts)}))

    def load_checkpoint(self, name: str) -> tuple[dict[str, Tensor], Record] | None:
        """Tensors and facts of a checkpoint, None if there is none. Raises RunFolderError when it is damaged."""
        return self._read_checkpoint(name, with_tensors=True)

    def checkpoint_count(self, name: str, unit: str) -> int | None:
        """How many epochs or steps (`unit`) a checkpoint has seen; None and errors as `load_checkpoint`."""
        checkpoint = self._read_checkpoint(name, with_tensors=False)
        if checkpoint is None:
            return None
        count = checkpoint[1].get(unit)
        if not isinstance(count, int) or isinstance(count, bool) or count < 0:
            raise self.damaged(name, f"its {unit} is {count!r}")
        return count

    def damaged(self, name: str, why: object) -> RunFolderError:
        """The error for a checkpoint that cannot be used."""
        path = self.path / "checkpoints" / f"{name}.safetensors"
        return RunFolderError(f"{path} is damaged ({why}); delete it to train this part again")

    def _read_checkpoint(self, name: str, *, with_tensors: bool) -> tuple[dict[str, Tensor], Record] | None:
        path = self.path / "checkpoints" / f"{name}.safetensors"
        if not path.exists():
            return None
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                facts = checked_json(OBJECT, (file.metadata() or {})["facts"])
                names = list(file.keys()) if with_tensors else []
                return {key: file.get_tensor(key) for key in names}, facts
        except (safetensors.SafetensorError, KeyError, ValueError) as error:
            raise self.damaged(name, error) from error


@contextmanager
def open_run_folder(
    path: Path | str, *, experiment: str, config: Record, facts: Record, lines: TypeAdapter[Any] = OBJECT
) -> Iterator[RunFolder]:
    """Locks the folder for this process, made if need be, and checks that it belongs to this very config.

    A folder in which nothing has been measured yet belongs to nobody, whatever its config. Leftovers of processes that
    were killed while they wrote a file are removed. The lock dies with its process. Raises RunFolderError if another
    process works in the folder, or if it holds a run with another config (the message shows the fields that differ).
    """
    folder = RunFolder(path, lines)
    _refuse_path(folder.path)
    with writing(folder.path):
        folder.path.mkdir(parents=True, exist_ok=True)
    try:
        held = FileLock(folder.path / LOCK_NAME).acquire(timeout=0)
    except Timeout as error:
        raise RunFolderError(
            f"another process is running in {path}; wait for it, or choose another --folder"
        ) from error
    with held:
        sweep_parts(folder.path)
        if folder.config_path.exists() and not _is_unused(folder):
            _refuse_other_config(folder, experiment, config)
        elif not folder.config_path.exists() and any(entry.name != LOCK_NAME for entry in folder.path.iterdir()):
            raise RunFolderError(f"{folder.path} holds other files and no config.json; choose another --folder")
        else:
            content = {"experiment": experiment, "config": config, "facts": facts}
            folder.write("config.json", json.dumps(content, indent=2) + "\n")
        yield folder


@lru_cache(maxsize=4)
def _parse_metrics(path: Path, lines: TypeAdapter[Any], *state: int) -> list[Record]:
    """Parses the file once for every state of it: sweeps look often whether a trial has its line."""
    records: list[Record] = []
    for number, content in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):
        try:
            checked_json(lines, content)
            records.append(json.loads(content))
        except ValueError as error:
            raise RunFolderError(
                f"{path}, line {number} is damaged ({error}); remove that line, and the same command measures it again"
            ) from error
    return records  # after the last newline there is nothing, or a line cut short


@contextmanager
def writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise WriteFailed(
            error.errno, f"cannot write {path}: {reason}. Files written earlier are intact; the same command resumes"
        ) from error


def _refuse_path(path: Path) -> None:
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise RunFolderError(f"the folder {str(path)!r} is no UTF-8 text; choose another --folder") from error
    for place in (path, *path.parents):
        if place.exists() and not place.is_dir():
            raise RunFolderError(f"{place} is a file, not a folder; choose another --folder")


def _is_unused(folder: RunFolder) -> bool:
    """Whether nothing but config.json and reports were written: by a run that ended before it measured anything."""
    if any(entry.name not in BOOKKEEPING for entry in folder.path.iterdir()):
        return False
    try:
        for path in (folder.path / "locks").glob("*.lock"):
            FileLock(path).acquire(timeout=0).lock.release()
    except Timeout:  # a worker that outlived its driver still measures something
        return False
    return True


def _refuse_other_config(folder: RunFolder, experiment: str, config: Record) -> None:
    content = folder.read_config()
    if content.get("experiment") != experiment:
        raise RunFolderError(f"{folder.path} holds a run of {content.get('experiment')!r}; choose another --folder")
    old, new = content["config"], json.loads(json.dumps(config))
    keys = [key for key in {**old, **new} if old.get(key, "absent") != new.get(key, "absent")]
    if keys:
        pairs = "; ".join(f"{key}: {old.get(key, 'absent')} there, {new.get(key, 'absent')} here" for key in keys)
        raise RunFolderError(
            f"{folder.path} holds a run with another config ({pairs}). Choose another --folder, or delete it"
        )


def finish(folder: RunFolder, report: Report, *, unfinished: str = "") -> Report:
    """Writes the report into the run folder and returns it, with its location.

    `unfinished` says what is missing, as in "2 of 6 runs"; people are then told that the same command resumes. Raises
    WriteFailed.
    """
    if unfinished:
        said = f"Unfinished: {unfinished}. The same command resumes."
        report = dataclasses.replace(report, warning=f"{said} {report.warning}".strip())
    try:
        with writing(folder.path / "report.html"):
            return write_into(folder.path, report)
    except WriteFailed as error:
        error.report = report  # so that it can be shown all the same
        raise


def write_into(folder: Path | None, report: Report) -> Report:
    """Writes the report into any folder and returns it, with its location; without a folder nothing is written.

    Raises WriteFailed, which has the report.
    """
    if folder is None:
        return report
    try:
        write_report(report, folder)
    except OSError as error:
        failed = WriteFailed(error.errno, error.strerror or str(error), error.filename)
        failed.report = report
        raise failed from error
    return dataclasses.replace(report, location=str(folder / "report.html"))


def check_writable(folder: Path | None) -> None:
    """Makes the folder and writes into it, before long work. Raises RunFolderError if it cannot."""
    if folder is None:
        return
    try:
        _refuse_path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"1")
    except OSError as error:
        raise RunFolderError(f"cannot write {folder}: {error.strerror or error}; choose another --folder") from error
