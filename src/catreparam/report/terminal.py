"""A report for a person at a terminal: the table fitted to its width, numbers whole. Needs rich."""

import re
from collections.abc import Sequence
from typing import Any

from catreparam.report.content import Column, Report, Table

GAP = 3  # between two columns
PIECES = re.compile(r"[^ ,:]*[ ,:]?")  # where the words of a table may be broken
NUMBER = re.compile(r"[-−–.\d][^A-Za-z]*$")  # a cell of numbers, which may not be broken
HEADER_LINES = 3


def print_report(report: Report, width: int = 0) -> None:
    """Prints title, summary, table and note to standard output; columns that do not fit are named below the table.

    width: characters a line; 0: the terminal's.
    """
    from rich.console import Console

    console = Console(width=width or None, markup=False, highlight=False, emoji=False)
    console.print(report.title, style="bold")
    if report.warning:
        console.print(report.warning, style="bold yellow")
    console.print(report.summary, end="\n\n")
    columns, widths = fit(report.table, console.width)  # the same in all parts
    for heading, part in report.table.parts():
        if heading:
            console.print(heading, style="bold")
        console.print(_drawn(part, columns, widths))
        console.print()
    if unseen := [column.title for column in report.table.columns if column not in columns]:
        where = f"{report.location and 'table.md in the folder of the report, or '}the output of this command in a file"
        console.print(f"No room for: {', '.join(unseen)}. To see them: a wider window, {where}.", style="dim")
    if report.table.note:
        console.print(report.table.note, style="dim")
    if report.location:
        console.print(f"Report: {report.location}", soft_wrap=True)


def fit(table: Table, width: int) -> tuple[list[Column], list[int]]:
    """As many columns from the left as fit, those that `stay` in any case, and the width of each.

    Words may be broken into lines, numbers not. The first two columns are kept however narrow it is.
    """
    columns = list(table.columns)
    while len(columns) > 2 and _total([_least(table, column) for column in columns]) > width:
        droppable = [column for column in columns[2:] if not column.stays]
        columns.remove((droppable or columns)[-1])
    widths = [_least(table, column) for column in columns]
    spare = max(0, width - _total(widths))
    for i, column in enumerate(columns):  # words get what is left, from the left
        more = min(spare, _whole(table, column) - widths[i])
        widths[i], spare = widths[i] + more, spare - more
    return columns, widths


def wrap(text: str, width: int) -> str:
    """The text in lines of at most `width`, broken behind a space, comma or colon where that is possible."""
    lines = [""]
    for piece in PIECES.findall(text):
        if len((lines[-1] + piece).rstrip()) > width and lines[-1]:
            lines.append("")
        lines[-1] += piece
        while len(lines[-1].rstrip()) > width:
            lines[-1:] = [lines[-1][:width], lines[-1][width:]]
    return "\n".join(line.rstrip() for line in lines)


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + GAP * (len(widths) - 1)


def _least(table: Table, column: Column) -> int:
    """The width below which a number would be broken, a piece of a word, or the title into too many lines."""
    cells = [column.show(row) for row in table.rows]
    pieces = [p.rstrip() for cell in cells for p in ([cell] if NUMBER.match(cell) else PIECES.findall(cell))]
    width = max(map(len, [*column.title.split(), *pieces]))
    while wrap(column.title, width).count("\n") >= HEADER_LINES:
        width += 1
    return width


def _whole(table: Table, column: Column) -> int:
    return max(map(len, [column.title, *(column.show(row) for row in table.rows)]))


def _drawn(table: Table, columns: Sequence[Column], widths: Sequence[int]) -> Any:
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    drawn = RichTable(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1))
    for column, width in zip(columns, widths, strict=True):
        side = "left" if table.is_text(column) else "right"
        drawn.add_column(Text(wrap(column.title, width)), justify=side, vertical="top", width=width, no_wrap=True)
    best = [table.best_row(column) for column in columns]
    for i, row in enumerate(table.rows):
        cells = [wrap(column.show(row), width) for column, width in zip(columns, widths, strict=True)]
        drawn.add_row(*(Text(cell, "bold green" * (mark == i)) for cell, mark in zip(cells, best, strict=True)))
    return drawn
