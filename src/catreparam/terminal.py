"""Standard output and error that no character and no closed pipe can break; and how a command says what went wrong."""

import codecs
import contextlib
import os
import re
import sys
from typing import Any, TextIO

# What the characters of our texts become where the encoding lacks them (cp1252, latin-1, ASCII); others become "?".
ASCII = str.maketrans(
    {"−": "-", "–": "-", "—": "-", "…": "...", "±": "+-", "×": "x", "·": "-", "≤": "<=", "≥": ">=", "→": "->"}
    | {"‖": "||", "’": "'", "‘": "'", "“": '"', "”": '"', "─": "-", "│": "|", "━": "-", "╸": "-", "╺": "-", "•": "*"}
    | dict.fromkeys("╭╮╰╯", "+")
)


def prepare() -> None:
    """Makes standard output and error safe to print to: every character, also where they are closed or full.

    The command line calls it once.
    """
    codecs.register_error("catreparam.ascii", _in_ascii)
    while (handle := os.open(os.devnull, os.O_RDWR)) <= 2:  # closed: a file opened later would take their place
        pass
    os.close(handle)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 (lives as long as the process)
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="catreparam.ascii")
    if not isinstance(sys.stderr, Unbreakable):
        sys.stderr = Unbreakable(sys.stderr)  # type: ignore[assignment]


def message_of(error: Exception) -> str:
    """What went wrong, without errno."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror + (f" ({error.filename})" if error.filename else "")
    return str(error)


def out_of_memory(error: BaseException) -> str:
    """What to do where Python or torch ran out of memory; "" where the error is another.

    >>> out_of_memory(RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8000000000 bytes."))
    'out of memory: 8.0 GB were asked for at once; lower a size, a batch or a number of samples'
    """
    said = str(error)
    signs = ("DefaultCPUAllocator", "Storage size calculation overflowed")
    ours = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    if not ours and not (isinstance(error, RuntimeError) and any(sign in said for sign in signs)):
        return ""
    found = re.search(r"allocate (\d+) bytes", said)
    asked = f": {int(found[1]) / 1e9:,.1f} GB were asked for at once" if found else ""
    return f"out of memory{asked}; lower a size, a batch or a number of samples"


def wants_traceback() -> bool:
    """Whether an error should be shown as Python shows it."""
    return os.environ.get("CATREPARAM_TRACEBACK", "") not in ("", "0")


def fail(message: str, code: int = 2) -> int:
    """Says it in one line on standard error; returns the exit code."""
    print(f"catreparam: {' '.join(message.split())}", file=sys.stderr)
    return code


def is_watched(stream: TextIO) -> bool:
    """Whether a person reads the stream at a terminal that can move its cursor; not in CI, whatever it pretends."""
    return stream.isatty() and os.environ.get("TERM") not in ("dumb", "unknown") and not os.environ.get("CI")


class Unbreakable:
    """A text stream that goes on when nobody reads it or its disk is full: progress must not end the work."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Writes what can be written; returns the length of the text."""
        with contextlib.suppress(OSError, ValueError):  # ValueError: closed
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flushes if that is possible."""
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()


def _in_ascii(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end].translate(ASCII)
    return text.encode("ascii", "replace").decode("ascii"), error.end
