"""What a person sees at a terminal: tables that fit with whole numbers, progress with bar, time left and losses."""

import io
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from catreparam import cli
from catreparam.experiments.runs.progress import bars_on, duration, show_progress
from catreparam.report import Column, Report, Table
from catreparam.report.terminal import fit, print_report, wrap
from catreparam.terminal import is_watched

RELEASED = Path(__file__).parent / "fixtures" / "released_runs"
NAME = "exact_redge:num_noises=2,second_order_weight=1.0,t1=0.5"
COLUMNS = (
    Column("name", "estimator"),
    Column("loss", "test −ELBO, last epoch", ".2f", "half", lowest_is_best=True),
    *(Column(f"n{i}", f"measure number {i}", ".4f") for i in range(9)),
    Column("state", "state", stays=True),
)
ROW = {"name": NAME, "loss": 1234567.891, "half": 12.345, "state": "3 of 20 epochs"} | {
    f"n{i}": i / 7 for i in range(9)
}


class Screen(io.StringIO):
    def isatty(self):
        return True


def seen(capsys, report, width):
    print_report(report, width)
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if len(line) > width and not line.startswith("Report: ")] == []
    return lines


@pytest.mark.parametrize("width", [60, 80, 120, 300])
def test_a_table_fits_with_whole_numbers_and_names_what_is_not_shown(capsys, width):
    table = Table(COLUMNS, [ROW, {**ROW, "name": "redge", "loss": 99.5}], "A note. " * 30)
    lines = seen(capsys, Report("A title", "A summary.", table, warning="Unfinished: one run"), width)
    text = "\n".join(lines)
    columns, widths = fit(table, width)
    assert sum(widths) + 3 * (len(widths) - 1) <= width
    shown = {column.key for column in columns}
    assert {"name", "loss", "state"} <= shown
    assert ("n8" in shown) == (width == 300)
    hidden = " ".join(text.split()).partition("No room for: ")[2]
    for column in COLUMNS:
        if column.key in shown and not table.is_text(column):
            assert all(any(column.show(row) in line for line in lines) for row in table.rows), column.key
        assert (column.title in hidden) == (column.key not in shown)
    assert "A title" in text
    assert "Unfinished: one run" in text
    assert "|" not in text


@pytest.mark.parametrize("width", [12, 24, 30, 56])
def test_words_are_broken_behind_commas_and_colons(width):
    lines = wrap(NAME, width).splitlines()
    assert all(len(line) <= width for line in lines)
    assert "".join(lines) == NAME
    if width >= 24:
        assert all(line[-1] in ",:" for line in lines[:-1])


def test_grouped_empty_and_nasty_tables_are_printed(capsys):
    rows = [{"g": "one", "name": "[bold]x[/bold] | y", "loss": 1.0}, {"g": "two", "name": ":smile:", "loss": None}]
    lines = seen(capsys, Report("t", "s", Table(COLUMNS[:2], rows, group="g")), 80)
    assert {"one", "two"} <= set(lines)
    assert any("[bold]x[/bold] | y" in line for line in lines)
    assert any(":smile:" in line for line in lines)
    assert seen(capsys, Report("t", "s", Table(COLUMNS, [])), 80)


@pytest.mark.parametrize("study", ["vae", "polynomial", "sweep", "guide", "sudoku"])
def test_reports_of_real_runs_fit_80_columns(study, tmp_path, capsys, monkeypatch):
    folder = shutil.copytree(RELEASED / study, tmp_path / study)
    monkeypatch.setattr(cli, "is_watched", lambda stream: True)
    monkeypatch.setenv("COLUMNS", "80")
    assert cli.main(["report", str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == f"Report: {folder / 'report.html'}"
    assert [line for line in lines[:-1] if len(line) > 80] == []
    assert sum(line.startswith("───") for line in lines) >= 1


@pytest.mark.skipif(os.name == "nt", reason="needs a POSIX terminal")
def test_a_real_terminal_gets_a_table_and_a_pipe_markdown(tmp_path):
    import pty

    folder = shutil.copytree(RELEASED / "sudoku", tmp_path / "sudoku")
    command = [sys.executable, "-m", "catreparam.cli", "report", str(folder)]
    environment = {key: value for key, value in os.environ.items() if key != "CI"}
    main, other = pty.openpty()
    process = subprocess.Popen(
        command, stdout=other, stderr=other, env={**environment, "TERM": "xterm", "COLUMNS": "80"}
    )
    os.close(other)
    chunks = []
    while True:
        try:
            chunks.append(os.read(main, 4096))
        except OSError:  # closed
            break
        if not chunks[-1]:
            break
    os.close(main)
    assert process.wait() == 0
    text = re.sub(r"\x1b\[[\d;]*m", "", b"".join(chunks).decode())
    assert "───" in text
    assert "| " not in text
    piped = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    assert "\n| " in piped
    assert "───" not in piped


@pytest.mark.parametrize(
    ("variables", "watched"),
    [
        ({"TERM": "xterm"}, True),
        ({"TERM": "dumb"}, False),
        ({"TERM": "unknown"}, False),
        ({"TERM": "xterm", "CI": "true"}, False),
    ],
)
def test_ci_and_dumb_terminals_are_not_watched(monkeypatch, variables, watched):
    monkeypatch.delenv("CI", raising=False)
    for key, value in variables.items():
        monkeypatch.setenv(key, value)
    assert is_watched(Screen()) == watched
    assert not is_watched(io.StringIO())
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    with show_progress() as progress:
        progress.start("redge", total=2)
        progress.advance("redge", "train 3.00")
        progress.advance("redge", "train 2.00")
    assert ("\x1b" in screen.getvalue()) == watched
    assert watched or screen.getvalue().splitlines()[1] == "redge: 2/2 train 2.00 (0 s left)"


@pytest.mark.parametrize("width", [60, 80, 120])
def test_progress_shows_bar_count_time_left_and_losses(width):
    from rich.console import Console

    screen = io.StringIO()
    note = "train 145.55, validation 150.12"
    with bars_on(Console(file=screen, force_terminal=True, width=width, height=30, color_system=None)) as progress:
        progress.start("runs", total=3, done=1)
        progress.start(f"{NAME}, seed 0", total=20)
        for _ in range(5):
            progress.advance(f"{NAME}, seed 0", note)
        frame = Console(width=width, file=io.StringIO(), color_system=None)
        frame.print(progress.bars.get_renderable())
        lines = [line.rstrip() for line in frame.file.getvalue().splitlines()]
        assert re.fullmatch(r"runs +━+[╸╺]?━* +1/3 -?-?:?-?-? ?left", lines[0])
        assert re.fullmatch(r"exact_redge:num_noises=2\S*( seed 0| …|…)? +━+[╸╺]?━* +5/20 [\d:]+ left", lines[1])
        assert lines[2] == f"  {note}"
        assert all(len(line) <= width for line in lines)
        progress.advance("runs", note)
        progress.advance("runs", note)
    assert f"runs: {note} (0 s)" in screen.getvalue()  # what is done stays as a line


def test_durations_read_well():
    assert [duration(seconds) for seconds in (0.4, 59.6, 3599, 3600)] == [
        "0 s",
        "1 min 0 s",
        "59 min 59 s",
        "1 h 0 min",
    ]
