"""What the configs of all studies have in common: identity, the command that makes them, the way back from a folder."""

import dataclasses
import json
import shlex
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

from catreparam.experiments.runs.folder import RunFolder, RunFolderError

# Fields that decide where and how fast, not what comes out.
NOT_IDENTITY = ("folder", "jobs", "engine", "address", "tensorboard")


class Fields(Protocol):
    """A dataclass: what every config is."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]


Config = TypeVar("Config", bound=Fields)


def identity_of(config: Fields) -> dict[str, Any]:
    """The fields that decide the result, as JSON has them: two runs with the same identity are the same run."""
    fields = {key: value for key, value in dataclasses.asdict(config).items() if key not in NOT_IDENTITY}
    return json.loads(json.dumps(fields, default=str))  # the folder of a config inside is a path


def config_of_folder(kind: type[Config], path: Path) -> tuple[Config, RunFolder]:
    """The config that a run folder was made with. Raises RunFolderError for one from another version."""
    folder = RunFolder(path)
    fields = folder.read_config()["config"]
    known = {field.name for field in dataclasses.fields(kind)}
    if unknown := sorted(set(fields) - known):
        raise RunFolderError(f"{folder.config_path} has fields this version does not know: {', '.join(unknown)}")
    return _from_json(kind, fields, folder=path), folder


def _from_json(kind: type[Config], fields: Mapping[str, Any], **more: Any) -> Config:
    """Undoes `identity_of`: lists become tuples, mappings the config they were."""
    types = typing.get_type_hints(kind)
    values: dict[str, Any] = {}
    for key, value in fields.items():
        if isinstance(value, Mapping):
            values[key] = _from_json(types[key], {k: v for k, v in value.items() if k not in NOT_IDENTITY})
        else:
            values[key] = tuple(value) if isinstance(value, list) else value
    return kind(**values, **more)


def command_of(program: str, config: Fields) -> str:
    """The command that makes this run: what differs from the defaults."""
    values = {key: value for key, value in dataclasses.asdict(config).items() if key != "address"}  # of the day
    changed = options(values, dataclasses.asdict(type(config)()))
    return f"{program} {changed}".strip()


def options(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> str:
    """The command-line options that differ from their defaults.

    >>> options({"t1": 0.5, "seeds": (0, 1), "fast": True}, {"t1": 0.5, "seeds": (0,), "fast": False})
    '--seeds 0 1 --fast'
    """
    words: list[str] = []
    for key, value in values.items():
        if isinstance(value, Mapping):  # the config of another experiment inside
            inner = options(value, defaults[key])
            words += [f"--{key}.{part[2:]}" if part.startswith("--") else part for part in inner.split()]
        elif value != defaults[key]:
            flag = key.replace("_", "-")
            if isinstance(value, bool):
                words.append(f"--{flag}" if value else f"--no-{flag}")
            else:
                items = value if isinstance(value, tuple | list) else [value]
                words += [f"--{flag}", *(shlex.quote(str(item)) for item in items)]
    return " ".join(words)
