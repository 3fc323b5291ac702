"""The size gate of `make lint`: what it catches, and that the repository passes it."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture
def gate():
    spec = importlib.util.spec_from_file_location("size_gate", ROOT / "scripts" / "size_gate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.EXCEPTIONS = {}
    return module


def written(root, name, content):
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return root


def said(gate, root, capsys):
    code = gate.main(root)
    return code, capsys.readouterr().out.splitlines()


LONG_BODY = "class Thing:\n    def make(self):\n" + '        """One.\n\n        Two."""\n' + "        x = 1\n" * 41


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("src/pack/a.py", "x = 1\n" * 301, "src/pack/a.py: 301 lines, the limit is 300: move what can stand alone"),
        ("tests/a.py", "# " + "a" * 119 + "\n", "tests/a.py:1: 121 columns, the limit is 120: break the line"),
        ("src/a.py", '"""' + "a" * 118 + '"""\n', "src/a.py:1: 124 columns, the limit is 120: break the line"),
        ("scripts/a.py", LONG_BODY, "scripts/a.py:Thing.make: 41 lines of body, the limit is 40: give a part of it"),
        ("src/a.cpp", "int x;\n" * 301, "src/a.cpp: 301 lines, the limit is 300: move what can stand alone"),
        ("src/deep/a.h", "\n//" + "a" * 127 + "\n", "src/deep/a.h:2: 129 columns, the limit is 128: break the line"),
    ],
)
def test_what_is_too_large_is_named_with_its_size_limit_and_remedy(gate, tmp_path, capsys, name, content, message):
    code, lines = said(gate, written(tmp_path, name, content), capsys)
    assert code == 1
    (line,) = lines
    assert line.startswith(message)


def test_what_is_at_its_limit_passes(gate, tmp_path, capsys):
    written(tmp_path, "src/a.py", LONG_BODY.replace("        x = 1\n", "", 1))
    written(tmp_path, "src/b.py", "x = 1\n" * 300)
    written(tmp_path, "src/c.py", "#" + "a" * 119 + "\n")
    assert said(gate, tmp_path, capsys) == (0, [])


def test_an_exception_lets_its_place_pass_and_is_refused_once_it_is_not_needed(gate, tmp_path, capsys):
    gate.EXCEPTIONS = {"scripts/a.py:Thing.make": "a table of calls"}
    written(tmp_path, "scripts/a.py", LONG_BODY)
    assert said(gate, tmp_path, capsys) == (0, [])
    written(tmp_path, "scripts/a.py", "x = 1\n")
    code, lines = said(gate, tmp_path, capsys)
    assert code == 1
    assert "take it off EXCEPTIONS" in lines[0]


def test_ten_exceptions_are_too_many(gate, tmp_path, capsys):
    gate.EXCEPTIONS = {f"scripts/a{i}.py:Thing.make": "why" for i in range(10)}
    for i in range(10):
        written(tmp_path, f"scripts/a{i}.py", LONG_BODY)
    code, lines = said(gate, tmp_path, capsys)
    assert code == 1
    assert "10 exceptions, fewer than ten are allowed" in lines[0]


def test_a_function_inside_a_function_counts_for_both(gate, tmp_path, capsys):
    inner = "def outer():\n    def inner():\n" + "        x = 1\n" * 41 + "    return inner\n"
    _, lines = said(gate, written(tmp_path, "src/a.py", inner), capsys)
    assert [line.partition(": ")[0] for line in lines] == ["src/a.py:outer", "src/a.py:outer.inner"]


def test_this_repository_passes():
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "size_gate.py")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
