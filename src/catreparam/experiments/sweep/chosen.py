"""What a search has chosen, and settings.json, which takes it to another sweep that only makes the final runs."""

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path

from pydantic import TypeAdapter
from typing_extensions import NotRequired, TypedDict

from catreparam.experiments.runs.estimator_specs import normalise_specs
from catreparam.experiments.runs.folder import Record, RunFolder, RunFolderError
from catreparam.experiments.runs.records import Count, Number, checked_json, line
from catreparam.experiments.sweep.plan import Chosen, Sweep, searched
from catreparam.experiments.sweep.spaces import spec_at
from catreparam.validation import check_number

NAME = "settings.json"


@line
class Setting(TypedDict):
    """What is chosen for an estimator."""

    spec: str
    lr: Number
    validation: NotRequired[Number | None]
    trial: NotRequired[Count | None]


@line
class Settings(TypedDict):
    """What settings.json holds."""

    study: str
    settings: dict[str, Setting]


SETTINGS = TypeAdapter(Settings)


def chosen_for(sweep: Sweep, records: list[Record], spec: str) -> Chosen | None:
    """What an estimator's final runs use: given with the sweep, or the best of its search; None without."""
    if sweep.given is not None:
        return sweep.given[spec]
    best = best_of(records, spec)
    if best is None:
        return None
    point = best["point"]
    return Chosen(spec_at(spec, point), sweep.lr_at(point), best["validation"], best["number"])


def best_of(records: list[Record], spec: str) -> Record | None:
    """The search trial with the lowest validation value that ran to its end; the earliest of equals."""
    done = [record for record in searched(records, spec) if record["state"] == "complete"]
    return min(done, key=lambda record: record["validation"], default=None)


def write_settings(sweep: Sweep, folder: RunFolder, command: str) -> None:
    """Writes what is chosen so far, estimators without a choice left out."""
    records = folder.read_metrics()
    found = {spec: chosen_for(sweep, records, spec) for spec in sweep.config.estimators}
    settings = {spec: dataclasses.asdict(chosen) for spec, chosen in found.items() if chosen}
    content = {"study": sweep.study.name, "command": command, "settings": settings}
    folder.write(NAME, json.dumps(content, indent=2) + "\n")


def read_settings(path: Path, study: str, estimators: Iterable[str]) -> dict[str, Chosen]:
    """What is chosen for `estimators`, checked. Raises ValueError that names the file and what is wrong with it."""
    try:
        content = checked_json(SETTINGS, Path(path).read_bytes())
    except OSError as error:
        raise ValueError(f"settings {path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise ValueError(f"{path} is not the {NAME} of a sweep ({error})") from error
    of, settings = content["study"], content["settings"]
    if of != study:
        raise ValueError(f"{path} holds settings of the {of} study, not of {study}")
    if missing := [spec for spec in estimators if spec not in settings]:
        raise ValueError(f"{path} has no setting for {', '.join(missing)}; it has {', '.join(settings)}")
    return {spec: _checked(path, spec, settings[spec]) for spec in estimators}


def refuse_other_settings(folder: RunFolder, given: dict[str, Chosen]) -> None:
    """Raises RunFolderError if final runs of the folder were made with other settings than these."""
    for record in folder.read_metrics():
        wanted = given.get(record["estimator"])
        if wanted and "spec" in record and (record["spec"], record["lr"]) != (wanted.spec, wanted.lr):
            raise RunFolderError(
                f"{folder.path} holds runs of {record['spec']} at learning rate {record['lr']:.4g}, the settings now "
                f"say {wanted.spec} at {wanted.lr}; choose another --folder"
            )


def _checked(path: Path, estimator: str, setting: Setting) -> Chosen:
    (spec,) = normalise_specs((setting["spec"],))
    if spec.partition(":")[0] != estimator.partition(":")[0]:
        raise ValueError(f"{path}: the setting of {estimator} is of another estimator, {spec}")
    lr = check_number("lr", setting["lr"], above=0.0)
    return Chosen(spec, lr, setting.get("validation"), setting.get("trial"))
