"""A report as one HTML page that needs nothing else: style, plots and pictures are inside, and no script."""

from html import escape
from importlib.resources import files

from catreparam.report.content import Column, ImageGrid, Plot, Report, Table
from catreparam.report.figures import grid_to_png, plot_to_svg


def to_html(report: Report) -> str:
    """The whole page. Every string of the report is escaped: names and paths are shown, never interpreted."""
    labels = list(dict.fromkeys(curve.label for plot in report.plots for curve in plot.curves))
    body = [
        f"<header><h1>{escape(report.title)}</h1><p>{escape(report.summary)}</p></header>",
        f'<p class="warning">{escape(report.warning)}</p>' if report.warning else "",
        _tables(report.table),
        _section("Curves", "plots", [_figure(plot, plot_to_svg(plot, labels)) for plot in report.plots]),
        _section("Pictures", "grids", [_figure(grid, _image(grid)) for grid in report.grids]),
        *(f"<h2>{escape(title)}</h2>{_tables(table)}" for title, table in report.appendix.items()),
        _facts(report),
    ]
    style = files("catreparam.report").joinpath("page.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(report.title)}</title>\n<style>\n{style}</style></head>\n"
        "<body><main>\n" + "\n".join(part for part in body if part) + "\n</main></body></html>\n"
    )


def _tables(table: Table) -> str:
    parts = [(f"<h2>{escape(name)}</h2>" if name else "") + _table(part) for name, part in table.parts()]
    return f'<section class="card">{"".join(parts)}{_note(table.note)}</section>'


def _table(table: Table) -> str:
    head = "".join(
        f'<th scope="col"{" class=text" * table.is_text(column)}>{escape(column.title)}</th>'
        for column in table.columns
    )
    best = [table.best_row(column) for column in table.columns]
    rows = "".join(
        "<tr>" + "".join(_cell(column, row, i == best[j], j) for j, column in enumerate(table.columns)) + "</tr>\n"
        for i, row in enumerate(table.rows)
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead>\n<tbody>\n{rows}</tbody></table></div>'


def _cell(column: Column, row, is_best: bool, index: int) -> str:
    text = escape(column.show(row))
    if index == 0:
        return f'<th scope="row">{_breakable(text)}</th>'
    classes = "best" if is_best else "text" if isinstance(row.get(column.key), str) else ""
    return f'<td class="{classes}">{text}</td>' if classes else f"<td>{text}</td>"


def _breakable(text: str) -> str:
    """Lets a long name like redge:num_steps=4,t1=0.5 break between its parts rather than inside a word."""
    for mark in (":", ",", "_"):
        text = text.replace(mark, f"{mark}<wbr>")
    return text


def _section(title: str, name: str, parts: list[str]) -> str:
    return f'<section><h2>{title}</h2><div class="{name}">{"".join(parts)}</div></section>' if parts else ""


def _image(grid: ImageGrid) -> str:
    return f'<img src="{grid_to_png(grid)}" alt="{escape(grid.title)}">'


def _figure(of: Plot | ImageGrid, inside: str) -> str:
    wide = isinstance(of, ImageGrid) and of.images.shape[1] == 1 and of.images.shape[-1] > 3 * of.images.shape[-2]
    kind = "card wide" if wide else "card"  # a strip of its own row
    return f'<figure class="{kind}"><figcaption>{escape(of.title)}</figcaption>{inside}{_note(of.note)}</figure>'


def _note(note: str) -> str:
    return f'<p class="note">{escape(note)}</p>' if note else ""


def _facts(report: Report) -> str:
    rows = "".join(f"<dt>{escape(key)}</dt><dd>{escape(value)}</dd>" for key, value in report.facts.items())
    command = f"<pre><code>{escape(report.command)}</code></pre>" if report.command else ""
    if not rows and not command:
        return ""
    return f'<section><h2>How this was made</h2><div class="card">{command}<dl>{rows}</dl></div></section>'
