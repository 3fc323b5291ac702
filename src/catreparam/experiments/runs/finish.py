"""How every study ends: its report is written beside what it was made from, and returned with its place."""

import dataclasses
from pathlib import Path

from catreparam.experiments.runs.folder import RunFolder, writing
from catreparam.report import Report, write_report


def finish(folder: RunFolder, report: Report, *, unfinished: str = "") -> Report:
    """Writes the report into the run folder and returns it, with its location.

    `unfinished` says what is missing, as in "2 of 6 runs"; people are then told that the same command resumes. Raises
    WriteFailed.
    """
    if unfinished:
        report = dataclasses.replace(report, warning=f"Unfinished: {unfinished}. The same command resumes.")
    with writing(folder.path / "report.html"):
        return write_into(folder.path, report)


def write_into(folder: Path | None, report: Report) -> Report:
    """Writes the report into any folder and returns it, with its location; without a folder nothing is written."""
    if folder is None:
        return report
    write_report(report, folder)
    return dataclasses.replace(report, location=str(folder / "report.html"))
