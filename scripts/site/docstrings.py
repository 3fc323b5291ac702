"""griffe extension: docstrings as this project writes them, made Markdown for the API pages.

`Bias:  text` becomes a list entry, a doctest a code block, and characters that Markdown or HTML would eat are escaped.
"""

import re
from typing import Any

from griffe import Extension, Object

LABEL = re.compile(r"^(Estimates|By|Bias|Cost|Raises|Reference|References|Source|Departs|Note|Errors|Memory):\s+(.*)$")


class Docstrings(Extension):
    """Rewrites every docstring before it is rendered."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Called by griffe once for every module, class, function and attribute."""
        if obj.docstring is not None:
            obj.docstring.value = to_markdown(obj.docstring.value)


def to_markdown(docstring: str) -> str:
    """The Markdown of a docstring."""
    lines: list[str] = []
    in_doctest, in_list = False, False
    for line in docstring.splitlines():
        label = LABEL.match(line)
        if line.lstrip().startswith(">>>") and not in_doctest:
            lines += ["", "```pycon"]
            in_doctest, in_list = True, False
        elif in_doctest and not line.strip():
            lines.append("```")
            in_doctest = False
        if in_doctest:
            lines.append(line.strip() if not line.startswith(">>>") else line)
        elif label:
            lines += ([] if in_list else [""]) + [f"- **{label[1]}:** {escape(label[2])}"]
            in_list = True
        elif in_list and line.startswith("  "):
            lines.append("  " + escape(line.strip()))
        else:
            if in_list and line.strip():
                lines.append("")
            in_list = in_list and not line.strip()
            lines.append(escape(line))
    return "\n".join([*lines, "```"] if in_doctest else lines)


def escape(line: str) -> str:
    """The line with <, * and _ escaped outside `code`; addresses stay as they are, between angle brackets."""
    parts = re.split(r"(`[^`]*`|https?://[^\s,;]*[^\s,;.])", line)
    return "".join(
        part if part.startswith("`") else f"<{part}>" if part.startswith("http") else _escape_text(part)
        for part in parts
    )


def _escape_text(text: str) -> str:
    return re.sub(r"([*_\[\]])", r"\\\1", text.replace("<", "&lt;"))
