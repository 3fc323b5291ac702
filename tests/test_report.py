"""Reports: every format holds the same numbers, the page is self-contained, and nothing in it can break out."""

import csv
import io
import json
import re
from html.parser import HTMLParser

import pytest
import torch

from catreparam.estimators import ESTIMATORS
from catreparam.report import (
    Column,
    Curve,
    ImageGrid,
    Plot,
    Report,
    Table,
    to_csv,
    to_html,
    to_jsonl,
    to_markdown,
    write_atomically,
    write_report,
)
from catreparam.report.figures import colour_of, plot_to_svg

COLUMNS = (
    Column("name", "estimator"),
    Column("loss", "test −ELBO", ".2f", "loss_se", lowest_is_best=True),
    Column("seeds", "seeds"),
)
ROWS = [
    {"name": "redge", "loss": 101.23456, "loss_se": 0.125, "seeds": 3},
    {"name": "reinmax", "loss": 102.5, "loss_se": None, "seeds": 1},
    {"name": "never ran", "seeds": 0},
]
NASTY = '<script>alert(1)</script> "quoted" & $x^2$ | pipe'


def make_report(name="redge"):
    rows = [{**ROWS[0], "name": name}, *ROWS[1:]]
    return Report(
        title=f"A report on {name}",
        summary=f"About {name}",
        table=Table(COLUMNS, rows, f"note {name}"),
        plots=[
            Plot(f"Loss of {name}", "epoch", "loss", [Curve(name, [1, 2, 3], [3.0, 2.0, 1.5], [0.1, 0.1, 0.2])]),
            Plot("One point", "epoch", "loss", [Curve("reinmax", [1], [3.0])]),
        ],
        grids=[ImageGrid(f"Pictures by {name}", torch.rand(2, 3, 4, 5), f"rows of {name}")],
        facts={f"key {name}": f"value {name}"},
        command=f"catreparam run vae --estimators {name}",
        warning=f"Unfinished: {name}",
    )


class TagCounter(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.open, self.attributes = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in ("meta", "img", "link", "br", "wbr"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def parse(page):
    parser = TagCounter()
    parser.feed(page)
    assert parser.open == []
    return parser


def test_csv_and_jsonl_keep_full_precision_and_missing_values():
    rows = list(csv.DictReader(io.StringIO(to_csv(make_report()))))
    assert float(rows[0]["loss"]) == 101.23456
    assert rows[1]["loss_se"] == rows[2]["loss"] == ""
    lines = [json.loads(line) for line in to_jsonl(make_report()).splitlines()]
    assert lines[0] == ROWS[0]
    assert lines[2]["loss"] is None


def test_markdown_shows_rounded_values_with_their_standard_errors():
    text = to_markdown(make_report())
    assert "| redge     | 101.23 ± 0.12 |     3 |" in text
    assert "| reinmax   |        102.50 |     1 |" in text
    assert "| never ran |             – |     0 |" in text


def test_a_column_without_a_value_is_left_out_of_its_part_alone():
    columns = [Column("name", "name"), Column("one", "one", ".0f"), Column("two", "two", ".0f")]
    rows = [
        {"name": "a", "group": "first", "one": 1.0, "two": None},
        {"name": "b", "group": "second", "one": 2.0, "two": 0.0},
    ]
    parts = dict(Table(columns, rows, group="group").parts())
    assert [[column.key for column in part.columns] for part in parts.values()] == [
        ["name", "one"],
        ["name", "one", "two"],
    ]
    assert [column.key for column in Table(columns, rows[:1]).parts()[0][1].columns] == ["name", "one"]


def test_a_pipe_cannot_break_a_markdown_table():
    row = next(line for line in to_markdown(make_report(NASTY)).splitlines() if line.startswith("| <script>"))
    assert len(re.findall(r"(?<!\\)\|", row)) == 4


def test_the_page_is_balanced_html_with_the_table_first():
    page = to_html(make_report())
    tags = parse(page).tags
    assert tags.index("table") < tags.index("svg") < tags.index("img")
    assert tags.count("svg") == 2
    assert "width=device-width" in page


def test_the_page_marks_the_lowest_value():
    assert re.findall(r'<td class="best">([^<]*)</td>', to_html(make_report())) == ["101.23 ± 0.12"]


def test_the_page_loads_nothing_from_anywhere_and_runs_no_script():
    parser = parse(to_html(make_report(NASTY)))
    assert "script" not in parser.tags
    sources = [value for name, value in parser.attributes if name in ("src", "href", "xlink:href")]
    assert all(value.startswith(("data:", "#")) for value in sources)


def test_text_from_outside_is_escaped_everywhere_on_the_page():
    page = to_html(make_report(NASTY))
    assert "<script>" not in page
    assert page.count("&lt;script&gt;") >= 9
    parse(page)


def test_plots_have_axis_labels_and_a_legend_and_unique_ids():
    page = to_html(make_report())
    svg = page[page.index("<svg") : page.index("</svg>")]
    assert all(f">{text}</text>" in svg for text in ("epoch", "loss", "redge"))
    ids = re.findall(r' id="([^"]*)"', page)
    assert len(ids) == len(set(ids))


def test_a_report_of_only_a_table_is_a_whole_page():
    tags = parse(to_html(Report("t", "s", Table(COLUMNS, [])))).tags
    assert "svg" not in tags
    assert "img" not in tags


def test_write_report_leaves_the_four_files_and_no_other(tmp_path):
    write_report(make_report(), tmp_path / "run")
    names = sorted(path.name for path in (tmp_path / "run").iterdir())
    assert names == ["report.html", "table.csv", "table.jsonl", "table.md"]


def test_a_failed_write_keeps_the_earlier_file_and_leaves_no_debris(tmp_path, monkeypatch):
    write_atomically(tmp_path / "file", "earlier")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomically(tmp_path / "file", "later")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "earlier"


MAIN = ["straight_through", "gumbel_softmax", "gumbel_rao", "reinmax", "redge", "exact_redge", "rloo", "reinmax_rloo"]


def drawn(curves, **settings):
    plot = Plot("t", "step", "loss (nats)", curves, **settings)
    return plot_to_svg(plot, [curve.label for curve in curves])


def test_an_estimator_has_one_colour_on_every_page():
    assert len({colour_of(name) for name in MAIN}) == len(MAIN)
    for name in ESTIMATORS:
        colour = colour_of(name)
        for label in (f"{name}:t1=0.5,num_steps=2", f"{name} (compiled)", f"{name}, seed 0"):
            assert colour_of(label) == colour
        for others in ([], ["one", "two", "three"]):
            assert colour in drawn([Curve(label, [1, 2], [2.0, 1.0]) for label in [*others, name]])


def test_settings_of_one_estimator_differ_by_their_line():
    svg = drawn([Curve(label, [1, 2], [2.0, 1.0]) for label in ("redge", "redge:t1=0.9", "redge:t1=0.7")])
    lines = set(re.findall(rf"stroke-dasharray: ([^;]*);[^>]*stroke: {colour_of('redge')}", svg))
    assert len(lines) == 2  # and a solid one


def test_points_have_bars_and_the_chosen_one_a_star():
    plain = drawn([Curve("redge", [1.0], [2.0]), Curve("reinmax", [2.0], [3.0])], log_x=True, log_y=True)
    bars = {"error": [0.5], "x_error": [0.3]}
    svg = drawn([Curve("redge", [1.0], [2.0], **bars), Curve("reinmax", [2.0], [3.0], chosen=True)], log_x=True)
    assert svg.count("LineCollection") == 2 or svg.count("<path") > plain.count("<path")
    assert svg != plain


def test_marks_are_lines_and_a_whole_plot_is_not_cut():
    curve = Curve("redge", range(8), [100.0, *[1.0 + i for i in range(7)]])
    cut, whole = drawn([curve]), drawn([curve], whole=True)
    assert ">100</text>" not in cut
    assert ">100</text>" in whole
    assert drawn([curve], marks=[2, 4]).count("stroke-dasharray") == cut.count("stroke-dasharray") + 2


def test_the_page_and_its_plots_follow_dark_mode():
    page = to_html(make_report())
    assert "prefers-color-scheme: dark" in page
    style = page[page.index("<style>") : page.index("</style>")]
    assert not re.search(r"background: #(?!0f172a)", style)  # colours are variables; code is dark in both
    svg = drawn([Curve("redge", [1, 2], [2.0, 1.0])])
    assert "fill: #ffffff" not in svg
