"""griffe extension: docstrings as this project writes them, made Markdown for the API pages.

`Bias:  text` becomes a list entry, a block of `Parameters:` or `Fields:` a list with the types of the code, a doctest a
code block, and characters that Markdown or HTML would eat are escaped.
"""

import re
from typing import Any

from griffe import Class, Extension, Object

LABEL = re.compile(r"^(Estimates|By|Bias|Cost|Raises|Reference|References|Source|Departs|Note|Errors|Memory):\s+(.*)$")
BLOCK = re.compile(r"^(Parameters|Fields):\n((?:[ ]{4}.*(?:\n|$))+)", re.M)
ENTRY = re.compile(r"^    (\w+): (.*(?:\n {8}.*)*)", re.M)


class Docstrings(Extension):
    """Rewrites every docstring before it is rendered."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Called by griffe once for every module, class, function and attribute."""
        if obj.docstring is not None:
            obj.docstring.value = to_markdown(obj.docstring.value, types_of(obj) if isinstance(obj, Class) else {})


def entries(docstring: str) -> dict[str, str]:
    """What the block of a class says of each parameter or field, by name; the docstring without indentation."""
    found = BLOCK.search(docstring)
    return {name: " ".join(text.split()) for name, text in ENTRY.findall(found[2])} if found else {}


def types_of(cls: Class) -> dict[str, str]:
    """Type and default of every parameter of the constructor and of every field, as they are written."""
    types = {name: _declared(member.annotation, member.value) for name, member in cls.attributes.items()}
    made_by = cls.all_members.get("__init__")
    for parameter in made_by.parameters if made_by is not None else ():  # pyright: ignore[reportAttributeAccessIssue]
        types[parameter.name.lstrip("*")] = _declared(parameter.annotation, parameter.default)
    return types


def to_markdown(docstring: str, types: dict[str, str] | None = None) -> str:
    """The Markdown of a docstring; `types` stand beside the names of its block."""
    lines: list[str] = []
    in_doctest, in_list = False, False
    blocks = BLOCK.split(docstring)
    if len(blocks) > 1:
        before, kind, _, after = blocks[:4]
        listed = [_entry(name, text, (types or {}).get(name, "")) for name, text in entries(docstring).items()]
        return "\n".join([to_markdown(before), f"**{kind}**", "", *listed, "", to_markdown(after)])
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


def _entry(name: str, text: str, declared: str) -> str:
    return f"- **`{name}`**{f' (`{declared}`)' if declared else ''}: {escape(text)}"


def _declared(annotation: Any, default: Any) -> str:
    annotation, default = str(annotation or ""), str(default or "")
    return " = ".join(part for part in (annotation, default) if part)


def escape(line: str) -> str:
    """The line with <, * and _ escaped outside `code`; addresses stay as they are, between angle brackets."""
    parts = re.split(r"(`[^`]*`|https?://[^\s,;]*[^\s,;.])", line)
    return "".join(
        part if part.startswith("`") else f"<{part}>" if part.startswith("http") else _escape_text(part)
        for part in parts
    )


def _escape_text(text: str) -> str:
    return re.sub(r"([*_\[\]])", r"\\\1", text.replace("<", "&lt;"))
