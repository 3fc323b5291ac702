"""Damages the files of run folders in every way that it knows, and checks that each costs one clear error and no data.

python scripts/damage.py [--count N] [--seed S]

For every kind of run (the folders under tests/fixtures/released_runs, and of `run law` and `run gmm`, made first) a
file is damaged, then `catreparam report` reads the folder. Allowed: exit 0, or exit 2 with one line that names the
file; never a traceback, and no other file may change but the report's own.
"""

import argparse
import contextlib
import io
import json
import random
import shutil
import sys
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path

from catreparam.cli import main as catreparam

RELEASED = Path(__file__).resolve().parent.parent / "tests" / "fixtures" / "released_runs"
MADE = {
    "law": "run law --estimators redge --num-steps 1 2 --t1 0.5 --num-draws 200 --num-classes 3 --seeds 0",
    "gmm": "run gmm --estimators reinmax --num-steps 3 --seeds 0 1 --num-observations 4",
}
OWN = ("report.html", "table.jsonl", "settings.json")  # what `report` writes, and tables (.md, .csv)

Damage = tuple[str, bytes]  # in words, and what the file becomes


def folders(root: Path) -> list[Path]:
    """A folder of every kind of run."""
    for name, command in MADE.items():
        with quiet():
            assert catreparam([*command.split(), "--folder", str(root / name)]) == 0
    for path in RELEASED.iterdir():
        if path.is_dir():
            shutil.copytree(path, root / path.name)
    return sorted(root.iterdir())


def damages(path: Path) -> Iterator[Damage]:
    """Every damage of a file: as bytes, and, where it holds JSON, as values of another meaning."""
    content = path.read_bytes()
    yield "emptied", b""
    for part in (1, 3, 10, 30, 60, 90, 99):
        yield f"cut off at {part} %", content[: len(content) * part // 100]
    yield "binary", bytes(range(256))
    yield "not UTF-8", b"\xff\xfe" + content
    if path.suffix == ".json":
        for what, value in values(json.loads(content)):
            yield what, value
    if path.suffix == ".jsonl":
        lines = content.splitlines()
        for place, number in ((0, 1), (-1, len(lines))):
            for what, value in values(json.loads(lines[place])):
                yield f"line {number}: {what}", b"\n".join([*lines[:place], value, *lines[place:][1:]]) + b"\n"
        yield "lines twice", content + content
        yield "lines in reverse", b"\n".join(reversed(lines)) + b"\n"


def values(value: object) -> Iterator[Damage]:
    """JSON texts that are valid and mean something else."""
    for text in ("{}", "null", "[]", "[1]", "3", '"word"', "true", "NaN", "-1e999", "[" * 3000 + "]" * 3000):
        yield f"is {text[:10]}", text.encode()
    for path, old in leaves(value):
        yield f"without {'.'.join(map(str, path))}", json.dumps(changed(value, path, None, drop=True)).encode()
        for new in (None, True, -1, 2**70, 1e308, 0.5, "word", [], {}, [None], {"a": 1}, [[1]], old and [old]):
            if new != old:
                yield f"{'.'.join(map(str, path))} is {new!r:.30}", json.dumps(changed(value, path, new)).encode()


def leaves(value: object, path: tuple[object, ...] = ()) -> Iterator[tuple[tuple[object, ...], object]]:
    """Every place in a JSON value, long lists by their first entry alone."""
    items = value.items() if isinstance(value, dict) else list(enumerate(value))[:1] if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key), inner
        yield from leaves(inner, (*path, key))


def changed(value: object, path: tuple[object, ...], new: object, *, drop: bool = False) -> object:
    """The value with another one at a place."""
    copy = json.loads(json.dumps(value))
    inner = copy
    for key in path[:-1]:
        inner = inner[key]
    if drop:
        del inner[path[-1]]
    else:
        inner[path[-1]] = new
    return copy


@contextlib.contextmanager
def quiet() -> Iterator[tuple[io.StringIO, io.StringIO]]:
    """What is printed inside goes into the two buffers."""
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        yield out, err


def files_of(folder: Path) -> dict[Path, bytes]:
    """All that a report must leave as it is."""
    kept = [path for path in folder.rglob("*") if path.is_file() and path.name not in OWN]
    return {path: path.read_bytes() for path in kept if path.suffix not in (".md", ".csv")}


def problem_with(folder: Path, path: Path, content: bytes) -> str | None:
    """What is wrong with the answer to a damaged file, None if nothing is; the file is put back."""
    whole = path.read_bytes()
    path.write_bytes(content)
    before = files_of(folder)
    try:
        with quiet() as (_, err):
            code = catreparam(["report", str(folder)])
    except BaseException:
        return traceback.format_exc()
    finally:
        after = files_of(folder)
        path.write_bytes(whole)
    said = err.getvalue()
    gone = {name for name, old in before.items() if after.get(name) != old}
    if gone:
        return f"changed {', '.join(map(str, gone))}"
    if code == 0 or (code == 2 and said.count("\n") == 1 and (path.name in said or str(folder) in said)):
        return None
    return f"exit {code}: {said or 'nothing said'}"


def cases(folder: Path) -> list[tuple[Path, str, bytes]]:
    """Every damage to every file of a folder."""
    found = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in OWN]
    kept = [path for path in found if path.suffix in (".json", ".jsonl", ".safetensors", ".txt")]
    return [(path, what, content) for path in kept for what, content in damages(path)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=0, help="so many damages of each folder, chosen by chance; 0: all")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng, made, bad = random.Random(arguments.seed), 0, 0
    with tempfile.TemporaryDirectory() as root:
        for folder in folders(Path(root)):
            found = cases(folder)
            chosen = rng.sample(found, min(len(found), arguments.count)) if arguments.count else found
            for path, what, content in chosen:
                made += 1
                if problem := problem_with(folder, path, content):
                    bad += 1
                    print(f"{folder.name}/{path.name}: {what}\n{problem}")
            print(f"{folder.name}: {len(chosen)} of {len(found)} damages", flush=True)
    print(f"{made} damages, {bad} problems")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
