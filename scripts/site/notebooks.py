"""The notebooks as pages: runs every cell and writes what it printed, returned and drew to docs/notebooks/<name>.md.

    python scripts/site/notebooks.py                # all
    python scripts/site/notebooks.py guidance       # some

The notebooks are committed without outputs (tests/test_notebooks.py runs them); the pages hold the outputs. A figure
made by `plt.subplots(num="NAME")` goes to docs/images/<notebook>-NAME.svg; what it shows is said by its title.
"""

import ast
import contextlib
import io
import json
import re
import runpy
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

ROOT = Path(__file__).parents[2]
pictures = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("pictures.py"))))
PAGES = ROOT / "docs" / "notebooks"


def main() -> None:
    PAGES.mkdir(exist_ok=True)
    names = sys.argv[1:] or [path.stem for path in sorted((ROOT / "notebooks").glob("*.ipynb"))]
    for name in names:
        page_of(name).write_text(run(ROOT / "notebooks" / f"{name}.ipynb"), encoding="utf-8")


def page_of(name: str) -> Path:
    """Where a notebook's page is."""
    return PAGES / f"{name.replace('_', '-')}.md"


def cells(notebook: Path) -> list[tuple[str, str]]:
    """Kind and text of every cell."""
    read = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return [(cell["cell_type"], "".join(cell["source"])) for cell in read]


def run(notebook: Path) -> str:
    """The page of a notebook: its cells, each with what it gave."""
    title, *rest = cells(notebook)
    about = f"*The notebook `notebooks/{notebook.name}`, run by `python scripts/site/notebooks.py {notebook.stem}`.*"
    names: dict[str, Any] = {"__name__": "notebook"}
    parts = [title[1], about]
    with pictures.plt.rc_context(pictures.LOOK), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "FigureCanvasAgg is non-interactive")  # plt.show(), for those who run it
        for kind, text in rest:
            parts += [text] if kind == "markdown" else [f"```py\n{text}\n```", *_given(text, names, notebook)]
    return "\n\n".join(parts) + "\n"


def _given(text: str, names: dict[str, Any], notebook: Path) -> list[str]:
    """What a cell prints, the value of its last line, and its figures, as Markdown."""
    body, last = ast.parse(text), None
    if isinstance(body.body[-1], ast.Expr) and not text.rstrip().endswith(";"):
        last = ast.Expression(body.body.pop().value)  # type: ignore[attr-defined]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(body, notebook.name, "exec"), names)
        value = eval(compile(last, notebook.name, "eval"), names) if last else None
        if value is not None:
            print(repr(value))
    said = printed.getvalue().rstrip()
    shown = [f"```text\n{said}\n```"] if said else []
    for name in re.findall(r'\bnum="([\w-]+)"', text):
        target = pictures.target_of(page_of(notebook.stem), name)
        shown.append(f"![{pictures.save(name, target)}](../images/{target.name})")
    return shown


if __name__ == "__main__":
    main()
