"""Checks the API pages of a built site: every public name has one place, every class shows parameters and fields.

python scripts/site/api.py site
"""

import re
import sys
from pathlib import Path

PUBLIC = Path(__file__).parents[2] / "tests" / "public_api.txt"
HEADING = re.compile(r'<h\d id="(catreparam\.[\w.]+)"')


def main() -> None:
    problems = find_problems(Path(sys.argv[1] if len(sys.argv) > 1 else "site"), PUBLIC.read_text(encoding="utf-8"))
    print(
        "\n".join(problems) if problems else "site: every public name has one place, every class shows its parameters"
    )
    sys.exit(bool(problems))


def find_problems(site: Path, public: str) -> list[str]:
    """One line for every public name without a place of its own, and every class that hides a parameter."""
    sections: list[tuple[str, str]] = []
    for page in sorted((site / "api").glob("*.html")):
        parts = HEADING.split(page.read_text(encoding="utf-8"))
        sections += zip(parts[1::2], parts[2::2], strict=True)
    problems = []
    for module, name, arguments in re.findall(r"^(\S+?)\.(\w+)(?:\((.*)\))?$", public, re.M):
        top = module.split(".")[1] if "." in module else ""
        places = [text for path, text in sections if path.split(".")[-1] == name and _is_in(path, top)]
        if not places and top == "jax":  # the same object as in catreparam
            continue
        if len(places) != 1:
            problems.append(f"{module}.{name} has {len(places)} places on the API pages, not one")
        elif name[0].isupper() and arguments not in ("*args, **kwargs", ""):
            names = re.findall(r"(?:^|, )(?:key )?\**(\w+)", re.sub(r"=\([^)]*\)", "", arguments))
            hidden = [key for key in names if f"<strong><code>{key}</code></strong>" not in places[0]]
            problems += [f"{module}.{name} does not show {key}" for key in hidden]
    return problems


def _is_in(path: str, top: str) -> bool:
    inside = path.split(".")[1]
    return inside == top if top else inside not in ("distributions", "guidance", "jax", "masked_diffusion", "nn")


if __name__ == "__main__":
    main()
