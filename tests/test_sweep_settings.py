"""settings.json of a sweep: refused where it is bad, missing or changes."""

import json

import pytest

from catreparam.experiments.runs.folder import RunFolder, RunFolderError
from catreparam.experiments.sweep.config import SweepConfig
from catreparam.experiments.sweep.spaces import spec_at
from catreparam.experiments.sweep.study import report_sweep, run_sweep
from sweep_bed import BedStudy, bed_config, records_of

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
            "settings.json: the setting of straight_through is wrong: lr must",
        ),
        (
            {"settings": {spec: {"spec": "straight_thro", "lr": 1.0} for spec in BOTH}},
            "settings.json: the setting of straight_through is wrong: unknown estimator 'straight_thro'",
        ),
        *(
            (
                {"settings": {spec: {"spec": got if "redge" in spec else spec, "lr": 1.0} for spec in BOTH}},
                f"settings.json: the setting of redge:num_steps=2 must have its num_steps, got {got}$",
            )
            for got in ("redge", "redge:num_steps=3", "redge:t1=0.5,num_steps=1")
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


@pytest.mark.parametrize("spec", ["redge:num_steps=2", "redge:t1=0.5,num_steps=2"])
def test_settings_that_keep_what_the_name_of_their_estimator_fixes_are_taken(tmp_path, spec):
    settings = {BOTH[0]: {"spec": BOTH[0], "lr": 0.01}, BOTH[1]: {"spec": spec, "lr": 0.02}}
    path = write_settings(tmp_path / "settings.json", settings=settings)
    run_sweep(bed_config(tmp_path / "run", settings=path), BedStudy(tmp_path / "events"))
    assert {r["spec"] for r in records_of(tmp_path / "run") if r["estimator"] == BOTH[1]} == {spec}


def test_settings_that_change_between_two_runs_of_a_sweep_are_refused(tmp_path):
    settings = {name: {"spec": name, "lr": 0.01} for name in ("straight_through", "redge:num_steps=2")}
    path = write_settings(tmp_path / "settings.json", settings=settings)
    run_sweep(bed_config(tmp_path / "run", settings=path), BedStudy(tmp_path / "events"))
    settings["straight_through"]["lr"] = 0.02
    write_settings(path, settings=settings)
    message = r"learning rate 0\.01, the settings now say straight_through at 0\.02; .* or delete this one"
    with pytest.raises(RunFolderError, match=message):
        run_sweep(bed_config(tmp_path / "run", settings=path), BedStudy(tmp_path / "events"))


def test_a_sweep_without_search_and_final_runs_is_refused(tmp_path):
    with pytest.raises(ValueError, match="nothing to do"):
        bed_config(tmp_path / "run", settings=tmp_path / "settings.json", seeds=())


def report(folder):
    return report_sweep(SweepConfig, lambda config: BedStudy(folder.with_name("events")), folder)


def settings_shown(table):
    return {row["estimator"]: (row.get("setting"), row.get("lr"), row.get("test")) for row in table.rows}


@pytest.mark.parametrize("change", ["other", "damaged", "gone"])
def test_a_report_is_of_the_settings_that_the_runs_had_whatever_became_of_their_file(tmp_path, change):
    settings = {BOTH[0]: {"spec": BOTH[0], "lr": 0.01}, BOTH[1]: {"spec": f"{BOTH[1]},t1=0.5", "lr": 0.02}}
    path = write_settings(tmp_path / "settings.json", settings=settings)
    first = run_sweep(bed_config(tmp_path / "run", settings=path), BedStudy(tmp_path / "events"))
    if change == "other":
        write_settings(path, settings={spec: {"spec": spec, "lr": 0.9} for spec in BOTH})
    elif change == "damaged":
        path.write_text("{")
    else:
        path.unlink()
    again = report(tmp_path / "run")
    assert again == first
    assert settings_shown(again.table)[BOTH[1]][:2] == ("t1=0.5", 0.02)


def test_final_runs_are_made_again_where_the_search_chooses_another_setting(tmp_path, capsys):
    """Whichever line is removed, its trial then diverges: the final runs have what table and settings.json say."""
    config = bed_config(tmp_path / "run")
    run_sweep(config, BedStudy(tmp_path / "events"))
    whole, folder, changed = records_of(tmp_path / "run"), RunFolder(tmp_path / "run"), 0
    for lost in (record for record in whole if record["phase"] == "search"):
        folder.replace_metrics([record for record in whole if record != lost])
        shown = settings_shown(report(folder.path).table)[lost["estimator"]]
        capsys.readouterr()
        diverging = f"search {spec_at(lost['estimator'], lost['point'])} {lost['point']['lr']:.6g}"
        table = run_sweep(config, BedStudy(tmp_path / "events", diverge_at=diverging)).table
        chosen = json.loads((folder.path / "settings.json").read_text())["settings"]
        finals = [record for record in records_of(folder.path) if record["phase"] == "final"]
        assert [(r["spec"], r["lr"]) for r in finals] == [
            (chosen[r["estimator"]]["spec"], chosen[r["estimator"]]["lr"]) for r in finals
        ]
        assert len(finals) == 4
        assert {row["estimator"]: row["lr"] for row in table.rows} == {name: at["lr"] for name, at in chosen.items()}
        again = [record for record in finals if record not in whole]
        assert ("than 2 final runs had; they run again" in capsys.readouterr().err) == bool(again)
        assert not again or shown[2] is None  # before, the old values were not shown beside the new setting
        changed += bool(again)
    assert changed == 2  # the best trial of either estimator


def test_final_runs_of_two_settings_are_never_shown_as_one(tmp_path):
    config = bed_config(tmp_path / "run")
    first = run_sweep(config, BedStudy(tmp_path / "events"))
    records = records_of(tmp_path / "run")
    records[0] |= {"lr": 0.9, "test": 1e6}
    RunFolder(tmp_path / "run").replace_metrics(records)
    shown = report(tmp_path / "run")
    row = next(row for row in shown.table.rows if row["estimator"] == records[0]["estimator"])
    assert (row["test"], row["state"]) == (records[1]["test"], "1 of 2 final runs")
    assert shown.warning == "Unfinished: 1 trials to go. The same command resumes."
    assert run_sweep(config, BedStudy(tmp_path / "events")).table == first.table


def test_an_estimator_whose_trials_all_diverged_gets_its_final_runs_when_one_has_a_value(tmp_path):
    config, folder = bed_config(tmp_path / "run"), RunFolder(tmp_path / "run")
    run_sweep(config, BedStudy(tmp_path / "events", diverge_at="search redge"))
    folder.replace_metrics([r for r in folder.read_metrics() if (r["estimator"], r["number"]) != (BOTH[1], 2)])
    table = run_sweep(config, BedStudy(tmp_path / "events")).table
    assert {row["estimator"]: row["state"] for row in table.rows} == dict.fromkeys(BOTH, "done")
    assert all("spec" in record for record in records_of(folder.path) if record["phase"] == "final")
