"""A result as people read it: one Report as JSON lines, CSV, Markdown, one page. Imports nothing of the package."""

from catreparam.report.content import Column, Curve, ImageGrid, Plot, Report, Table
from catreparam.report.page import to_html
from catreparam.report.text import to_csv, to_jsonl, to_markdown
from catreparam.report.writer import sweep_parts, write_atomically, write_report

__all__ = [
    "Column",
    "Curve",
    "ImageGrid",
    "Plot",
    "Report",
    "Table",
    "sweep_parts",
    "to_csv",
    "to_html",
    "to_jsonl",
    "to_markdown",
    "write_atomically",
    "write_report",
]
