"""A run folder: config, metrics and checkpoints that survive kills, full disks and a second run; and its report.

Files are replaced whole; metrics grow by one synced line at a time and are written before the checkpoint they belong
to, so a checkpoint never knows more than the metrics. Nothing that is read back can execute code: JSON and safetensors.
"""

import dataclasses
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from filelock import FileLock, Timeout
from torch import Tensor

from catreparam.report import Report, write_atomically, write_report

Record = dict[str, Any]

LOCK_NAME = ".lock"


class RunFolderError(ValueError):
    """A run folder cannot be used as asked; the message says what to do."""


class WriteFailed(OSError):
    """Something could not be written (disk full, no permission); the files written earlier are intact."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, after the report of what there is was written into the run folder."""

    def __init__(self, report: Report, folder: Path) -> None:
        super().__init__(f"interrupted; the same command resumes in {folder}")
        self.report, self.folder = report, folder


class RunFolder:
    """Paths and file operations of one run. Use `open_run_folder` to write, `RunFolder(path)` only to read."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.config_path = self.path / "config.json"
        self.metrics_path = self.path / "metrics.jsonl"
        self.metrics_lock = FileLock(self.path / ".metrics.lock")  # workers of one run append to one file

    def read_config(self) -> Record:
        """The content of config.json. Raises RunFolderError when there is none or it is damaged."""
        try:
            content = json.loads(self.config_path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise RunFolderError(f"{self.path} is not a run folder: it has no config.json") from error
        except ValueError as error:
            raise RunFolderError(f"{self.config_path} is damaged ({error}); delete the folder to start over") from error
        if not isinstance(content, dict) or not isinstance(content.get("config"), dict):
            raise RunFolderError(f"{self.config_path} is not the config of a run; delete the folder to start over")
        return content

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
        return list(_parse_metrics(self.metrics_path, state.st_ino, state.st_mtime_ns, state.st_size))

    def append_metrics(self, record: Record) -> None:
        """Adds one line and waits until it is on the disk. A line cut short by an earlier kill is dropped first."""
        line = json.dumps(record, allow_nan=False) + "\n"
        with writing(self.metrics_path), self.metrics_lock, self.metrics_path.open("ab+") as file:
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)
            file.write(line.encode())
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

    def checkpoint_facts(self, name: str) -> Record | None:
        """The facts of a checkpoint alone, without reading its tensors; None and errors as `load_checkpoint`."""
        checkpoint = self._read_checkpoint(name, with_tensors=False)
        return checkpoint[1] if checkpoint else None

    def _read_checkpoint(self, name: str, *, with_tensors: bool) -> tuple[dict[str, Tensor], Record] | None:
        path = self.path / "checkpoints" / f"{name}.safetensors"
        if not path.exists():
            return None
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                facts = json.loads((file.metadata() or {})["facts"])
                names = list(file.keys()) if with_tensors else []
                return {key: file.get_tensor(key) for key in names}, facts
        except (safetensors.SafetensorError, KeyError, ValueError) as error:
            raise RunFolderError(f"{path} is damaged ({error}); delete it to train this part again") from error


@contextmanager
def open_run_folder(path: Path | str, *, experiment: str, config: Record, facts: Record) -> Iterator[RunFolder]:
    """Locks the folder for this process, made if need be, and checks that it belongs to this very config.

    The lock dies with its process. Raises RunFolderError if another process works in the folder, or if the folder
    holds a run with another config (the message shows the fields that differ).
    """
    folder = RunFolder(path)
    with writing(folder.path):
        folder.path.mkdir(parents=True, exist_ok=True)
    try:
        held = FileLock(folder.path / LOCK_NAME).acquire(timeout=0)
    except Timeout as error:
        raise RunFolderError(
            f"another process is running in {path}; wait for it, or choose another --folder"
        ) from error
    with held:
        if folder.config_path.exists():
            _refuse_other_config(folder, experiment, config)
        elif any(entry.name != LOCK_NAME for entry in folder.path.iterdir()):
            raise RunFolderError(f"{folder.path} holds other files and no config.json; choose another --folder")
        else:
            content = {"experiment": experiment, "config": config, "facts": facts}
            folder.write("config.json", json.dumps(content, indent=2) + "\n")
        yield folder


@lru_cache(maxsize=4)
def _parse_metrics(path: Path, *state: int) -> list[Record]:
    """Parses the file once for every state of it: sweeps look often whether a trial has its line."""
    records: list[Record] = []
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):
        try:
            records.append(json.loads(line))
        except ValueError as error:
            raise RunFolderError(f"{path}, line {number} is damaged; delete the folder to start over") from error
    return records  # after the last newline there is nothing, or a line cut short


LOCK_NAME = ".lock"


@contextmanager
def writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise WriteFailed(
            error.errno, f"cannot write {path}: {reason}. Files written earlier are intact; the same command resumes"
        ) from error


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
        report = dataclasses.replace(report, warning=f"Unfinished: {unfinished}. The same command resumes.")
    with writing(folder.path / "report.html"):
        return write_into(folder.path, report)


def write_into(folder: Path | None, report: Report) -> Report:
    """Writes the report into any folder and returns it, with its location; without a folder nothing is written."""
    if folder is None:
        return report
    write_report(report, folder)
    return dataclasses.replace(report, location=str(folder / "report.html"))
