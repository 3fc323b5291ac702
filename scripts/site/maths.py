"""mkdocs hook: turns TeX into MathML when the site is built, so that formulas need neither a script nor a network."""

import html
import re

from latex2mathml.converter import convert

INLINE = re.compile(r'<span class="arithmatex">\\\((.*?)\\\)</span>', re.S)
BLOCK = re.compile(r'<div class="arithmatex">\s*\\\[(.*?)\\\]\s*</div>', re.S)


def on_page_content(content: str, **_: object) -> str:
    """Called by mkdocs with the HTML of every page."""
    content = BLOCK.sub(lambda found: f'<div class="formula">{to_mathml(found[1], "block")}</div>', content)
    return INLINE.sub(lambda found: to_mathml(found[1], "inline"), content)


def to_mathml(tex: str, display: str) -> str:
    """MathML for a formula as it stands in HTML, that is with entities."""
    return convert(html.unescape(tex).strip(), display=display)
