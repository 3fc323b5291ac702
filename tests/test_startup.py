"""The command line decides how many threads torch gets and how they wait; a program that imports us decides itself."""

import os
import subprocess
import sys

import pytest

from catreparam import startup


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, None),
        ({"cpu.max": "max 100000"}, None),
        ({"cpu.max": "150000 100000"}, 2),
        ({"cpu.max": "10000 100000"}, 1),
        ({"cpu.max": "nonsense"}, None),
        ({"cpu.max": "100 0"}, None),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ({"cpu/cpu.cfs_quota_us": "400000", "cpu/cpu.cfs_period_us": "100000"}, 4),
    ],
)
def test_the_quota_of_a_container_is_seen(tmp_path, files, expected):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert startup.quota(tmp_path) == expected


OWN = {"OMP_WAIT_POLICY": "active", "OMP_NUM_THREADS": "7"}


@pytest.mark.parametrize(
    ("given", "quota", "expected"),
    [
        ({}, None, {"OMP_WAIT_POLICY": "PASSIVE", startup.CHOSEN: "OMP_WAIT_POLICY"}),
        (
            {},
            2,
            {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "2", startup.CHOSEN: "OMP_WAIT_POLICY OMP_NUM_THREADS"},
        ),
        ({}, 64, {"OMP_WAIT_POLICY": "PASSIVE", startup.CHOSEN: "OMP_WAIT_POLICY"}),
        (
            {"OMP_WAIT_POLICY": "active", "OMP_NUM_THREADS": "7"},
            2,
            {"OMP_WAIT_POLICY": "active", "OMP_NUM_THREADS": "7"},
        ),
    ],
)
def test_what_the_user_has_set_stays(monkeypatch, given, quota, expected):
    monkeypatch.setattr(startup, "quota", lambda: quota)
    monkeypatch.setattr(startup, "processors", lambda: 8)
    environment = dict(given)
    startup.choose_threads(environment)
    assert environment == expected


def test_commands_choose_before_torch_starts_and_programs_do_not():
    environment = {key: value for key, value in os.environ.items() if not key.startswith("OMP_")}
    environment.pop(startup.CHOSEN, None)
    doctor = subprocess.run(
        [sys.executable, "-m", "catreparam.cli", "doctor"], env=environment, capture_output=True, text=True, check=True
    )
    assert "OMP_WAIT_POLICY=PASSIVE" in doctor.stdout
    code = "import catreparam, os; print(os.environ.get('OMP_WAIT_POLICY'))"
    program = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert program.stdout.strip() == "None"
