"""What a search has chosen, and settings.json, which takes it to another sweep that only makes the final runs."""

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path

from pydantic import TypeAdapter
from typing_extensions import NotRequired, TypedDict

from catreparam.experiments.runs.estimator_specs import normalise_specs, parse_spec
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
        return sweep.given.get(spec)
    best = best_of(records, spec)
    if best is None:
        return None
    point = best["point"]
    return Chosen(spec_at(spec, point), sweep.lr_at(point), best["validation"], best["number"])


def best_of(records: list[Record], spec: str) -> Record | None:
    """The search trial with the lowest validation value that ran to its end; the earliest of equals."""
    done = [record for record in searched(records, spec) if record["state"] == "complete"]
    return min(done, key=lambda record: record["validation"], default=None)


def finals_of(sweep: Sweep, records: list[Record], spec: str) -> list[Record]:
    """An estimator's final runs with what is chosen for it now, by seed."""
    chosen = chosen_for(sweep, records, spec)
    wanted = (chosen.spec, chosen.lr) if chosen else (None, None)
    mine = [record for record in records if record["phase"] == "final" and record["estimator"] == spec]
    return sorted((r for r in mine if (r.get("spec"), r.get("lr")) == wanted), key=lambda record: record["number"])


def other_finals(sweep: Sweep, records: list[Record]) -> list[Record]:
    """The final runs with another setting than is chosen now: some trial was measured again after them."""
    estimators = sweep.config.estimators
    current = [record for spec in estimators for record in finals_of(sweep, records, spec)]
    finals = [record for record in records if record["phase"] == "final" and record["estimator"] in estimators]
    return [record for record in finals if record not in current]


def drop_other_finals(sweep: Sweep, folder: RunFolder) -> int:
    """Takes their lines off the metrics, so that they are made again; returns how many there were."""
    with folder.metrics_lock:
        records = folder.read_metrics()
        others = other_finals(sweep, records)
        if others:
            folder.replace_metrics([record for record in records if record not in others])
    return len(others)


def settings_of_finals(folder: RunFolder) -> dict[str, Chosen]:
    """What the final runs of the folder were made with, by their own lines."""
    finals = [record for record in folder.read_metrics() if record["phase"] == "final"]
    return {r["estimator"]: Chosen(r["spec"], r["lr"]) for r in finals if "spec" in r and "lr" in r}


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


def refuse_other_settings(sweep: Sweep, folder: RunFolder) -> None:
    """Raises RunFolderError if final runs of the folder were made with other settings than are given."""
    given = sweep.given or {}
    for record in other_finals(sweep, folder.read_metrics()) if given else []:
        wanted = given[record["estimator"]]
        raise RunFolderError(
            f"{folder.path} holds runs of {record.get('spec')} at learning rate {record.get('lr')}, the settings now "
            f"say {wanted.spec} at {wanted.lr}; choose another --folder, or delete this one"
        )


def _checked(path: Path, estimator: str, setting: Setting) -> Chosen:
    try:
        (spec,) = normalise_specs((setting["spec"],))
        lr = check_number("lr", setting["lr"], above=0.0)
    except ValueError as error:
        raise ValueError(f"{path}: the setting of {estimator} is wrong: {error}") from error
    (name, fixed), (other, values) = parse_spec(estimator), parse_spec(spec)
    if other != name:
        raise ValueError(f"{path}: the setting of {estimator} is of another estimator, {spec}")
    if differing := [key for key, value in fixed.items() if values.get(key, ...) != value]:
        raise ValueError(f"{path}: the setting of {estimator} must have its {', '.join(differing)}, got {spec}")
    return Chosen(spec, lr, setting.get("validation"), setting.get("trial"))
