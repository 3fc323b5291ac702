"""A cluster of two nodes on this machine; a sweep on it loses a node, then its driver, and is started again."""

import json
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

from catreparam.experiments.runs.folder import RunFolder

SWEEP = [sys.executable, str(Path(__file__).with_name("sweep_bed.py"))]


class Ray:
    """Two raylets."""

    def __init__(self):
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 1, "include_dashboard": False}
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        self.address = self.cluster.address
        self.node = self.cluster.add_node(num_cpus=1)

    def lose_a_node(self):
        self.cluster.remove_node(self.node, allow_graceful=False)  # kill -9 of its raylet

    def add_a_node(self):
        self.cluster.add_node(num_cpus=1)

    def close(self):
        self.cluster.shutdown()


class Dask:
    """A scheduler and two workers without nannies, as processes."""

    def __init__(self):
        self.processes = []
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "scheduler.json"
            self._start(
                "scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(file)
            )
            wait_until(file.exists, "Dask's scheduler did not start")
            self.address = json.loads(file.read_text())["address"]
        self.add_a_node()
        self.add_a_node()

    def lose_a_node(self):
        self.processes[-1].kill()

    def add_a_node(self):
        self._start("worker", self.address, "--nthreads", "1", "--no-nanny", "--no-dashboard")

    def close(self):
        for process in reversed(self.processes):
            process.kill()
            process.wait()

    def _start(self, *words):
        self.processes.append(subprocess.Popen([sys.executable, "-m", "dask", *words]))


@contextmanager
def started(engine):
    """A cluster of two nodes with one CPU each."""
    cluster = {"ray": Ray, "dask": Dask}[engine]()
    try:
        yield cluster
    finally:
        cluster.close()


def main(engine, folder):
    folder = Path(folder)
    with started(engine) as cluster:
        command = [*SWEEP, str(folder), "0.2", "2", engine, cluster.address]
        driver = subprocess.Popen(command)
        wait_for_lines(folder, 1)
        cluster.lose_a_node()
        folder.with_name("lost-a-node").write_text(str(len(RunFolder(folder).read_metrics())))
        wait_for_lines(folder, 3)
        driver.kill()
        driver.wait()
        folder.with_name("killed-the-driver").write_text(str(len(RunFolder(folder).read_metrics())))
        cluster.add_a_node()
        subprocess.run(command, check=True)


def wait_for_lines(folder, count):
    wait_until(lambda: len(RunFolder(folder).read_metrics()) >= count, f"{folder} did not reach {count} lines")


def wait_until(true, otherwise, seconds=180):
    until = time.monotonic() + seconds
    while not true():
        if time.monotonic() > until:
            raise SystemExit(f"{otherwise} in {seconds} s")
        time.sleep(0.05)


if __name__ == "__main__":
    main(*sys.argv[1:])
