"""A Ray cluster of two raylets on this machine; a sweep on it loses a node, then its driver, and is started again."""

import subprocess
import sys
import time
from pathlib import Path

from ray.cluster_utils import Cluster

from catreparam.experiments.runs.folder import RunFolder


def main(folder):
    folder = Path(folder)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        node = cluster.add_node(num_cpus=1)
        command = [sys.executable, str(Path(__file__).with_name("sweep_bed.py")), str(folder), "0.3", "2", "ray"]
        driver = subprocess.Popen([*command, cluster.address])
        wait_for_lines(folder, 2)
        cluster.remove_node(node, allow_graceful=False)  # kill -9 of its raylet
        folder.with_name("lost-a-node").write_text(str(len(RunFolder(folder).read_metrics())))
        wait_for_lines(folder, 5)
        driver.kill()
        driver.wait()
        folder.with_name("killed-the-driver").write_text(str(len(RunFolder(folder).read_metrics())))
        cluster.add_node(num_cpus=1)
        subprocess.run([*command, cluster.address], check=True)
    finally:
        cluster.shutdown()


def wait_for_lines(folder, count, seconds=180):
    until = time.monotonic() + seconds
    while len(RunFolder(folder).read_metrics()) < count:
        if time.monotonic() > until:
            raise SystemExit(f"{folder} did not reach {count} lines in {seconds} s")
        time.sleep(0.05)


if __name__ == "__main__":
    main(sys.argv[1])
