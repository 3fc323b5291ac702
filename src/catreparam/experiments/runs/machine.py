"""What a timing depends on: the machine it was taken on."""

import os
import platform
from pathlib import Path

import torch


def describe_machine(device: str = "cpu", jobs: int = 1) -> str:
    """One line: processor (or GPU), cores this process may use, threads of torch, versions.

    With several jobs side by side each computes on one thread.
    """
    if device.startswith("cuda") and torch.cuda.is_available():
        processor = torch.cuda.get_device_name(device)
    else:
        processor = _processor_name()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = (
        f"{jobs} runs side by side on 1 torch thread each" if jobs > 1 else f"{torch.get_num_threads()} torch threads"
    )
    return f"{processor}, {cores} cores, {threads}, torch {torch.__version__}, Python {platform.python_version()}"


def check_device(device: str) -> None:
    """Raises ValueError unless torch knows the device and this machine has it."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = str(error).split("\n")[0]
        raise ValueError(f"device {device!r} cannot be used here ({reason}); leave --device out for the CPU") from error


def _processor_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names and names[0] else platform.processor() or platform.machine() or "unknown processor"
