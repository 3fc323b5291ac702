"""Runs every transform on every estimator and writes docs/transforms.md: yes, or a no that is explained and expected.

python scripts/transforms/table.py [--only TRANSFORM ...] [--resume] [--output docs/transforms.md]

Each finished column is kept under runs/transforms; --resume does not run those again. Ends with status 1 if anything
fails that no estimator's facts explain, or works although it is said to fail.
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
from recorders import RECORDERS

from catreparam import ESTIMATORS
from catreparam.estimators.facts import facts_of

PROCESSES = {
    "DDP": lambda names: in_two_processes([ddp], names),
    "FSDP": lambda names: in_two_processes([fsdp], names),
    "spawn": lambda names: in_child("spawn", names),
    "fork": lambda names: in_child("fork", names),
}
COLUMNS = [*CHECKS, *RECORDERS, *PROCESSES]
NO_SAMPLER = "takes your objective and gives a loss: there is no sampler to export. Export the model that it trained"
# What the error of an explained failure must say. Explanations stand beside the estimators, as `unsupported`.
ERRORS = {
    "compile": r"autograd\.grad|disable",
    "export": "takes an objective",
    "ONNX": r"takes an objective|NOT_IMPLEMENTED.*Erf",
    "vmap": "relax|carries the losses",
    "func.grad": "relax|carries the losses",
    "checkpoint": "not the plain gradient",
    "jit.trace": "differentiates|carries the losses",
    "make_fx": "differentiates|carries the losses",
    "ONNX, traced": "takes an objective|special_erfcx",
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
            (CHECKS.get(column) or RECORDERS[column])(name)
        except Exception as error:
            errors[name] = f"{type(error).__name__}: {error}"
    return errors


def surprises_in(column: str, errors: dict[str, str], names: list[str] | None = None) -> list[str]:
    """What failed without an explanation, for another reason than the explained one, or did not fail after all."""
    found = []
    for name in ESTIMATORS if names is None else names:
        error, why_not = errors.get(name), unsupported(name).get(column)
        if error is None and why_not is not None:
            found.append(f"{name}, {column}: works, though it is said not to: {why_not}")
        elif error is not None and (why_not is None or not re.search(ERRORS.get(column, ""), error)):
            found.append(f"{name}, {column}: {error[:400]}")
    return found


def unsupported(name: str) -> dict[str, str]:
    """The transforms that an estimator does not bear, and why."""
    facts = facts_of(name)
    no_sampler = dict.fromkeys(("export", "ONNX", "ONNX, traced"), NO_SAMPLER) if facts.takes_objective else {}
    return {**no_sampler, **facts.unsupported}


def table(errors: dict[str, dict[str, str]]) -> str:
    """Markdown, one row an estimator."""
    lines = ["| estimator | " + " | ".join(errors) + " |", "|---|" + ":---:|" * len(errors)]
    notes: dict[str, int] = {}  # every reason once, numbered in the order of the table
    for name in ESTIMATORS:
        reasons = {column: unsupported(name)[column] for column, failed in errors.items() if name in failed}
        numbers = {column: notes.setdefault(why, len(notes) + 1) for column, why in reasons.items()}
        cells = [f"no [{numbers[column]}]" if column in numbers else "yes" for column in errors]
        lines.append(f"| `{name}` | " + " | ".join(cells) + " |")
    texts = [f"[{number}] {why[0].upper()}{why[1:]}." for why, number in notes.items()]
    return "\n".join(lines) + "\n\n" + "\n\n".join(texts) + f"\n\nMade with torch {torch.__version__.split('+')[0]}."


def write(page: Path, text: str) -> None:
    """Puts the table between its two marks."""
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    page.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
