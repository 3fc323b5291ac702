"""`catreparam doctor` says which path runs and why, and survives whatever it finds."""

import pytest
import torch

from catreparam.cli import main
from catreparam.experiments import doctor
from catreparam.kernels import dispatch
from catreparam.kernels.compiled import library
from methods import setting_for


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch):
    monkeypatch.setattr(dispatch, "_wanted", "")


def finding(heading: str, name: str) -> str:
    return dict(doctor.diagnose()[heading])[name]


def test_the_command_prints_every_section(capsys):
    assert main(["doctor"]) == 0
    printed = capsys.readouterr().out
    for heading in ("Paths", "Machine", "Compiled kernels", "Settings", "Packages", "Folders"):
        assert f"{heading}\n" in printed
    assert torch.__version__ in printed


def test_the_path_is_the_one_that_a_call_takes():
    assert finding("Paths", "cpu float32").startswith(dispatch.choose_path(setting_for("redge"), torch.zeros(1, 3)))


def test_a_missing_library_is_named_as_the_reason(monkeypatch):
    monkeypatch.setattr(library, "BUILT", False)
    assert finding("Paths", "cpu float32") == "torch (not compiled: the kernels were not built)"
    assert finding("Compiled kernels", "built").startswith("no")


def test_the_environment_is_named_as_the_reason(monkeypatch):
    monkeypatch.setattr(dispatch, "_wanted", "naive")
    assert finding("Paths", "cpu float32") == "naive (not compiled: CATREPARAM_KERNELS=naive)"


def test_a_wrong_environment_is_reported_not_raised(monkeypatch):
    monkeypatch.setattr(dispatch, "_wanted", "fast")
    assert finding("Paths", "cpu float32").startswith("ERROR: unknown CATREPARAM_KERNELS 'fast'")


def test_a_machine_without_compiler_is_told_what_to_do(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    assert finding("Compiled kernels", "compiler here").startswith("none found")
