"""Size limits on every source file, part of `make lint`: a file, a function and a line that one can read at a glance.

A function's length is that of its body: from the first statement after the docstring to the last line.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

FOLDERS = ("src", "tests", "scripts", "examples", "benchmarks")
FILE_LINES, BODY_LINES = 300, 40
COLUMNS = {".py": 120, ".h": 128, ".cpp": 128}

# What may be longer, and why: fewer than ten. Keys are PATH or PATH:FUNCTION.
EXCEPTIONS: dict[str, str] = {}


class Finding(NamedTuple):
    """Something over its limit."""

    place: str  # PATH, PATH:FUNCTION or PATH:LINE
    size: int
    limit: int
    unit: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.place}: {self.size} {self.unit}, the limit is {self.limit}: {self.remedy}"


def main(root: Path) -> int:
    """Prints what is too large and what no longer needs its exception; the exit code says whether there is any."""
    found = [finding for path in sources(root) for finding in measure(path, path.relative_to(root).as_posix())]
    over = {finding.place for finding in found}
    said = [str(finding) for finding in found if finding.place not in EXCEPTIONS]
    said += [f"{place}: within the limits now; take it off EXCEPTIONS" for place in EXCEPTIONS if place not in over]
    if len(EXCEPTIONS) >= 10:
        said.append(f"{len(EXCEPTIONS)} exceptions, fewer than ten are allowed: shorten one of them")
    print("\n".join(said), end="\n" if said else "")
    return int(bool(said))


def sources(root: Path) -> list[Path]:
    """Every file that has limits."""
    files = [path for folder in FOLDERS for path in (root / folder).rglob("*") if path.suffix in COLUMNS]
    return sorted([*files, *root.glob("*.py")])


def measure(path: Path, name: str) -> Iterator[Finding]:
    """What is over its limit in a file. `name` is what messages call it."""
    text = path.read_text(encoding="utf-8")
    lines, columns = text.splitlines(), COLUMNS[path.suffix]
    if len(lines) > FILE_LINES:
        yield Finding(name, len(lines), FILE_LINES, "lines", "move what can stand alone into a file of its own")
    for number, line in enumerate(lines, start=1):
        if len(line) > columns:
            yield Finding(f"{name}:{number}", len(line), columns, "columns", "break the line")
    if path.suffix == ".py":
        for function, size in bodies(ast.parse(text)):
            if size > BODY_LINES:
                remedy = "give a part of it a name and a function of its own"
                yield Finding(f"{name}:{function}", size, BODY_LINES, "lines of body", remedy)


def bodies(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, int]]:
    """Every function with the lines of its body; those inside classes and functions are called outer.inner."""
    for node in ast.iter_child_nodes(tree):
        name = prefix
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            name = f"{prefix}.{node.name}" if prefix else node.name
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node, clean=False) is not None else node.body
            yield name, (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0
        yield from bodies(node, name)


if __name__ == "__main__":
    sys.exit(main(Path(__file__).parent.parent))
