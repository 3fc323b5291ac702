"""Puts a report into a folder, by files that are complete or absent."""

import os
import platform
import re
import tempfile
from pathlib import Path

from catreparam.report.content import Report
from catreparam.report.page import to_html
from catreparam.report.text import table_to_csv, table_to_markdown, to_csv, to_jsonl, to_markdown


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replaces the file by `content`; on any failure the earlier file stays as it was."""
    data = content.encode() if isinstance(content, str) else content
    writer = f"{os.getpid()}@{platform.node()}"
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}-{writer}-", suffix=".part", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.umask(mask := os.umask(0))  # the only way to read it
        os.chmod(temporary, 0o666 & ~mask)  # mkstemp makes files that only their owner can read
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def sweep_parts(folder: Path) -> None:
    """Removes what killed processes of this machine have left half written by `write_atomically`, at any depth."""
    for path in folder.rglob(".*.part"):
        found = re.search(r"-(\d+)@(.*)-[^-]*\.part$", path.name)
        if not found or (found[2] == platform.node() and not _runs(int(found[1]))):
            path.unlink(missing_ok=True)


def _runs(process: int) -> bool:
    if os.name == "nt":  # where this signal would end it
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def write_report(report: Report, folder: Path) -> None:
    """Writes table.md, table.csv, table.jsonl and report.html, each atomically. Raises OSError when it cannot.

    Every table of the appendix gets a .md and a .csv file named after its title.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "table.md", to_markdown(report))
    write_atomically(folder / "table.csv", to_csv(report))
    write_atomically(folder / "table.jsonl", to_jsonl(report))
    for title, table in report.appendix.items():
        name = "-".join(re.findall("[a-z0-9]+", title.lower()))
        write_atomically(
            folder / f"{name}.md", f"# {title}\n\n{table_to_markdown(table)}\n\n{table.note}".rstrip() + "\n"
        )
        write_atomically(folder / f"{name}.csv", table_to_csv(table))
    write_atomically(folder / "report.html", to_html(report))
