"""settings.json: what a sweep's search has chosen, for another sweep that only makes the final runs."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from catreparam.experiments.runs.estimator_specs import normalise_specs
from catreparam.experiments.runs.folder import RunFolder, RunFolderError
from catreparam.experiments.sweep.trials import setting_of
from catreparam.validation import check_number

NAME = "settings.json"
Settings = dict[str, dict[str, Any]]  # estimator -> {"spec", "lr", ...}


def write_settings(sweep: Any, folder: RunFolder, command: str) -> None:
    """Writes the best settings so far, estimators without one left out."""
    records = folder.read_metrics()
    found = {spec: setting_of(sweep, records, spec) for spec in sweep.config.estimators}
    content = {"study": sweep.study.name, "command": command, "settings": {k: v for k, v in found.items() if v}}
    folder.write(NAME, json.dumps(content, indent=2) + "\n")


def read_settings(path: Path, study: str, estimators: Iterable[str]) -> Settings:
    """The settings of `estimators`, checked. Raises ValueError that names the file and what is wrong with it."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        of, settings = content["study"], dict(content["settings"])
    except OSError as error:
        raise ValueError(f"settings {path} cannot be read: {error.strerror or error}") from error
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is not the {NAME} of a sweep ({error})") from error
    if of != study:
        raise ValueError(f"{path} holds settings of the {of} study, not of {study}")
    if missing := [spec for spec in estimators if spec not in settings]:
        raise ValueError(f"{path} has no setting for {', '.join(missing)}; it has {', '.join(settings)}")
    return {spec: _checked(path, spec, settings[spec]) for spec in estimators}


def refuse_other_settings(folder: RunFolder, settings: Settings) -> None:
    """Raises RunFolderError if final runs of the folder were made with other settings than these."""
    for record in folder.read_metrics():
        wanted = settings.get(record["estimator"], {})
        if "spec" in record and (record["spec"], record["lr"]) != (wanted.get("spec"), wanted.get("lr")):
            raise RunFolderError(
                f"{folder.path} holds runs of {record['spec']} at learning rate {record['lr']:.4g}, the settings now say "
                f"{wanted.get('spec')} at {wanted.get('lr')}; choose another --folder"
            )


def _checked(path: Path, estimator: str, setting: Any) -> dict[str, Any]:
    if not isinstance(setting, dict) or not isinstance(setting.get("spec"), str):
        raise ValueError(f"{path}: the setting of {estimator} must be an object with spec and lr, got {setting}")
    (spec,) = normalise_specs((setting["spec"],))
    if spec.partition(":")[0] != estimator.partition(":")[0]:
        raise ValueError(f"{path}: the setting of {estimator} is of another estimator, {spec}")
    return {**setting, "spec": spec, "lr": check_number("lr", setting.get("lr"), above=0.0)}
