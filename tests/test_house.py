"""How the code is laid out: what import contracts cannot say. Each message names the place and what to do instead."""

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from catreparam import ESTIMATORS

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "catreparam"
FOLDERS = sorted(folder for folder in (PACKAGE, *PACKAGE.rglob("*/")) if folder.name != "__pycache__")

# Where three estimators or more may be named at once: configs of studies, and what names its own functions.
MAY_NAME_ESTIMATORS = {
    "src/catreparam/estimators/registry.py": "the order in which lists and tables show them; others follow",
    "src/catreparam/jax/__init__.py": "the functions that it defines for JAX, under the same names",
    "src/catreparam/experiments/runs/estimator_specs.py": "what studies compare unless they are told otherwise",
    "scripts/studies.py": "the studies of docs/results",
}
MAY_NAME_ESTIMATORS |= {
    f"src/catreparam/experiments/{name}.py": "defaults and presets of a study"
    for name in ("vae/config", "law/study", "sudoku/config", "guide/config", "guide/antibody/presets")
}


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_kernels_look_nothing_up_among_imported_modules():
    found = [
        f"{named(path)}:{number}"
        for path in sorted((PACKAGE / "kernels").rglob("*.py"))
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if re.search(r"\bimport_module\b|\bsys\.modules\b|__import__", line)
    ]
    assert not found, f"kernels import what is below them; what they need from above is handed down: {found}"


def test_no_modules_import_each_other_in_a_circle():
    """Imports inside functions and under TYPE_CHECKING count."""
    grimp = pytest.importorskip("grimp", reason="comes with import-linter: pip install 'catreparam[dev]'")
    graph = grimp.build_graph("catreparam", exclude_type_checking_imports=False)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    assert len(imports) > 100
    assert circles(imports) == [], "move what both need into a module below them"


def circles(imports: dict[str, set[str]]) -> list[list[str]]:
    """Modules that can reach themselves, grouped by what they reach each other through."""
    reached = {module: reach(imports, module) for module in imports}
    on = {module for module in imports if module in reached[module]}
    groups = {tuple(sorted(other for other in on if other in reached[m] and m in reached[other])) for m in on}
    return sorted(map(list, groups))


def reach(imports: dict[str, set[str]], start: str) -> set[str]:
    """Everything that `start` imports, directly or not."""
    found, left = set(), list(imports[start])
    while left:
        module = left.pop()
        if module not in found:
            found.add(module)
            left += imports.get(module, ())
    return found


def test_a_circle_is_found():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == [["b", "c"]]


def test_experiments_has_a_package_for_every_study_and_no_loose_files():
    loose = {path.name for path in (PACKAGE / "experiments").glob("*.py")} - {"__init__.py", "doctor.py"}
    assert not loose, f"{sorted(loose)}: a study has a package of its own, what several share lives in runs/"


@pytest.mark.parametrize("folder", FOLDERS, ids=named)
def test_every_folder_says_what_lives_there(folder):
    init = folder / "__init__.py"
    if init.exists():
        assert ast.get_docstring(ast.parse(init.read_text(encoding="utf-8"))), f"{named(init)} has no docstring"
    else:
        assert (folder / "README.md").exists(), f"{named(folder)} has no README.md: one line on what lives there"


def test_no_file_holds_a_conflict_that_nobody_resolved():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    texts = [ROOT / name for name in listed if name.endswith((".py", ".md", ".toml", ".yml", ".txt", ".cpp", ".h"))]
    marks = re.compile(r"^(<{7}|>{7}) ", re.MULTILINE)
    assert [named(path) for path in texts if path.exists() and marks.search(path.read_text(encoding="utf-8"))] == []


def test_no_list_of_estimators_outside_the_registry_and_presets():
    found = [
        f"{named(path)}:{line}: {', '.join(names)}"
        for folder in (PACKAGE, ROOT / "scripts")
        for path in sorted(folder.rglob("*.py"))
        if named(path) not in MAY_NAME_ESTIMATORS
        for line, names in lists_of_estimators(path.read_text(encoding="utf-8"))
    ]
    assert not found, "read it from the facts of the estimators (estimators/facts.py) instead:\n" + "\n".join(found)


def test_what_may_name_estimators_still_does():
    for name in MAY_NAME_ESTIMATORS:
        assert list(lists_of_estimators((ROOT / name).read_text(encoding="utf-8"))), f"take {name} off the list"


def lists_of_estimators(code: str) -> Iterator[tuple[int, list[str]]]:
    """Line and names of every tuple, list, set, dict or string of words that names three estimators or more."""
    for node in ast.walk(ast.parse(code)):
        words = [text.partition(":")[0].strip() for text in texts_of(node)]
        names = sorted(set(words) & set(ESTIMATORS))
        if len(names) >= 3:
            yield node.lineno, names


def texts_of(node: ast.AST) -> list[str]:
    """The strings a literal holds; the words of a string that holds nothing but names and their settings."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        words = node.value.split()
        return words if all(re.fullmatch(r"\w+(:\S+)?", word) for word in words) else []
    entries = node.keys if isinstance(node, ast.Dict) else getattr(node, "elts", [])
    return [entry.value for entry in entries if isinstance(entry, ast.Constant) and isinstance(entry.value, str)]


def test_lists_of_estimators_are_found():
    assert list(lists_of_estimators('a = ("redge:t1=0.9", 1, "reinmax", "rloo")\n')) == [
        (1, ["redge", "reinmax", "rloo"])
    ]
    assert list(lists_of_estimators('\nb = {"redge": 1, "reinmax": 2, "rloo": 3}')) == [
        (2, ["redge", "reinmax", "rloo"])
    ]
    assert list(lists_of_estimators('c = "redge:num_steps=4 reinmax rloo"')) == [(1, ["redge", "reinmax", "rloo"])]
    assert list(lists_of_estimators('d = ("redge", "reinmax", "other")\n"of redge, reinmax and rloo"')) == []


def test_how_the_package_is_installed_stands_in_one_place():
    said, package = re.compile(r"install '?catreparam\[|pip install '?\.\["), ROOT / "src" / "catreparam"
    found = [path.name for path in package.rglob("*.py") if said.search(path.read_text("utf-8"))]
    assert found == ["extras.py"]
