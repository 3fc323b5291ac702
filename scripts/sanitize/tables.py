"""Prints a C++ header with the plans that the sanitizers run: every solver on some grids, from plan.py itself."""

import runpy
import sys
from itertools import chain

GRIDS = ((0.0,), (1.0,), (0.0, 1.0), (0.0, 0.3, 0.3, 1.0), (0.2, 0.5, 9.0))


def numbers(rows) -> str:
    return "{" + ", ".join(map(repr, chain.from_iterable(rows))) + "}"


if __name__ == "__main__":
    plan_of = runpy.run_path(sys.argv[1])["plan_of"]
    plans = [plan_of(grid, solver) for solver in ("euler", "ab2", "heun") for grid in GRIDS]
    rows = ",\n".join(f"  {{{numbers(plan.evaluations)}, {numbers(plan.intervals)}}}" for plan in plans)
    print(f"const std::vector<Table> tables = {{\n{rows}}};")
