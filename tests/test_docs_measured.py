"""Tables of pages hold the numbers that were measured, as the files under docs/results have them."""

import json
import re

import pytest

from catreparam import ESTIMATORS
from catreparam.experiments.runs.statistics import compare
from pages_bed import ROOT, csv_rows, plus_or_minus, rows_of, section, table_under


@pytest.mark.parametrize(
    ("title", "name", "columns"),
    [("Few digits, three shapes", "vae", (0, 2, 4)), ("Few digits, trained longer", "vae-48x2-longer", (1, 3, 5))],
)
def test_the_evidence_shows_the_measured_tables(title, name, columns):
    measured = rows_of((ROOT / "docs" / "results" / f"{name}.md").read_text(encoding="utf-8"))
    shown = rows_of(section("evidence.md", title))
    assert shown.keys() & ESTIMATORS == measured.keys() & ESTIMATORS
    for estimator in shown.keys() & ESTIMATORS:
        assert shown[estimator] == [measured[estimator][column] for column in columns]


SPELT = {  # what tables of pages call a spec
    "gumbel_rao, 10 noises": "gumbel_rao:num_noises=10",
    "exact_redge, weight 0": "exact_redge:second_order_weight=0",
    "exact_redge, t1 0.7, 4 noises": "exact_redge:t1=0.7,num_noises=4",
    "EntRGi's mixing, with KL": "entrgi",
    "SVDD": "svdd",
    "gumbel_rao, 10 noises, temperature 0.02": "gumbel_rao:num_noises=10,temperature=0.02",
    "gumbel_softmax, temperature 0.01": "gumbel_softmax:temperature=0.01",
    "exact_redge, weight 0, t1 = 0.2": "exact_redge:t1=0.2,second_order_weight=0",
    "redge, t1 = 0.1, 6 steps": "redge:t1=0.1,num_steps=6",
    "redge_cov, t1 = 0.2, 6 steps": "redge_cov:t1=0.2,num_steps=6",
}


def spec_of(cell: str) -> str:
    words = cell.replace("`", "")
    return SPELT.get(words, words)


FULL_SIZE = {
    "All of MNIST": ("vae-mnist-48x2", 10),
    "All of MNIST, four draws": ("vae-mnist-48x2-four", 3),
    "All of MNIST, 30 codes of 10": ("vae-mnist-10x30", 10),
    "Fashion-MNIST": ("vae-fashion-48x2", 5),
}


def runs_of(folder: str, key: str) -> dict[str, dict[int, float]]:
    """That value of every run of a study, by estimator, then by seed."""
    values: dict[str, dict[int, float]] = {}
    for line in (ROOT / "docs" / "results" / folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        run = json.loads(line)
        values.setdefault(run["estimator"], {})[run["number"]] = run[key]
    return values


@pytest.mark.parametrize("title", FULL_SIZE)
def test_the_evidence_at_full_size_is_what_its_runs_measured(title):
    folder, count = FULL_SIZE[title]
    tests, bounds = (compare(runs_of(folder, key), reference="reinmax") for key in ("test", "iwae"))
    shown = table_under("evidence.md", title, "estimator | test")
    assert len(shown) == len(tests) == count
    for name, *cells in shown:
        test, bound = tests[spec_of(name)], bounds[spec_of(name)]
        above = "" if name == "`reinmax`" else plus_or_minus(test, "difference", "difference_half")
        assert cells == [plus_or_minus(test, "mean", "half"), above, plus_or_minus(bound, "mean", "half")]


@pytest.mark.parametrize(
    ("title", "words", "study", "estimator", "reference", "key"),
    [
        (
            "What the paper says, and what we find",
            "4.2 ± 0.7 worse by the bound",
            "All of MNIST",
            "reindge",
            "redge",
            "iwae",
        ),
        (
            "All of MNIST, 30 codes of 10",
            "Plain ReDGE is 11.5 ± 0.2 behind",
            "All of MNIST, 30 codes of 10",
            "redge",
            "reinmax",
            "test",
        ),
        (
            "All of MNIST, 30 codes of 10",
            "7.0 ± 0.7 behind",
            "All of MNIST, 30 codes of 10",
            "redge",
            "gumbel_softmax",
            "test",
        ),
        ("Fashion-MNIST", "1.6 ± 1.2 behind ReDGE", "Fashion-MNIST", "exact_redge", "redge", "test"),
        ("Fashion-MNIST", "0.44 ± 0.38 behind it", "Fashion-MNIST", "redge", "gumbel_softmax", "iwae"),
    ],
)
def test_what_the_evidence_says_of_two_estimators_was_measured(title, words, study, estimator, reference, key):
    assert words in " ".join(section("evidence.md", title).split())
    found = compare(runs_of(FULL_SIZE[study][0], key), reference=reference)[estimator]
    digits = len(re.findall(r"\.(\d+)", words)[0])
    assert f"{found['difference']:.{digits}f} ± {found['difference_half']:.{digits}f}" in words


def test_the_evidence_shows_what_the_defaults_reach_on_all_of_mnist():
    measured = {row["estimator"]: row for row in csv_rows("vae-mnist-48x2-four-defaults/table.csv")}
    shown = table_under("evidence.md", "All of MNIST, four draws", "at the defaults")
    assert len(shown) == len(measured) == 2
    for name, *cells in shown:
        row = {key: float(value) for key, value in measured[spec_of(name)].items() if key != "estimator" and value}
        above = plus_or_minus(row, "difference", "difference_ci") if "difference_ci" in row else ""
        value, bound = (plus_or_minus(row, key, f"{key}_ci") for key in ("test_negative_elbo", "test_iwae"))
        assert cells == [value, above, bound]


def test_the_default_in_numbers_is_what_was_measured():
    shown = table_under("which-estimator.md", "The default in numbers", "tuned")
    folders = ("vae-48x2", "vae-48x2-longer", "vae-reinmax-8x4", "vae-reinmax-4x24", "vae-mnist-48x2-four")
    for (_, *cells), folder in zip(shown, folders, strict=True):
        values = {row["estimator"]: float(row["test"]) for row in csv_rows(f"{folder}/table.csv")}
        above = {name: f"{value - min(values.values()):.1f}" for name, value in values.items()}
        assert cells == [above.get(name, "–") for name in ("reinmax_rloo", "reinmax", "redge", "gumbel_softmax")]


SUDOKU = {  # the tables of the page, by title and heading: folders, group of each column, and what is counted
    ("Without a prior", "estimator"): [
        (("no-prior", "no-prior-reindge"), group, "solved_argmax")
        for group in (
            "easy (36 to 45 clues), no prior, digits of peers' clues excluded",
            "easy (36 to 45 clues), no prior",
            "hard (22 to 29 clues), no prior, digits of peers' clues excluded",
            "hard (22 to 29 clues), no prior",
        )
    ],
    ("With a prior", "hard puzzles"): [
        (
            ("hard-long", "hard-long-reindge") if prior == "long" else ("hard-weaker", "hard-weaker-rest"),
            f"hard (22 to 29 clues), prior {prior}",
            "exact",
        )
        for prior in ("untrained", "short", "medium", "long")
    ],
    ("With a prior", "easy puzzles"): [
        (("easy-long", "easy-weaker", "easy-rest"), f"easy (36 to 45 clues), prior {prior}", "exact")
        for prior in ("untrained", "short", "medium", "long")
    ],
}
METHODS = {
    "digits drawn": "unguided",
    "most probable digits": "unguided_argmax",
    "t1 = 0.9": "redge:t1=0.9",
    "weight 1": "exact_redge:second_order_weight=1.0,num_noises=2",
}


@pytest.mark.parametrize(("title", "heading"), SUDOKU)
def test_the_page_on_sudoku_shows_the_measured_numbers(title, heading):
    for name, *cells in table_under("sudoku.md", title, heading):
        method = next(
            (key for words, key in METHODS.items() if words in name), name.removeprefix("guided, ").strip("`")
        )
        for cell, (folders, group, count) in zip(cells, SUDOKU[title, heading], strict=True):
            rows = [row for folder in folders for row in csv_rows(f"sudoku/{folder}/table.csv")]
            found = [row[count] for row in rows if (row["group"], row["method"]) == (group, method)]
            assert cell == "–" if not found else float(cell) == float(found[0].split(" ")[0]), (name, group)


def test_the_page_on_antibodies_shows_the_measured_table():
    written = (ROOT / "docs" / "results" / "antibody" / "summary.md").read_text(encoding="utf-8")
    (table,) = re.findall(r"(?:^\|.*\n)+", written, re.M)
    assert table.count("\n") == 14
    assert table in (ROOT / "docs" / "antibody.md").read_text(encoding="utf-8")


def test_the_page_on_guidance_shows_the_measured_orders():
    gains = {(row["model"], row["rounds"], row["order"]): row["gain"] for row in csv_rows("guidance-orders.csv")}
    table = re.findall(r"(?:^\|.*\n)+", section("guidance.md", "Which order"), re.M)[0]
    columns = [("text", "4"), ("text", "12"), ("digits", "4"), ("digits", "12"), ("sudoku", "4"), ("sudoku", "12")]
    for line in table.splitlines()[2:]:
        order, *cells = [cell.strip() for cell in line.strip("| ").split("|")]
        assert cells == [gains[(*key, order.strip('`"'))] for key in [*columns, ("antibodies", "4")]]
    assert table.count("\n") == 6


def test_the_evidence_shows_the_polynomials_that_were_measured():
    tuned = [
        {row["estimator"]: row for row in csv_rows(f"polynomial-one-draw-{p}/table.csv")} for p in ("1.5", "2", "3")
    ]
    groups = [f"p = {p}, optimum" for p in ("1.5", "2", "3")]
    default = csv_rows("polynomial-defaults/table.csv")
    rows = table_under("evidence.md", "Polynomial programming", "estimator")
    assert len(rows) == 1 + len(tuned[0])
    for name, *cells in rows[1:]:
        spec = spec_of(name)
        at_defaults = {"exact_redge:second_order_weight=0": "exact_redge", "exact_redge": None}.get(spec, spec)
        for cell, runs, group in zip(cells, tuned, groups, strict=True):
            wanted = f"{float(runs[spec]['test']):.5f}"
            if at_defaults is not None:
                (row,) = [r for r in default if r["problem"].startswith(group) and r["estimator"] == at_defaults]
                wanted += f" ({float(row['gap']):.5f})"
            assert cell == wanted, (name, group)
    beyond = {row["estimator"]: float(row["gap"]) for row in csv_rows("polynomial-beyond/table.csv")}
    for name, cell in table_under("evidence.md", "Polynomial programming", "beyond"):
        assert cell == f"{beyond[spec_of(name)]:.5f}"


def test_the_page_on_image_tokens_shows_the_measured_accuracies():
    rows = csv_rows("image-tokens/table.csv")
    text = (ROOT / "docs" / "image-tokens.md").read_text("utf-8").replace("### ", "## ")
    kls = list(dict.fromkeys(row["kl"] for row in rows if row["part"].startswith("Held-out")))
    (table,) = re.findall(r"(?:^\| method \| at.*\n(?:^\|.*\n)+)", text, re.M)
    shown = [[cell.strip() for cell in line.strip("| ").split("|")] for line in table.splitlines()]
    assert [re.sub("[^0-9.]", "", cell) for cell in shown[0][1:]] == [f"{float(kl):.2f}" for kl in kls]
    assert len(shown) == 2 + 10
    for name, *cells in shown[2:]:
        found = {row["kl"]: row for row in rows if row["part"][:8] == "Held-out" and row["method"] == spec_of(name)}
        for cell, kl in zip(cells, kls, strict=True):
            row = found.get(kl)
            assert cell == (f"{float(row['accuracy']):.3f} ± {float(row['accuracy_half']):.3f}" if row else "–")


def test_the_guide_on_tuning_shows_the_measured_bias():
    measured = {row["estimator"]: row for row in csv_rows("one-step.csv") if row["epochs"] == "8"}
    text = (ROOT / "docs" / "guides" / "tuning.md").read_text("utf-8")
    (table,) = re.findall(r"(?:^\| estimator \| test.*\n(?:^\|.*\n)+)", text, re.M)
    shown = [[cell.strip() for cell in line.strip("| ").split("|")] for line in table.splitlines()[2:]]
    assert [spec_of(name) for name, *_ in shown] == sorted(measured, key=lambda name: float(measured[name]["test"]))
    for name, *cells in shown:
        row = measured[spec_of(name)]
        formats = (("test", ".2f"), ("squared_bias", ".3f"), ("variance", ".1f"))
        assert cells == [format(float(row[key]), spec) for key, spec in formats]
