"""What the configs of all studies have in common: identity, the command that makes them, the way back from a folder."""

import dataclasses
import json
import shlex
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

from pydantic import TypeAdapter
from typing_extensions import Self

from catreparam.experiments.runs.folder import RunFolder, RunFolderError
from catreparam.experiments.runs.records import OBJECT, Record, checked_json

# Fields that decide where and how fast, not what comes out.
NOT_IDENTITY = ("folder", "jobs", "engine", "address", "tensorboard")

MOST_NUMBERS = 2**30  # with gradients and Adam's two moments 16 GiB in float32


class Fields(Protocol):
    """A dataclass: what every config is."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]


class RunConfig(Fields, Protocol):
    """The config of a run: it can say whether its values make sense."""

    def checked(self) -> Self:
        """This config in one spelling. Raises ValueError or TypeError naming the bad value."""
        ...


Config = TypeVar("Config", bound=RunConfig)


def check_distinct(name: str, values: Sequence[Any], *, least: int = 1) -> None:
    """Raises ValueError for fewer than `least` values, or for the same one twice."""
    if len(values) < least or len(set(values)) != len(values):
        many = "one or several different values" if least else "different values"
        raise ValueError(f"{name} must be {many}, got {tuple(values)}")


def check_seeds(name: str, seeds: Sequence[int], *, least: int = 1) -> None:
    """As `check_distinct`, for integers that a generator can be seeded with."""
    check_distinct(name, seeds, least=least)
    for seed in seeds:
        if not -(2**63) <= seed < 2**63:
            raise ValueError(f"{name} must lie in [-2^63, 2^63), got {seed}")


def check_room(what: str, numbers: int) -> None:
    """Raises ValueError where a config asks for more numbers in one place than a machine holds, before any is made."""
    if numbers > MOST_NUMBERS:
        raise ValueError(f"{what} would be {numbers:,} numbers, at most {MOST_NUMBERS:,} can be held; ask for less")


def at_home(config: Any) -> Any:
    """The config with `~` in its paths as the home folder: shells leave it in --folder=~/runs."""
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    paths = {key: value.expanduser() for key, value in values.items() if isinstance(value, Path)}
    inner = {key: at_home(value) for key, value in values.items() if dataclasses.is_dataclass(value)}
    return dataclasses.replace(config, **paths, **inner)


def identity_of(config: Fields) -> dict[str, Any]:
    """The fields that decide the result, as JSON has them: two runs with the same identity are the same run."""
    fields = {key: value for key, value in dataclasses.asdict(config).items() if key not in NOT_IDENTITY}
    return json.loads(json.dumps(fields, default=str))  # the folder of a config inside is a path


def config_of_folder(kind: type[Config], path: Path, lines: TypeAdapter[Any] = OBJECT) -> tuple[Config, RunFolder]:
    """The config that a run folder was made with, checked. Raises RunFolderError for a damaged one."""
    folder = RunFolder(path, lines)
    fields = folder.read_config()["config"]
    _refuse_other_fields(kind, fields, folder.config_path)
    try:
        config = checked_json(TypeAdapter(kind), json.dumps(fields)).checked()
    except (ValueError, TypeError) as error:
        raise RunFolderError(f"{folder.config_path} is damaged: {error}; correct that value") from error
    return dataclasses.replace(config, folder=path), folder


def _refuse_other_fields(kind: type[Any], fields: Record, path: Path, inside: str = "") -> None:
    """Raises RunFolderError for fields that are missing or unknown: of another version, or damaged."""
    types = typing.get_type_hints(kind)
    plain = {field.name: getattr(kind(), field.name) for field in dataclasses.fields(kind)}
    if unknown := sorted(set(fields) - set(plain)):
        raise RunFolderError(f"{path} has fields this version does not know: {', '.join(unknown)}")
    for name, default in plain.items():
        if name in fields and dataclasses.is_dataclass(default) and isinstance(fields[name], dict):
            inner = {key: value for key, value in fields[name].items() if key not in NOT_IDENTITY}
            _refuse_other_fields(types[name], inner, path, f"{inside}{name}.")
            fields[name] = inner
        elif name not in fields and name not in NOT_IDENTITY:
            said = json.dumps(default, default=str)
            raise RunFolderError(f"{path} lacks {inside}{name}; add it to the config, the default is {said}")


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
