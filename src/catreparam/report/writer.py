"""Puts a report into a folder."""

from pathlib import Path

from catreparam.report.content import Report
from catreparam.report.files import write_atomically
from catreparam.report.page import to_html
from catreparam.report.text import to_csv, to_jsonl, to_markdown


def write_report(report: Report, folder: Path) -> None:
    """Writes table.md, table.csv, table.jsonl and report.html, each atomically. Raises OSError when it cannot."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "table.md", to_markdown(report))
    write_atomically(folder / "table.csv", to_csv(report))
    write_atomically(folder / "table.jsonl", to_jsonl(report))
    write_atomically(folder / "report.html", to_html(report))
