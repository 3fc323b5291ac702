"""In CI a test is skipped for a listed reason only, and every reason is printed."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).parent.parent / "conftest.py"


@pytest.mark.parametrize(
    ("skips", "ci", "options", "code"),
    [
        ('pytest.skip("no CUDA device on this machine")', "true", [], 0),
        ('pytest.importorskip("no_such_package")', "true", ["-p", "xdist", "-n", "1"], 1),
        ('pytest.importorskip("no_such_package")', "", [], 0),
    ],
    ids=["listed", "unlisted", "not in CI"],
)
def test_a_skip_for_an_unlisted_reason_fails_in_ci(skips, ci, options, code, tmp_path):
    shutil.copy(CONFTEST, tmp_path / "conftest.py")
    lines = ["import pytest", "def test_runs():", "    pass", "def test_skips():", f"    {skips}"]
    (tmp_path / "test_bed.py").write_text("\n".join(lines))
    environment = {**os.environ, "CI": ci}
    command = [sys.executable, "-m", "pytest", "-q", "--rootdir", str(tmp_path), *options, str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    assert ("1 skipped: " in done.stdout) == bool(ci)
    assert ("CI may not skip" in done.stdout) == bool(code)
    assert not ci or "no CUDA device" in done.stdout or "'no_such_package'" in done.stdout
