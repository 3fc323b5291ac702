"""`catreparam guide antibody` on a tiny model: end to end, resuming, reports, and damaged folders."""

import dataclasses
import functools
import json
import shutil

import pytest

import antibody_bed as bed
from catreparam.cli import main
from catreparam.experiments.guide.antibody import study
from catreparam.experiments.guide.antibody.inputs import read_fasta
from catreparam.experiments.guide.antibody.presets import PRESETS, PUBLIC
from catreparam.experiments.guide.antibody.targets import make_reward, one_hot
from catreparam.experiments.guide.methods import OTHER_METHODS
from catreparam.experiments.runs.folder import RunFolderError
from catreparam.objectives.residues import net_charge

START = "EVQLVESGGGLVNGTYWCSR"
TINY = study.Config(
    sequence=(f"one={START}", "two=DIQMTQSPSSLSASVGDRVT"),
    design=("4-9,13-15",),
    charge=3.0,
    liabilities=0.0,
    weights=("charge=2",),
    estimator=("straight_through",),
    rivals=("unguided",),
    kl_weights=(0.1, 1.0),
    num_designs=3,
    num_rounds=2,
    num_steps=2,
    pll_positions=2,
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    bed.install_weights(folder)
    return folder


@pytest.fixture(autouse=True)
def _weights(cache, monkeypatch):
    monkeypatch.setenv("CATREPARAM_DATA", str(cache))


def configured(tmp_path, **changes):
    return study.Config(**{**vars(TINY), "folder": tmp_path / "run", **changes})


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_every_method_runs_within_the_budget_and_keeps_the_rest(tmp_path):
    config = configured(
        tmp_path, rivals=tuple(OTHER_METHODS), estimator=("exact_redge", "gumbel_softmax"), kl_weights=(1.0,)
    )
    report = study.run(config)
    assert "At equal KL" not in report.appendix  # one weight: nothing to compare at
    records = metrics(tmp_path / "run")
    assert len(records) == len(config.keys()) == 2 * 9
    assert all(record["evaluations"] <= config.budget.evaluations for record in records)
    for record in records:
        (start,) = (antibody for antibody in config.antibodies() if antibody.name == record["sequence"])
        for design in record["designs"]:
            changed = {place for place, pair in enumerate(zip(start.sequence, design, strict=True)) if len({*pair}) > 1}
            assert changed <= {3, 4, 5, 6, 7, 8, 12, 13, 14} == set(start.positions)
        assert record["scores"]["charge"] == pytest.approx(net_charge(one_hot(record["designs"])).tolist(), abs=1e-5)
    assert {row["method"] for row in report.table.rows} == set(config.methods)
    assert {"report.html", "table.csv", "designs.csv", "designs.fasta"} <= {
        path.name for path in (tmp_path / "run").iterdir()
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory, cache):
    """The folder of a finished run."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CATREPARAM_DATA", str(cache))
        study.run(study.Config(**{**vars(TINY), "folder": folder}))
    return folder


@pytest.fixture
def copied(tmp_path, finished):
    """A copy of it, as `configured` names it."""
    return shutil.copytree(finished, tmp_path / "run")


def test_fasta_and_csv_hold_every_design(tmp_path, copied):
    expected = [design for record in metrics(tmp_path / "run") for design in record["designs"]]
    written = (tmp_path / "run" / "designs.fasta").read_text().splitlines()
    assert written[1::2] == expected
    assert len({*written[::2]}) == len(expected)  # a name for each
    table = (tmp_path / "run" / "designs.csv").read_text().splitlines()
    assert [line.rpartition(",")[2] for line in table[1:]] == expected
    assert read_fasta(tmp_path / "run" / "designs.fasta")[0].endswith(f"={expected[0]}")


def test_same_command_designs_nothing_twice_and_report_can_be_rebuilt(tmp_path, copied):
    files = {name: (copied / name).read_bytes() for name in ("metrics.jsonl", "table.csv", "designs.csv")}
    study.run(configured(tmp_path))
    assert {name: (copied / name).read_bytes() for name in files} == files
    assert main(["report", str(tmp_path / "run")]) == 0
    assert (copied / "report.html").read_text().count('class="card wide"') == 2  # a logo for each sequence


@pytest.mark.parametrize("method", ["straight_through", "unguided"])
def test_killed_design_goes_on_to_the_same_designs(tmp_path, monkeypatch, method):
    whole = study.design_cell(configured(tmp_path / "whole"), "one", method, 1.0, 0)
    calls = []

    def dying(*arguments):
        reward = make_reward(*arguments)

        @functools.wraps(reward)
        def call(x):
            calls.append(1)
            if len(calls) == (4 if method == "straight_through" else 1):  # in the second round
                raise KeyboardInterrupt
            return reward(x)

        return call

    monkeypatch.setattr(study, "make_reward", dying)
    with pytest.raises(KeyboardInterrupt):
        study.design_cell(configured(tmp_path), "one", method, 1.0, 0)
    monkeypatch.setattr(study, "make_reward", make_reward)
    resumed = study.design_cell(configured(tmp_path), "one", method, 1.0, 0)
    assert {**resumed, "seconds": 0} == {**whole, "seconds": 0}


def test_at_equal_kl_a_method_is_between_its_weights(copied):
    report = study.report_folder(copied)
    low, high = sorted((row for row in report.table.rows if row["method"] == "straight_through"), key=lambda r: r["kl"])
    rows = report.appendix["At equal KL"].rows
    assert len(rows) == 3
    for row in rows:
        part = (row["kl"] - low["kl"]) / (high["kl"] - low["kl"])
        assert 0 < part < 1
        for key in ("reward", "charge", "liabilities"):
            assert row[key] == pytest.approx((1 - part) * low[key] + part * high[key])
    assert (copied / "at-equal-kl.csv").exists()


def test_a_fasta_file_is_the_same_run_as_its_sequences(tmp_path):
    path = tmp_path / "two.fasta"
    path.write_text(f">one a heavy chain\n{START[:7]}\n{START[7:].lower()}\n\n>two\nDIQMTQSPSSLSASVGDRVT*\n")
    given = configured(tmp_path, sequence=(), fasta=path).checked()
    assert given == configured(tmp_path).checked()


def test_a_damaged_line_is_one_error_that_names_it(tmp_path, copied):
    path = tmp_path / "run" / "metrics.jsonl"
    lines = path.read_text().splitlines()
    for key, value in (("designs", ["ACX"]), ("reward", [0.0]), ("scores", {"pll": []}), ("kl", None)):
        record = {**json.loads(lines[0]), "reward": [0.0, 1.0], key: value}
        path.write_text("\n".join([json.dumps(record), *lines[1:]]) + "\n")
        with pytest.raises(RunFolderError, match=r"metrics\.jsonl, line 1"):
            study.report_folder(tmp_path / "run")


def test_an_unfinished_run_reports_what_there_is(tmp_path, copied):
    path = tmp_path / "run" / "metrics.jsonl"
    path.write_text("\n".join(path.read_text().splitlines()[:2]) + "\n")
    report = study.report_folder(tmp_path / "run")
    assert "4 of 6 cells" in report.warning
    assert report.table.rows


def test_the_study_is_of_public_sequences_and_twenty_designs_a_method():
    assert len(PRESETS) == 3
    for config in PRESETS.values():
        checked = config.checked()
        assert len(checked.antibodies()) * config.num_designs * len(config.seeds) >= 20
        loops = {a.name: "".join(a.sequence[place] for place in a.positions) for a in checked.antibodies()}
        assert loops["trastuzumab_VH"] == "GFNIKDTYIYPTNGYTSRWGGDGFYAMDY"
        assert set(loops) == set(PUBLIC)


def test_weights_in_a_file_of_ones_own_and_in_half_precision(tmp_path, cache):
    mine = shutil.copy(cache / "antiberty" / "antiberty.safetensors", tmp_path / "mine.safetensors")
    config = configured(tmp_path, model=mine, sequence=(START,), kl_weights=(1.0,), num_rounds=1, precision="bfloat16")
    report = study.run(dataclasses.replace(config, chain="light"))
    facts = report.facts
    assert all(0 <= row["chain"] <= 1 for row in (*report.table.rows, *report.appendix["Designs"].rows))
    assert "mine.safetensors" in facts["prior"]
    assert facts["precision of the model"] == "bfloat16"
