"""`catreparam tune training` and `tune_training`: bad arguments and modules are one clear line, the folder is sure."""

import itertools

import pytest

from catreparam import make_estimator, tune_training
from catreparam.cli import main
from catreparam.experiments.runs import folder as folders

MODULE = """
from pathlib import Path

def good(estimator, learning_rate=1.0):
    Path("began").touch()
    for step in range(9):
        yield learning_rate * len(estimator.name) / (1 + step)
"""
RAISED = {
    "RuntimeError": "raise RuntimeError('boom')",
    "KeyError": "{}['boom']",
    "AssertionError": "assert False, 'boom'",
    "NotImplementedError": "raise NotImplementedError('boom')",
    "ValueError": "raise ValueError('line one\\nboom')",
    "FileNotFoundError": "open('/no/boom')",
    "NameError": "boom",
    "ModuleNotFoundError": "import no_such_module_boom",
    "StopIteration": "raise StopIteration('boom')",
}
counter = itertools.count()


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes a module into the working folder under a name that was never imported."""
    monkeypatch.chdir(tmp_path)

    def write(text):
        name = f"trained_{next(counter)}"
        (tmp_path / f"{name}.py").write_text(text)
        return name

    return write


def said_of(words, capsys, code=2):
    """The one line of standard error that ends a command, and its standard output."""
    assert main(["tune", "training", *words]) == code
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if line.startswith("catreparam: ")]
    assert len(lines) == 1
    assert "Traceback" not in err
    return lines[0], out


@pytest.mark.parametrize("before", [0, 2])
@pytest.mark.parametrize("kind", RAISED)
def test_an_exception_of_the_training_is_one_line_that_names_the_setting(kind, before, module, capsys):
    name = module(f"def train(estimator):\n    yield from [1.0] * {before}\n    {RAISED[kind]}\n    yield\n")
    said, _ = said_of(["--train", f"{name}:train", "--estimators", "redge:t1=0.6", "--first", "3"], capsys)
    assert "train failed with redge:t1=0.6: " in said
    assert kind in said
    assert ("boom" in said) or kind == "StopIteration"
    assert "pip install" not in said


@pytest.mark.parametrize("kind", [*RAISED, "SyntaxError"])
def test_an_exception_at_import_is_one_line_that_names_the_module(kind, module, capsys):
    name = module(RAISED.get(kind, "def f(:  # boom"))
    said, _ = said_of(["--train", f"{name}:train"], capsys)
    assert f"train '{name}:train': cannot import '{name}' ({kind}: " in said
    assert "pip install" not in said


@pytest.mark.parametrize("spec", [":", ":f", "m:", "m", "m.train"])
def test_what_is_not_module_and_function_is_told_the_form(spec, capsys):
    assert (
        f"train '{spec}': give a module and a function of it as module:function"
        in said_of(["--train", spec], capsys)[0]
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--lr 1 1", "learning_rates must be different values, got [1.0, 1.0]"),
        ("--estimators redge redge", "redge' is listed twice"),
        ("--estimators redge redge:t1=0.7", "redge:t1=0.7 is listed twice; leave one out"),
        ("--estimators redge redge:t1=0.5,num_steps=4", "redge:t1=0.5,num_steps=4 is the same as redge:t1=0.5"),
        ("--max-seconds inf", "max_seconds must be greater than 0 and finite, got inf"),
    ],
)
def test_bad_options_are_one_line(words, message, module, capsys, tmp_path):
    assert message in said_of(["--train", f"{module(MODULE)}:good", *words.split()], capsys)[0]
    assert not (tmp_path / "began").exists()


@pytest.mark.parametrize("place", ["file", "file/under", "/proc/none/here", "bad\udcff", "closed"])
def test_a_folder_that_cannot_be_written_is_told_before_the_race(place, module, capsys, tmp_path, monkeypatch):
    words = ["--train", f"{module(MODULE)}:good", "--folder", place]
    (tmp_path / "file").write_text("mine")
    if place == "closed":  # root may write everywhere

        def refuse(dir):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(folders.tempfile, "TemporaryFile", refuse)
    assert "choose another --folder" in said_of(words, capsys)[0]
    assert not (tmp_path / "began").exists()
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("command", ["tune training", "tune"])
def test_a_table_that_cannot_be_written_is_shown(command, module, capsys, monkeypatch):
    def refuse(report, folder):
        raise OSError(28, "No space left on device", str(folder / "table.md"))

    monkeypatch.setattr(folders, "write_report", refuse)
    training = command == "tune training"
    words = ["--train", f"{module(MODULE)}:good"] if training else ["--num-draws", "10", "--objective", "quadratic"]
    assert main([*command.split(), *words, "--folder", "out", "--estimators", "reinmax:temperature=1.0", "rloo"]) == 2
    out, err = capsys.readouterr()
    assert "Recommended" in out
    assert "| rloo " in out
    assert err.splitlines()[-1] == "catreparam: No space left on device (out/table.md)"


STOPPED = """
def train(estimator):
    for step in range(9):
        if (estimator.name, step) == ("{name}", {step}):
            raise KeyboardInterrupt
        yield len(estimator.name)
"""


@pytest.mark.parametrize(("step", "best"), [(0, "exact"), (1, "rloo"), (2, "rloo"), (3, "rloo")])
def test_ctrl_c_shows_and_writes_what_is_known(step, best, module, capsys, tmp_path):
    """All have 2 values in the first round; rloo and exact 4 in the second."""
    words = ["--first", "2", "--reduction", "2", "--estimators", "exact", "lambda_reinmax:weight=0.5", "rloo"]
    train = f"{module(STOPPED.format(name='rloo', step=step))}:train"
    said, out = said_of(["--train", train, "--folder", "out", *words], capsys, code=130)
    assert said == "catreparam: interrupted; the table shows what was known until then"
    assert f"Recommended: {best}\n" in out
    assert "Report: out/report.html" in out
    assert "| rloo" in (tmp_path / "out" / "table.md").read_text()


def test_ctrl_c_before_anything_is_known_shows_nothing(module, capsys):
    train = f"{module(STOPPED.format(name='rloo', step=0))}:train"
    assert said_of(["--train", train, "--estimators", "rloo"], capsys, code=130) == ("catreparam: interrupted", "")


@pytest.mark.parametrize("step", range(4))
def test_ctrl_c_in_python_has_the_result(step):
    exec(STOPPED.format(name="rloo", step=step), module := {})
    names = ["exact", "reinmax", "rloo", "redge"]
    with pytest.raises(KeyboardInterrupt) as error:
        tune_training(module["train"], estimators=names, search_space={}, first=2, reduction=2)
    result = error.value.result  # pyright: ignore[reportAttributeAccessIssue]
    assert result.out_of_time
    assert {row.estimator.name: len(row.values) for row in result.rows}["rloo"] == step
    assert result.recommended.name == ("rloo" if step else "exact")


def untouched(estimator, learning_rate=1.0):
    raise AssertionError("trained")
    yield


@pytest.mark.parametrize(
    ("train", "given", "message"),
    [
        *(
            (untouched, {"learning_rates": bad}, r"learning_rates must be a list such as \[0.1\], got")
            for bad in (0.1, None, 3, "0.1")
        ),
        *(
            (untouched, {"estimators": bad}, r"estimators must be a list such as \['redge'\], got")
            for bad in ("redge", 3)
        ),
        *((bad, {}, f"train must be a generator function, .* got {bad!r}") for bad in (None, "m:f", 3)),
    ],
)
def test_arguments_of_a_wrong_type_are_named(train, given, message):
    with pytest.raises(TypeError, match=message):
        tune_training(train, **given)


relax = make_estimator("relax")


@pytest.mark.parametrize(
    ("estimators", "message"),
    [
        (["redge", "redge"], "redge is listed twice"),
        (["reinforce", "reinforce"], "reinforce is listed twice"),
        ([relax, relax], "is listed twice"),
        ([make_estimator("redge", t1=0.5), "redge"], "redge is the same as redge:t1=0.5"),
        ([make_estimator("redge"), make_estimator("redge", num_steps=4)], "redge:num_steps=4 is the same as redge"),
    ],
)
def test_the_same_setting_twice_is_refused(estimators, message):
    with pytest.raises(ValueError, match=rf"estimators must be different ones: .*{message}.*; leave one out"):
        tune_training(untouched, estimators=["reinmax", *estimators], search_space={})


@pytest.mark.parametrize("rates", [(1, 1.0), (0.1, 0.2, 0.1)])
def test_the_same_learning_rate_twice_is_refused(rates):
    with pytest.raises(ValueError, match="learning_rates must be different values"):
        tune_training(untouched, learning_rates=rates)


def test_two_that_learn_apart_are_two_settings():
    made = [make_estimator("relax"), make_estimator("relax")]
    assert len(tune_training(lambda estimator: iter([1.0]), estimators=made).rows) == 2
