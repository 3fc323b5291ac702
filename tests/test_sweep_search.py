"""The search of a sweep: its space, its points, and which trials are stopped."""

import collections
from math import log

import pytest

from catreparam.estimators import ESTIMATORS, make_estimator
from catreparam.estimators.facts import Range
from catreparam.experiments.runs.estimator_specs import parse_spec
from catreparam.experiments.runs.folder import RunFolder
from catreparam.experiments.sweep.plan import Sweep
from catreparam.experiments.sweep.search import Pruned, Search
from catreparam.experiments.sweep.spaces import space_of, spec_at, start_of
from catreparam.experiments.sweep.study import run_sweep
from sweep_bed import BedStudy, bed_config, records_of, stop_after


def test_diverged_trials_are_named_and_an_estimator_without_any_other_gets_no_final_run(tmp_path):
    study = BedStudy(tmp_path / "events", diverge_at="search redge")
    report = run_sweep(bed_config(tmp_path / "run"), study)
    states = {row["estimator"]: row["state"] for row in report.table.rows}
    assert states == {"straight_through": "done", "redge:num_steps=2": "every trial diverged"}
    found = [r["state"] for r in records_of(tmp_path / "run") if r["phase"] == "search" and "redge" in r["estimator"]]
    assert found == ["diverged"] * 3


def test_trials_that_fall_behind_are_pruned(tmp_path):
    config = bed_config(tmp_path / "run", num_trials=25, seeds=(0,), estimators=("straight_through",))
    run_sweep(config, BedStudy(tmp_path / "events"))
    records = [r for r in records_of(tmp_path / "run") if r["phase"] == "search"]
    states = collections.Counter(r["state"] for r in records)
    assert states["pruned"] >= 3
    assert states["complete"] >= 4
    assert all("validation" not in r for r in records if r["state"] == "pruned")


@pytest.mark.parametrize("pruner", ["median", "hyperband"])
def test_what_the_search_learns_is_all_in_its_lines(tmp_path, pruner):
    """A sweep stopped in the middle draws the points of one that went through, and prunes as it does."""
    changes = {"num_trials": 14, "seeds": (), "estimators": ("gumbel_softmax",), "pruner": pruner}
    run_sweep(bed_config(tmp_path / "whole", **changes), BedStudy(tmp_path / "events"))
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, 9)
        with pytest.raises(SystemError):
            run_sweep(bed_config(tmp_path / "resumed", **changes), BedStudy(tmp_path / "events"))
    run_sweep(bed_config(tmp_path / "resumed", **changes), BedStudy(tmp_path / "events"))
    records = records_of(tmp_path / "whole")
    assert records_of(tmp_path / "resumed") == records
    assert {r["state"] for r in records} == {"complete", "pruned"}


def test_a_trial_is_pruned_by_trials_that_end_while_it_runs(tmp_path):
    folder, events = tmp_path / "run", tmp_path / "events"
    run_sweep(bed_config(folder, num_trials=4, seeds=(), estimators=("straight_through",)), BedStudy(events))
    sweep = Sweep(bed_config(folder, num_trials=5, estimators=("straight_through",)), BedStudy(events), folder)
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join(lines[:1]))
    search = Search(sweep, "straight_through", 4)
    search.say(1, 1e6)  # one trial has ended: too few to judge
    (folder / "metrics.jsonl").write_text("".join(lines))
    with pytest.raises(Pruned):
        search.say(2, 1e6)
    assert search.said() == {"reported": [[1, 1e6], [2, 1e6]]}


def test_lines_without_values_on_the_way_and_points_of_another_space_do_not_stop_a_search(tmp_path):
    folder, events = tmp_path / "run", tmp_path / "events"
    run_sweep(bed_config(folder, num_trials=8, seeds=(), estimators=("straight_through",)), BedStudy(events))
    records = records_of(folder)
    for record in records:
        del record["reported"]
    records[1]["point"] = {"lr": 5.0}
    records[2]["point"] = {"temperature": 1.0}
    RunFolder(folder).replace_metrics(records[:6])
    run_sweep(bed_config(folder, num_trials=8, seeds=(), estimators=("straight_through",)), BedStudy(events))
    assert [record["number"] for record in records_of(folder)] == list(range(8))


def test_points_of_a_random_search_do_not_depend_on_the_order(tmp_path):
    for jobs in (1, 2):
        config = bed_config(tmp_path / str(jobs) / "run", jobs=jobs, sampler="random", pruner="none")
        config.folder.parent.mkdir()
        run_sweep(config, BedStudy(config.folder.with_name("events")))
    assert records_of(tmp_path / "1/run") == records_of(tmp_path / "2/run")


@pytest.mark.parametrize("name", sorted(ESTIMATORS))
def test_the_search_space_of_every_estimator_starts_at_a_valid_setting(name):
    spec = spec_at(name, start_of(space_of(name, (1e-3, 1e-2), 1e-3)))
    parsed, hyperparameters = parse_spec(spec)
    make_estimator(parsed, **hyperparameters)


def test_what_a_spec_fixes_is_not_searched():
    assert set(space_of("redge:num_steps=2", (1e-3, 1e-2), 1e-3)) == {"t1", "lr"}
    assert space_of("straight_through", (1e-3, 1e-3), 1e-3) == {}


@pytest.mark.parametrize("name", ESTIMATORS)
def test_what_lies_at_an_end_of_its_range_is_told_and_a_default_is_not(name):
    for values in space_of(name, (2e-4, 5e-3), 1e-3).values():
        if isinstance(values, Range):
            low, high = values.low, values.high
            middle = (low * high) ** 0.5 if values.log else (low + high) / 2
            assert not values.at_edge(middle)
            assert values.at_edge(high)
            assert values.at_edge(low) == (not isinstance(low, int))  # one noise is the fewest there are


@pytest.mark.parametrize(("best", "edges"), [(0.01, "temperature in [0.1, 2]"), (0.5, None)])
def test_the_table_says_where_the_best_lies_at_an_edge(tmp_path, monkeypatch, best, edges):
    """A bed that is lowest at a temperature below its range, or inside of it. The search is seeded."""

    def value(self, spec, lr, seed, say):
        return log(parse_spec(spec)[1]["temperature"] / best) ** 2

    monkeypatch.setattr(BedStudy, "search", value)
    config = bed_config(tmp_path / "run", num_trials=30, pruner="none", estimators=("gumbel_softmax",))
    table = run_sweep(config, BedStudy(tmp_path / "events")).table
    assert [row["edge"] for row in table.rows] == [edges]
    assert ("a better value may lie beyond" in table.note) == (edges is not None)
    assert ("edge" in [column.key for column in table.columns]) == (edges is not None)
