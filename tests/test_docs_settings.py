"""What the evidence says of a wrong setting's cost is what the runs of benchmarks/settings.py measured."""

import re

import pytest

from catreparam.experiments.runs.statistics import compare
from pages_bed import csv_rows, plus_or_minus, section, table_in_full

DEFAULTS = {
    "redge": "redge:t1=0.5",
    "reindge": "reindge:t1=0.5",
    "exact_redge": "exact_redge:t1=0.5,second_order_weight=0",
    "lambda_reinmax": "reinmax",
}
FULL_SPEC = {  # what the tables of settings call one that differs from the default in more than t1
    "redge, 2 steps": "redge:t1=0.5,num_steps=2",
    "redge, 8 steps": "redge:t1=0.5,num_steps=8",
    "exact_redge, t1 = 0.3": "exact_redge:t1=0.3,second_order_weight=0",
    "exact_redge, t1 = 0.7": "exact_redge:t1=0.7,second_order_weight=0",
    "exact_redge, weight 1": "exact_redge:t1=0.5,second_order_weight=1",
    "exact_redge, weight 1, 4 noises": "exact_redge:t1=0.5,second_order_weight=1,num_noises=4",
    "exact_redge, weight 1, t1 = 0.7": "exact_redge:t1=0.7,second_order_weight=1",
    "exact_redge, weight 1, t1 = 0.9": "exact_redge:t1=0.9,second_order_weight=1",
    "lambda_reinmax, weight 0.75": "lambda_reinmax:weight=0.75",
}
SHAPES = ("48 of 2", "24 of 4", "4 of 8")


def setting_of(cell: str) -> str:
    words = cell.replace("`", "")
    return FULL_SPEC.get(words, DEFAULTS.get(words, words.replace(", t1 = ", ":t1=")))


def settings_values(
    key: str, shapes: tuple[str, ...] = SHAPES, epochs: str = "20", name: str = "settings.csv"
) -> dict[str, dict[str, float]]:
    """What the runs of benchmarks/settings.py measured, by setting, then by shape and seed."""
    values: dict[str, dict[str, float]] = {}
    for row in csv_rows(name):
        if row["codes"] in shapes and row["epochs"] == epochs:
            values.setdefault(row["setting"], {})[f"{row['codes']}, {row['seed']}"] = float(row[key])
    return values


@pytest.mark.parametrize(("start", "count"), [("against its default", 14), ("rule", 8)])
def test_the_evidence_shows_what_settings_were_measured_to_cost(start, count):
    shown = table_in_full("evidence.md", "What a wrong setting costs", start)
    assert len(shown) == count
    for name, *cells in shown:
        setting = setting_of(name)
        reference = DEFAULTS[re.split("[:,]", setting)[0]]
        by_shape = [compare(settings_values("test", (shape,)), reference=reference)[setting] for shape in SHAPES]
        pooled = [compare(settings_values(key), reference=reference)[setting] for key in ("test", "bound")]
        assert cells == [
            *(f"{found['difference']:.2f}" for found in by_shape),
            *(plus_or_minus(found, "difference", "difference_half") for found in pooled),
        ]


def test_the_evidence_shows_settings_at_their_defaults_and_after_a_longer_training():
    for name, *cells in table_in_full("evidence.md", "What a wrong setting costs", "at its default"):
        found = [compare(settings_values("test", (shape,)))[setting_of(name)] for shape in SHAPES]
        assert cells == [plus_or_minus(one, "mean", "half") for one in found]
    test, bound = (compare(settings_values(key, epochs="80"), reference="reinmax") for key in ("test", "bound"))
    shown = table_in_full("evidence.md", "What a wrong setting costs", "80 epochs")
    assert [setting_of(name) for name, *_ in shown] == sorted(test, key=lambda name: test[name]["mean"])
    for name, *cells in shown:
        one = test[setting_of(name)]
        above = "" if name == "`reinmax`" else plus_or_minus(one, "difference", "difference_half")
        wanted = [plus_or_minus(one, "mean", "half"), above]
        assert cells == [*wanted, plus_or_minus(bound[setting_of(name)], "mean", "half")]


@pytest.mark.parametrize(
    ("words", "setting", "reference", "key", "shapes", "epochs"),
    [
        ("5.6 ± 2.8 better", DEFAULTS["exact_redge"], "exact_redge, weight 1, t1 = 0.7", "test", SHAPES[:2], "20"),
        ("13.2 ± 1.5 ahead of ReinMax", "reinmax", "redge", "test", SHAPES[2:], "20"),
        ("3.6 ± 1.9 worse", "exact_redge, weight 1, t1 = 0.7", "exact_redge", "bound", SHAPES[:1], "80"),
        ("2.9 ± 0.3 ahead of ReinMax", "reinmax", "exact_redge", "bound", SHAPES[:1], "80"),
        ("t1 = 0.3 loses 4.6 ± 3.5", "exact_redge, t1 = 0.3", "exact_redge", "test", SHAPES, "20"),
    ],
)
def test_what_the_evidence_says_of_settings_was_measured(words, setting, reference, key, shapes, epochs):
    compared = compare(settings_values(key, shapes, epochs), reference=setting_of(reference))[setting_of(setting)]
    assert f"{compared['difference']:.1f} ± {compared['difference_half']:.1f}" in words
    assert words in " ".join(section("evidence.md", "What a wrong setting costs").split())


def at_the_defaults(shape: str, reference: str = "reinmax_rloo") -> dict[str, dict[str, float | None]]:
    return compare(settings_values("test", (shape,), name="settings-four-draws.csv"), reference=reference)


def test_the_evidence_shows_what_the_defaults_were_measured_to_do():
    measured = [at_the_defaults(shape) for shape in SHAPES]
    best = [min(one["mean"] for name, one in found.items() if "weight" not in name) for found in measured]
    shown = table_in_full("evidence.md", "At the defaults", "estimator")
    assert len(shown) == len(measured[0]) - 1  # of `reinmax_rloo` the default weight
    for name, *cells in shown:
        setting = name.replace("`", "").replace(", 10 noises", ":num_noises=10")
        found = [one[setting] for one in measured]
        behind = max(one["mean"] - least for one, least in zip(found, best, strict=True))
        assert cells == [*(plus_or_minus(one, "mean", "half") for one in found), f"{behind:.1f}"]
    in_brief = table_in_full("which-estimator.md", "The default in numbers", "at the defaults")
    for (_, *cells), found, least in zip(in_brief, measured, best, strict=True):
        names = ("reinmax_rloo", "reinmax", "redge", "gumbel_softmax")
        assert cells == [f"{found[name]['mean'] - least:.1f}" for name in names]


@pytest.mark.parametrize(
    ("words", "setting", "shape"),
    [
        ("With 4 codes of 8 it is 14.6 ± 3.7 behind", "reinmax", "4 of 8"),
        ("0.6 is 1.9 ± 1.5 worse with 48 codes of 2", "reinmax_rloo:second_order_weight=0.6", "48 of 2"),
    ],
)
def test_what_the_evidence_says_of_the_defaults_was_measured(words, setting, shape):
    found = at_the_defaults(shape)[setting]
    assert f"{found['difference']:.1f} ± {found['difference_half']:.1f}" in words
    assert words in " ".join(section("evidence.md", "At the defaults").split())
