"""Runs every transform on every estimator and writes docs/transforms.md: yes, or a no that is explained and expected.

python scripts/transforms/table.py [--only TRANSFORM ...] [--resume] [--output docs/transforms.md]

Each finished column is kept under runs/transforms; --resume does not run those again. Ends with status 1 if anything
fails that is not explained in EXCEPTIONS, or works although it is said to fail.
"""

import argparse
import json
import logging
import re
import sys
import time
import warnings
from pathlib import Path

import torch
from checks import CHECKS
from processes import ddp, fsdp, in_child, in_two_processes

from catreparam import ESTIMATORS, takes_objective

PROCESSES = {
    "DDP": lambda names: in_two_processes([ddp], names),
    "FSDP": lambda names: in_two_processes([fsdp], names),
    "spawn": lambda names: in_child("spawn", names),
    "fork": lambda names: in_child("fork", names),
}
COLUMNS = [*CHECKS, *PROCESSES]
SCORE_FUNCTION = [name for name, function in ESTIMATORS.items() if takes_objective(function)]

NOTES = {
    1: "Takes your objective and gives a loss: there is no sampler to export. Export the model that it trained.",
    2: "Differentiates inside its forward pass to learn its control variate. Use `rebar`, or run it outside the "
    "transform.",
    3: "The replay sees the baseline that the first pass has updated: the gradient is unbiased, but not the plain "
    "run's bit for bit. Give a number as `baseline`, or use `rloo`.",
    4: "Carries the losses of its samples to the backward pass. Use `reinmax` or `rloo`, or run it outside the "
    "transform.",
    5: "Works in float64, for which ONNX Runtime has no error function; the export itself succeeds.",
}
# (estimator, transform) -> the note that explains it, and what the error must say
EXCEPTIONS: dict[tuple[str, str], tuple[int, str]] = {
    **{(name, column): (1, "takes an objective") for name in SCORE_FUNCTION for column in ("export", "ONNX")},
    ("transport_redge", "ONNX"): (5, r"NOT_IMPLEMENTED.*Erf"),
    ("relax", "compile"): (2, r"autograd\.grad"),
    ("relax", "vmap"): (2, "relax"),
    ("relax", "func.grad"): (2, "relax"),
    ("reinforce", "checkpoint"): (3, "not the plain gradient"),
    ("reinmax_rloo", "compile"): (4, "disable"),
    ("reinmax_rloo", "vmap"): (4, "carries the losses"),
    ("reinmax_rloo", "func.grad"): (4, "carries the losses"),
}
ROOT = Path(__file__).parents[2]
PAGE, KEPT = ROOT / "docs" / "transforms.md", ROOT / "runs" / "transforms"
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=COLUMNS, help="check these transforms and write nothing")
    parser.add_argument("--resume", action="store_true", help="take finished columns from runs/transforms")
    parser.add_argument("--output", type=Path, default=PAGE, help="the page whose table is replaced")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    errors: dict[str, dict[str, str]] = {}
    for column in arguments.only or COLUMNS:
        begin, kept = time.perf_counter(), KEPT / f"{column}.json"
        if arguments.resume and kept.exists():
            errors[column] = json.loads(kept.read_text(encoding="utf-8"))
        else:
            errors[column] = check_column(column)
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_text(json.dumps(errors[column]), encoding="utf-8")
        failed = ", ".join(errors[column]) or "none"
        print(f"{column}: {time.perf_counter() - begin:.0f} s, no for: {failed}", file=sys.stderr, flush=True)
    surprises = [text for column in errors for text in surprises_in(column, errors[column])]
    print("\n".join(surprises) or table(errors))
    if not surprises and not arguments.only:
        write(arguments.output, table(errors))
    return bool(surprises)


def check_column(column: str, names: list[str] | None = None) -> dict[str, str]:
    """The errors of one transform, by estimator."""
    names = list(ESTIMATORS) if names is None else names
    if column in PROCESSES:
        return PROCESSES[column](names)
    errors = {}
    for name in names:
        try:
            CHECKS[column](name)
        except Exception as error:
            errors[name] = f"{type(error).__name__}: {error}"
    return errors


def surprises_in(column: str, errors: dict[str, str], names: list[str] | None = None) -> list[str]:
    """What failed without an explanation, for another reason than the explained one, or did not fail after all."""
    found = []
    for name in ESTIMATORS if names is None else names:
        error, expected = errors.get(name), EXCEPTIONS.get((name, column))
        if error is None and expected is not None:
            found.append(f"{name}, {column}: works, though note {expected[0]} says that it does not")
        elif error is not None and (expected is None or not re.search(expected[1], error)):
            found.append(f"{name}, {column}: {error[:400]}")
    return found


def table(errors: dict[str, dict[str, str]]) -> str:
    """Markdown, one row an estimator."""
    lines = ["| estimator | " + " | ".join(errors) + " |", "|---|" + ":---:|" * len(errors)]
    for name in ESTIMATORS:
        cells = [
            f"no [{EXCEPTIONS[name, column][0]}]" if name in failed else "yes" for column, failed in errors.items()
        ]
        lines.append(f"| `{name}` | " + " | ".join(cells) + " |")
    notes = [f"[{number}] {text}" for number, text in NOTES.items()]
    return "\n".join(lines) + "\n\n" + "\n\n".join(notes) + f"\n\nMade with torch {torch.__version__.split('+')[0]}."


def write(page: Path, text: str) -> None:
    """Puts the table between its two marks."""
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    page.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
