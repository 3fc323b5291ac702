"""What commands show at a terminal of 80 columns: headers and first columns as they were looked at, numbers whole.

`list` and `list NAME` have no tables; test_cli.py sees to their width.

After a change that is meant, look at the new ones and keep them: CATREPARAM_KEEP=1 pytest tests/test_transcripts.py
"""

import os
import re
from pathlib import Path

import pytest

from catreparam import cli
from catreparam.kernels import dispatch

KEPT = Path(__file__).parent / "fixtures" / "transcripts"
TINY = "--dataset digits8 --num-latents 3 --num-classes 2 --hidden-sizes 8 --batch-size 400 --num-evaluation-samples 1"
COMMANDS = {
    "demo": f"run vae --preset demo --folder run {TINY} --num-epochs 1",
    "tune": "tune --objective quadratic --estimators straight_through reinmax redge --num-draws 30",
    "sudoku": "run sudoku --preset quick --folder run --num-puzzles 1 --num-rounds 2 --num-steps 1 --free-steps 2 "
    "--attempts 1 --restarts 1 --levels easy",
}


def shape(text: str) -> str:
    """Headers of the tables and the names in their first columns, in alphabetical order; numbers are #."""
    lines = [re.sub(r"\s+", " ", line).strip() for line in text.splitlines()]
    shown: list[str] = []
    for place, line in enumerate(lines):
        if line.startswith("──"):
            top, bottom = lines[:place][::-1].index(""), lines[place:].index("")
            names = {re.split(r" [\d–−-]", row)[0] for row in lines[place + 1 : place + bottom]}
            shown += [*lines[place - top : place], "──", *sorted(names), ""]
    return "\n".join(shown)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_at_80_columns_shows_what_was_looked_at(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(cli, "is_watched", lambda stream: True)
    with dispatch.using("naive"):  # the same draws wherever it runs
        assert cli.main(COMMANDS[name].split()) == 0
    text = capsys.readouterr().out
    assert [line for line in text.splitlines() if len(line) > 80] == []
    assert not re.search(r"±\s*\n", text)  # no number goes on in the next line
    if os.environ.get("CATREPARAM_KEEP"):
        KEPT.mkdir(exist_ok=True)
        (KEPT / f"{name}.txt").write_text(shape(text), encoding="utf-8")
    assert shape(text) == (KEPT / f"{name}.txt").read_text(encoding="utf-8")
