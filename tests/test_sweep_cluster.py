"""Sweeps on Ray and on Dask: clusters of two nodes on this machine, and local ones that a sweep starts."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from catreparam.cli import main
from catreparam.extras import install
from test_sweep import BED, assert_whole

pytest.importorskip("ray")
pytest.importorskip("distributed")

ENGINES = ["ray", "dask"]


def run(folder: Path, *words: str) -> None:
    """The program, in that working folder; everything that it started has ended some seconds after it."""
    log = folder / "log"
    with log.open("w") as file, ray_files() as env:
        done = subprocess.run(
            [sys.executable, *words], cwd=folder, env=env, stdout=file, stderr=file, timeout=400, check=False
        )
    assert done.returncode == 0, log.read_text()[-6000:]
    until = time.monotonic() + 60
    while left := processes_in(folder):
        assert time.monotonic() < until, f"left behind: {left}"
        time.sleep(0.2)


@contextmanager
def ray_files() -> Iterator[dict[str, str]]:
    """An environment in which Ray's files, and its note of the newest cluster, are this program's own.

    A short path: the names of Ray's sockets have at most 107 characters.
    """
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as files:
        yield os.environ | {"RAY_TMPDIR": files}


def processes_in(folder: Path) -> list[str]:
    found = []
    for process in psutil.process_iter(["cwd", "name", "status"]):
        alive = process.info["status"] != psutil.STATUS_ZOMBIE
        if alive and process.info["cwd"] and Path(process.info["cwd"]).is_relative_to(folder):
            found.append(f"{process.pid} {process.info['name']}")
    return found


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_a_sweep_on_two_nodes_survives_a_lost_node_and_a_killed_driver(engine, tmp_path):
    run(tmp_path, str(BED.with_name("cluster_bed.py")), engine, str(tmp_path / "run"))
    assert_whole(tmp_path / "run", trials=6)
    assert int((tmp_path / "lost-a-node").read_text()) < int((tmp_path / "killed-the-driver").read_text()) < 6


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_without_an_address_a_local_cluster_is_started(engine, tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")  # somebody else's, known to Ray: not joined
    run(tmp_path, str(BED), str(tmp_path / "run"), "0", "1", engine)
    assert_whole(tmp_path / "run", trials=6)


@pytest.mark.parametrize(("engine", "package"), [("ray", "ray"), ("dask", "distributed")])
def test_an_engine_that_is_not_installed_is_named_with_its_extra(engine, package, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, package, None)
    assert main(["sweep", "polynomial", "--engine", engine, "--folder", str(tmp_path / "run")]) == 2
    assert f"the engine {engine} needs the package {package}: {install('distributed')}" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
