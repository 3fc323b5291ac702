"""A report's table as text: Markdown for people, CSV and JSON lines (full precision) for programs."""

import csv
import io
import json

from catreparam.report.content import Report, Table


def to_markdown(report: Report) -> str:
    """Title, summary, and the table with padded cells, so that it also reads well in a terminal."""
    parts = [f"# {_one_line(report.title)}", report.summary]
    for name, part in report.table.parts():
        parts += [f"## {_one_line(name)}" if name else "", table_to_markdown(part)]
    if report.warning:
        parts.insert(1, f"**{report.warning}**")
    if report.table.note:
        parts.append(report.table.note)
    if report.command:
        parts.append(f"Made by `{_one_line(report.command)}`.")
    return "\n\n".join(part for part in parts if part) + "\n"


def table_to_markdown(table: Table) -> str:
    """The table alone, as Markdown."""
    lines = [[column.title for column in table.columns]]
    lines += [[column.show(row) for column in table.columns] for row in table.rows]
    lines = [[_one_line(cell).replace("|", "\\|") for cell in line] for line in lines]
    widths = [max(3, *(len(line[i]) for line in lines)) for i in range(len(table.columns))]
    sides = ["<" if table.is_text(column) else ">" for column in table.columns]
    rule = ["-" * (width - 1) + ("-" if side == "<" else ":") for width, side in zip(widths, sides, strict=True)]
    padded = (
        [f"{cell:{side}{width}}" for cell, side, width in zip(line, sides, widths, strict=True)]
        for line in [lines[0], rule, *lines[1:]]
    )
    return "\n".join(f"| {' | '.join(cells)} |" for cells in padded)


def to_csv(report: Report) -> str:
    """The report's table as CSV, see `table_to_csv`."""
    return table_to_csv(report.table)


def table_to_csv(table: Table) -> str:
    """A table as CSV: one header line of keys, full precision, an empty field for a missing value."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    keys = table.keys()
    writer.writerow(keys)
    writer.writerows([[row.get(key) for key in keys] for row in table.rows])
    return buffer.getvalue()


def to_jsonl(report: Report) -> str:
    """The table as JSON lines, one object per row."""
    keys = report.table.keys()
    return "".join(json.dumps({key: row.get(key) for key in keys}) + "\n" for row in report.table.rows)


def _one_line(text: str) -> str:
    return " ".join(text.split())
