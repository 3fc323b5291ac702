"""What a report holds: a table first, then facts, plots and pictures. Plain data, no formatting."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from jaxtyping import Float
from torch import Tensor

Value = str | int | float | None


@dataclass(frozen=True)
class Column:
    """A column of a table: `key` names it in files, `title` on the page, `spec` formats its numbers (like ".2f").

    `error_key` names another key of the row that is shown behind the value as "± error". `lowest_is_best` marks the
    smallest value of the column. One that `stays` is shown where others are left out for lack of room.
    """

    key: str
    title: str
    spec: str = ""
    error_key: str = ""
    lowest_is_best: bool = False
    stays: bool = False

    def show(self, row: Mapping[str, Value]) -> str:
        """The cell of this column as text; a missing value is a dash."""
        value = _format(row.get(self.key), self.spec)
        error = row.get(self.error_key) if self.error_key else None
        return value if error is None else f"{value} ± {_format(error, self.spec)}"


@dataclass(frozen=True)
class Table:
    """Rows are mappings from column keys to values; they are shown in the order given.

    A row whose value of "unranked" holds is never marked as the best.

    With `group`, a key of every row, people see one table per value of it, under that value as heading.
    """

    columns: Sequence[Column]
    rows: Sequence[Mapping[str, Value]]
    note: str = ""
    group: str = ""

    def keys(self) -> list[str]:
        """The keys of all values, errors included, in reading order."""
        pairs = [(self.group, ""), *((column.key, column.error_key) for column in self.columns)]
        return [key for pair in pairs for key in pair if key]

    def parts(self) -> list[tuple[str, "Table"]]:
        """Headings and tables as people see them: one without heading unless the table is grouped. A column that has
        no value in a part is left out of it.
        """
        if not self.group:
            return [("", replace(self, columns=self._filled(self.rows)))]
        groups: dict[str, list[Mapping[str, Value]]] = {}
        for row in self.rows:
            groups.setdefault(str(row[self.group]), []).append(row)
        return [(name, Table(self._filled(rows), rows)) for name, rows in groups.items()]

    def _filled(self, rows: Sequence[Mapping[str, Value]]) -> list[Column]:
        """The columns that say something of these rows; the first one stays."""
        first, *others = self.columns
        return [first, *(c for c in others if not rows or any(row.get(c.key) not in (None, "") for row in rows))]

    def is_text(self, column: Column) -> bool:
        """Whether the column holds words; numbers stand on the right."""
        return any(isinstance(row.get(column.key), str) for row in self.rows)

    def best_row(self, column: Column) -> int | None:
        """The index of the row to mark in this column, if any."""
        values = ((row.get(column.key), i) for i, row in enumerate(self.rows) if not row.get("unranked"))
        numbers = [(value, i) for value, i in values if isinstance(value, float | int)]
        return min(numbers)[1] if column.lowest_is_best and len(numbers) > 1 else None


@dataclass(frozen=True)
class Curve:
    """One line of a plot, or its points alone; `error`, when given, is the half-height of a band around y.

    Of points, and of a single one, `error` and `x_error` are drawn as bars. One that is `chosen` is a large star.
    """

    label: str
    x: Sequence[int | float]
    y: Sequence[int | float]
    error: Sequence[int | float] = ()
    points: bool = False
    x_error: Sequence[int | float] = ()
    chosen: bool = False


@dataclass(frozen=True)
class Plot:
    """Curves in one pair of axes. A name up to its colon has the same colour in every plot of every report.

    `marks` are places on the x axis with a line of their own; `whole` shows all values, where else early ones may fall
    outside, so that the differences of the later ones are seen.
    """

    title: str
    x_label: str
    y_label: str
    curves: Sequence[Curve]
    note: str = ""
    log_x: bool = False
    log_y: bool = False
    marks: Sequence[int | float] = ()
    whole: bool = False


@dataclass(frozen=True)
class ImageGrid:
    """Pictures in [0, 1], row by row: grey, or colour with an axis of three channels."""

    title: str
    images: Float[Tensor, "rows columns h w"] | Float[Tensor, "rows columns 3 h w"]
    note: str = ""


@dataclass(frozen=True)
class Report:
    """All there is to say about one run of an experiment. `location` is where its page was written, if it was.

    `appendix` holds further tables by title; they follow the pictures and have files of their own.
    """

    title: str
    summary: str
    table: Table
    plots: Sequence[Plot] = ()
    grids: Sequence[ImageGrid] = ()
    appendix: Mapping[str, Table] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)
    command: str = ""
    warning: str = ""
    location: str = ""


def _format(value: Value, spec: str) -> str:
    if value is None:
        return "–"
    return str(value) if isinstance(value, str) else format(value, spec)
