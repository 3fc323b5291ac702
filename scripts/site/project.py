"""mkdocs hook: pages that are made from other places.

A line `<!-- file: NAME -->` becomes that file of the repository, a line `<!-- commands -->` the help of every command,
a line `<!-- example: NAME -->` what that example printed, and its code.
The address of the repository has one place, [project.urls] in pyproject.toml; where it is given, the site links to it.
"""

import contextlib
import io
import os
import re
import textwrap
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
FILE = re.compile(r"^<!-- file: (\S+) -->$", re.M)
EXAMPLE = re.compile(r"^<!-- example: (\w+) -->$", re.M)
COMMANDS = "<!-- commands -->"
WIDTH = 88


def on_config(config: Any) -> Any:
    """Called by mkdocs once: the repository's address, if there is one."""
    if address := repository((ROOT / "pyproject.toml").read_text(encoding="utf-8")):
        config["repo_url"] = address
    return config


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by mkdocs with the text of every page."""
    markdown = FILE.sub(lambda found: from_root((ROOT / found[1]).read_text(encoding="utf-8")), markdown)
    markdown = EXAMPLE.sub(lambda found: example(found[1]), markdown)
    return markdown.replace(COMMANDS, commands()) if COMMANDS in markdown else markdown


def repository(pyproject: str) -> str:
    """The address under [project.urls], or nothing while there is none."""
    found = re.search(r"^\[project\.urls\]\n(?:.+\n)*?Repository = \"(.+)\"$", pyproject, re.M)
    return found[1] if found else ""


def from_root(text: str) -> str:
    """A file of the repository's root as a page: its title goes, links into docs/ stay, others become their names."""
    text = re.sub(r"\A# .*\n", "", text)
    text = re.sub(r"\]\(docs/", "](", text)
    return re.sub(r"\[([^\]]+)\]\((?!https?:|#)(?!\S+\.md)(\S+?)\)", r"\1 (`\2`)", text)


def example(name: str) -> str:
    """What an example printed when the gallery was made (scripts/site/gallery.py), and its code, folded."""
    printed = (ROOT / "docs" / "results" / "examples" / f"{name}.txt").read_text(encoding="utf-8").strip()
    code = (ROOT / "examples" / f"{name}.py").read_text(encoding="utf-8").strip()
    body = textwrap.indent(f"```python\n{code}\n```", "    ")
    return f'{printed}\n\n??? example "The code: `examples/{name}.py`"\n\n{body}'


def commands() -> str:
    """A section for every command that has options, with its help."""
    from catreparam import cli
    from catreparam.experiments import STUDIES

    others = [name for name, _ in cli.described() if name not in STUDIES]
    parts = []
    for words in ("", *dict.fromkeys([*STUDIES, *others])):
        parts.append(f"## catreparam {words}".rstrip() + f"\n\n```text\n{help_of(cli.main, words)}\n```")
    return "\n\n".join(parts)


def help_of(main: Any, words: str) -> str:
    """What a command prints when it is asked for help."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = str(WIDTH)
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
            main([*words.split(), "--help"])
    finally:
        os.environ.pop("COLUMNS")
        if before is not None:
            os.environ["COLUMNS"] = before
    return said.getvalue().strip()
