"""Checks a built site: links lead somewhere, nothing is loaded from elsewhere, no formula is lost, search finds.

python scripts/site/check.py site
"""

import json
import re
import sys
from collections import Counter
from collections.abc import Iterable
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADS = {("img", "src"), ("script", "src"), ("link", "href"), ("iframe", "src"), ("source", "src")}
# Of HTML, SVG and MathML, as the pages use them; `<p, u>` in a text is a tag too, which a browser hides.
TAGS = frozenset(
    """
    a article aside b blockquote body br button circle clippath code dd defs del desc details div dl dt em
    fieldset figcaption figure footer form g h1 h2 h3 h4 h5 h6 head header hr html iframe image img input kbd
    label li line lineargradient link main map mark mask math menclose meta metadata mfenced mfrac mi
    mlabeledtr mmultiscripts mn mo mover mpadded mphantom mprescripts mroot mrow ms mspace msqrt mstyle msub
    msubsup msup mtable mtd mtext mtr munder munderover nav noscript ol option output p path pattern picture
    polygon polyline pre rdf:rdf rect s script section select small source span stop strong style sub summary
    sup svg symbol table tbody td template text tfoot th thead time title tr tspan u ul use var video wbr
    cc:work dc:date dc:format dc:type dc:creator dc:title cc:agent filter text-path textarea
    """.split()  # noqa: SIM905 (reads as a text)
)
# What newcomers look for, and the page that search must find by it
FOUND_BY = {
    "install": "install.html",
    "citation": "references.html",
    "FAQ": "faq.html",
    "troubleshooting": "faq.html",
    "playground": "playground.html",
    "callback": "guides/guidance.html",
    "logging": "integrations.html",
}
NOT_LOADED = {"canonical", "prev", "next", "sitemap"}  # values of <link rel=…> that name a page and load nothing


def main() -> None:
    problems = find_problems(Path(sys.argv[1] if len(sys.argv) > 1 else "site"))
    print("\n".join(problems) if problems else "site: every link leads somewhere, nothing is loaded from elsewhere")
    sys.exit(bool(problems))


def find_problems(site: Path) -> list[str]:
    """One line for every dead link, foreign resource and unrendered formula in the HTML files below `site`."""
    pages = {path.resolve(): _read(path) for path in sorted(site.rglob("*.html"))}
    if not pages:
        return [f"{site}: no HTML files; build the site first"]
    problems = []
    for path, page in pages.items():
        name = path.relative_to(site.resolve())
        problems += [f"{name}: <{tag}> is no tag; write &lt; or a formula" for tag in sorted(page.tags - TAGS)]
        if page.unrendered:
            problems.append(f"{name}: a formula was left as TeX")
        for tag, attribute, target in page.links:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                if (tag, attribute) in LOADS and parts.scheme != "data":
                    problems.append(f"{name}: loads {target}")
                continue
            if name.name == "404.html":  # served from any depth: its links are absolute
                continue
            file = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not file.exists():
                problems.append(f"{name}: dead link {target}")
            elif file in pages and not _has_anchor(pages[file], unquote(parts.fragment)):
                problems.append(f"{name}: no anchor {target}")
    return (
        problems
        + problems_with_titles(page for path, page in pages.items() if path.name != "report.html")
        + problems_with_search(site)
    )


def problems_with_titles(pages: Iterable["_Page"]) -> list[str]:
    """Titles that several pages have: in a list of tabs or results nobody can tell them apart."""
    titles = Counter(page.title.strip() for page in pages if page.title)
    return [f"{count} pages have the title {title!r}" for title, count in titles.items() if count > 1]


def problems_with_search(site: Path) -> list[str]:
    """Words of FOUND_BY that are not on their page, as the search index has it."""
    index = site / "search" / "search_index.json"
    if not index.exists():
        return []
    texts: dict[str, str] = {}
    for entry in json.loads(index.read_text(encoding="utf-8"))["docs"]:
        page = entry["location"].partition("#")[0]
        texts[page] = texts.get(page, "") + f" {entry['title']} {entry['text']}"
    missing = [(w, page) for w, page in FOUND_BY.items() if not re.search(rf"(?i)\b{w}", texts.get(page, ""))]
    return [f"search: {word!r} does not find {page}" for word, page in missing]


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.links: list[tuple[str, str, str]] = []
        self.anchors: set[str] = set()
        self.tags: set[str] = set()
        self.unrendered = False
        self.title, self._in_title = "", False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self._in_title = tag == "title" and "svg" not in self.tags
        values = {key: value or "" for key, value in attrs}
        self.anchors |= {values[key] for key in ("id", "name") if key in values}
        self.unrendered |= "arithmatex" in values.get("class", "")
        if tag == "link" and values.get("rel") in NOT_LOADED:
            return
        self.links += [(tag, key, values[key]) for key in ("href", "src") if values.get(key)]

    def handle_data(self, data: str) -> None:
        self.title += data if self._in_title else ""

    def handle_endtag(self, tag: str) -> None:
        self._in_title = False


def _has_anchor(page: _Page, fragment: str) -> bool:
    # k=v is a state of the playground, not a place
    return not fragment or fragment in page.anchors or "=" in fragment or fragment == "__skip"


def _read(path: Path) -> _Page:
    page = _Page()
    page.feed(path.read_text(encoding="utf-8"))
    return page


if __name__ == "__main__":
    main()
