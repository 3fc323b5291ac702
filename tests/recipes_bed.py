"""Follows docs/guides/extending.md in a copy of the repository: every block with a file name, word for word."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
GUIDE = ROOT / "docs" / "guides" / "extending.md"
COPIED = ("src", "docs", "scripts", "tests", "mkdocs.yml", "pyproject.toml", "conftest.py", "README.md")
BLOCK = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.M | re.S)


def copied(folder: Path) -> Path:
    """A copy of what the recipes touch and what is run afterwards."""
    ignored = shutil.ignore_patterns("__pycache__", "results", ".pytest_cache", "*.part")
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=ignored)
        else:
            shutil.copy(source, folder / name)
    return folder


def recipes() -> dict[str, list[tuple[str, str, str]]]:
    """The blocks (language, file name or "", text) of every section of the guide."""
    sections = re.split(r"^## (.*)\n", GUIDE.read_text(encoding="utf-8"), flags=re.M)[1:]
    return {title: BLOCK.findall(text) for title, text in zip(sections[::2], sections[1::2], strict=True)}


def follow(title: str, root: Path) -> None:
    """Writes the files of a recipe and makes its changes."""
    for language, name, text in recipes()[title]:
        if not name:
            continue
        path = root / name
        if language == "diff":
            path.write_text(changed(path.read_text(encoding="utf-8"), text, name), encoding="utf-8")
        else:
            assert not path.exists(), f"{name} exists already"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")


def changed(content: str, diff: str, name: str) -> str:
    """The content with a diff applied. Its context must stand there exactly once."""
    lines = diff.splitlines()
    old = "".join(f"{line[1:]}\n" for line in lines if line[:1] != "+")
    new = "".join(f"{line[1:]}\n" for line in lines if line[:1] != "-")
    assert content.count(old) == 1, f"{name}: the recipe's context stands there {content.count(old)} times:\n{old}"
    return content.replace(old, new)


def commands(title: str) -> list[str]:
    """The shell blocks of a recipe."""
    return [text for language, _, text in recipes()[title] if language == "sh"]


def run(root: Path, command: str) -> subprocess.CompletedProcess[str]:
    """A shell command in the copy, which `catreparam`, `python` and imports come from."""
    shell = f'set -e\npython() {{ "{sys.executable}" "$@"; }}\ncatreparam() {{ python -m catreparam.cli "$@"; }}\n'
    # The tools of the environment that runs the tests, activated or not
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)))
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(root / "src"), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        ["bash", "-c", shell + command], cwd=root, env=environment, capture_output=True, text=True, check=False
    )
