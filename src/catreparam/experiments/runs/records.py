"""What a run folder's JSON means: every line and every config is checked once, when it is read (by pydantic)."""

from typing import Annotated, Any, TypeVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, with_config

Record = dict[str, Any]
T = TypeVar("T")


def line(kind: type[T]) -> type[T]:
    """For the TypedDict of a study's line: no conversions, no NaN; further keys, of other versions, are kept."""
    return with_config(ConfigDict(strict=True, extra="allow", allow_inf_nan=False))(kind)


LARGEST = 1e100  # sums and plots of such numbers do not overflow
Number = Annotated[float, Field(ge=-LARGEST, le=LARGEST, allow_inf_nan=False)]
Seconds = Annotated[float, Field(ge=0.0, le=LARGEST, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, lt=2**63)]
Points = list[tuple[Number, Number]]
Curve = list[Number]

OBJECT: TypeAdapter[Record] = TypeAdapter(Record)


def checked_json(kind: TypeAdapter[T], content: str | bytes) -> T:
    """The value of a JSON text. Raises ValueError saying in one line what is wrong, and where in it."""
    try:
        return kind.validate_json(content, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        shown = "" if first["type"].startswith(("json", "missing")) else f", got {_shortly(first['input'])}"
        raise ValueError(f"{where}: {first['msg']}{shown}" if where else f"{first['msg']}{shown}") from None


def _shortly(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
