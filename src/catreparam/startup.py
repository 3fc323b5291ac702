"""What must be decided before torch starts its threads: how many there are, and how they wait. Imports no torch.

`catreparam` as a command decides here; a program that imports the package decides for itself.
"""

import math
import os
import sys
from collections.abc import MutableMapping
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
CHOSEN = "CATREPARAM_CHOSE"  # the variables that we have set, for `doctor` and for processes that we start


def is_command(arguments: list[str]) -> bool:
    """Whether this process is `catreparam …` or `python -m catreparam.cli …`.

    >>> is_command(["/usr/bin/catreparam", "list"]), is_command(["train.py"])
    (True, False)
    """
    running = getattr(sys, "orig_argv", arguments)
    return Path(arguments[0] if arguments else "").stem == "catreparam" or "catreparam.cli" in running


def choose_threads(environment: MutableMapping[str, str]) -> None:
    """Sets what the user has not set: idle threads sleep, and there are no more of them than processors for us.

    Threads that spin while they wait are a little faster on an idle machine, and 14 times slower on a busy one. The
    threads are torch's default where no quota of a container is below the processors.
    """
    chosen = {} if "OMP_WAIT_POLICY" in environment else {"OMP_WAIT_POLICY": "PASSIVE"}
    most = quota()
    if "OMP_NUM_THREADS" not in environment and most is not None and most < processors():
        chosen["OMP_NUM_THREADS"] = str(most)
    environment.update(chosen)
    if chosen:
        environment[CHOSEN] = " ".join(chosen)


def processors() -> int:
    """How many processors this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def quota(root: Path = CGROUPS) -> int | None:
    """How many processors' time the container may use, rounded up; None without a limit."""
    try:
        if (root / "cpu.max").exists():
            allowed, period = (root / "cpu.max").read_text(encoding="ascii").split()
        else:
            allowed, period = (
                (root / "cpu" / f"cpu.cfs_{name}_us").read_text(encoding="ascii") for name in ("quota", "period")
            )
        return max(1, math.ceil(int(allowed) / int(period))) if int(allowed) > 0 else None
    except (OSError, ValueError, ZeroDivisionError):  # no such files, or "max": no limit
        return None


if is_command(sys.argv):
    choose_threads(os.environ)
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # torch's profiler, which `bench` uses, would write every start
