"""settings.json of a sweep: refused where it is bad, missing or changes."""

import json

import pytest

from catreparam.experiments.runs.folder import RunFolderError
from catreparam.experiments.sweep.study import run_sweep
from sweep_bed import BedStudy, bed_config

BOTH = ("straight_through", "redge:num_steps=2")


def write_settings(path, **content):
    path.write_text(json.dumps({"study": "bed", "settings": {}} | content))
    return path


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"study": "vae"}, "settings of the vae study, not of bed"),
        ({}, "has no setting for straight_through, redge:num_steps=2"),
        ({"settings": []}, "settings: Input should be an object"),
        ({"settings": 3}, "is not the settings.json of a sweep"),
        (
            {"settings": {spec: {"spec": "redge", "lr": 1.0} for spec in BOTH}},
            "of another estimator",
        ),
        (
            {"settings": {"straight_through": 0, "redge:num_steps=2": 0}},
            "settings.straight_through: Input should be an object, got 0",
        ),
        (
            {"settings": {spec: {"spec": spec, "lr": -1} for spec in BOTH}},
            "lr must",
        ),
        (
            {"settings": {"straight_through": {"spec": "straight_through"}}},
            "settings.straight_through.lr: Field required",
        ),
        (
            {"settings": {"straight_through": {"spec": "straight_through", "lr": "1"}}},
            "lr: Input should be a valid number",
        ),
    ],
)
def test_bad_settings_get_one_clear_error_before_anything_runs(tmp_path, content, message):
    config = bed_config(tmp_path / "run", settings=write_settings(tmp_path / "settings.json", **content))
    with pytest.raises(ValueError, match=message):
        run_sweep(config, BedStudy(tmp_path / "events"))
    assert not (tmp_path / "run").exists()


def test_missing_or_damaged_settings_are_named(tmp_path):
    config = bed_config(tmp_path / "run", settings=tmp_path / "none.json")
    with pytest.raises(ValueError, match=r"none\.json cannot be read: No such file"):
        run_sweep(config, BedStudy(tmp_path / "events"))
    (tmp_path / "none.json").write_text('{"study": "bed", "sett')
    with pytest.raises(ValueError, match=r"is not the settings\.json of a sweep"):
        run_sweep(config, BedStudy(tmp_path / "events"))


def test_settings_that_change_between_two_runs_of_a_sweep_are_refused(tmp_path):
    settings = {name: {"spec": name, "lr": 0.01} for name in ("straight_through", "redge:num_steps=2")}
    path = write_settings(tmp_path / "settings.json", settings=settings)
    run_sweep(bed_config(tmp_path / "run", settings=path), BedStudy(tmp_path / "events"))
    settings["straight_through"]["lr"] = 0.02
    write_settings(path, settings=settings)
    with pytest.raises(RunFolderError, match=r"learning rate 0\.01, the settings now say straight_through at 0\.02"):
        run_sweep(bed_config(tmp_path / "run", settings=path), BedStudy(tmp_path / "events"))


def test_a_sweep_without_search_and_final_runs_is_refused(tmp_path):
    with pytest.raises(ValueError, match="nothing to do"):
        bed_config(tmp_path / "run", settings=tmp_path / "settings.json", seeds=())
