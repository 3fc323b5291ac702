"""Forward and backward of the samplers alone, every peer and every path interleaved in one process.

python benchmarks/speed.py [--out FOLDER] [--rounds N] [--threads N] [--shapes NAME ...] [--only PART ...]

Peers that are not installed are left out and named. A path whose parity check is red is not timed.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import random
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("KINETO_LOG_LEVEL", "5")  # the memory profile is taken silently

import torch
from parity_check import parity_error
from peers import Sampler, find_samplers
from tables import markdown

SHAPES: dict[str, tuple[int, ...]] = {
    "200 x 48 x 2": (200, 48, 2),
    "100 x 30 x 10": (100, 30, 10),
    "256 x 128 x 2": (256, 128, 2),
    "64 x 100": (64, 100),
    "1 x 576 x 16384": (1, 576, 16384),
    "1024 x 32 x 32": (1024, 32, 32),
    "64 x 81 x 9": (64, 81, 9),
}
LARGE = 4_000_000  # elements: fewer rounds above


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/speed"))
    parser.add_argument(
        "--rounds", type=int, default=60, help="timings of each sampler and shape (a sixth of it if large)"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--shapes", nargs="*", default=list(SHAPES), choices=list(SHAPES))
    parser.add_argument("--only", nargs="*", default=[""], help="samplers whose name contains one of these")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    samplers, missing = find_samplers()
    red = {name: error for name, error in parity_error(samplers).items() if error > 1e-4}
    wanted = [sampler for sampler in samplers if any(part in sampler.name for part in options.only)]
    timed = [sampler for sampler in wanted if sampler.name not in red]
    result = {
        "machine": machine(options.threads),
        "missing": missing,
        "red": red,
        "rows": [row for shape in options.shapes for row in measure(shape, timed, options.rounds)],
    }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "speed.json").write_text(json.dumps(result, indent=1))
    (options.out / "speed.md").write_text(markdown(result))
    print(markdown(result))


def measure(shape: str, samplers: list[Sampler], rounds: int) -> list[dict]:
    """Seconds of one forward, one forward and backward, and the peak of extra memory, for every sampler."""
    logits = torch.randn(SHAPES[shape], requires_grad=True)
    upstream = torch.randn(SHAPES[shape])
    rounds = rounds if logits.numel() < LARGE else max(rounds // 6, 3)

    def forward(sampler: Sampler) -> None:
        with sampler.environment():
            sampler.draw(logits)

    def both(sampler: Sampler) -> None:
        with sampler.environment():
            sampler.draw(logits).backward(upstream)
        logits.grad = None

    times: dict[str, dict[str, list[float]]] = {sampler.name: {"forward": [], "both": []} for sampler in samplers}
    for index in range(rounds + 2):  # the first two warm up
        for sampler in random.sample(samplers, len(samplers)):  # nobody always follows the same neighbour
            for name, run in (("forward", forward), ("both", both)):
                seconds = clock(lambda run=run, sampler=sampler: run(sampler))
                if index >= 2:
                    times[sampler.name][name].append(seconds)
    return [
        {
            "shape": shape,
            "sampler": sampler.name,
            "forward": spread(times[sampler.name]["forward"]),
            "both": spread(times[sampler.name]["both"]),
            "peak_tensors": peak_bytes(lambda sampler=sampler: both(sampler)) / (4 * logits.numel()),
        }
        for sampler in samplers
    ]


def clock(run: Callable[[], None]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def spread(seconds: list[float]) -> dict[str, float]:
    """Median, quartiles and minimum."""
    values = torch.tensor(seconds, dtype=torch.float64)
    low, median, high = (values.quantile(q).item() for q in (0.25, 0.5, 0.75))
    return {"median": median, "low": low, "high": high, "least": values.min().item()}


def peak_bytes(run: Callable[[], None]) -> float:
    """The most memory that torch held at once during a call, beyond what it held before."""
    gc.collect()
    with torch.profiler.profile(profile_memory=True) as profile:
        run()
    held, peak = 0, 0
    for event in profile.profiler.kineto_results.events():  # allocations in the order in which they happened
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return float(peak)


def machine(threads: int) -> dict[str, object]:
    from catreparam.kernels import library

    return {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": threads,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "instruction_set": library.instruction_set(),
        "load": os.getloadavg()[0],
    }


if __name__ == "__main__":
    main()
