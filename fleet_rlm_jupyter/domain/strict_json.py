"""JSON as its standard has it: no NaN, no infinities, no halves of characters. What lines of events are made of."""

from __future__ import annotations

import json
import math
from typing import Any, cast

_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def to_json(line: dict[str, Any]) -> str:
    """One line. NaN and infinities become texts, which pydantic reads back where a field is a number."""
    try:
        return _ENCODER.encode(line)
    except ValueError:
        return _ENCODER.encode(_without_odd_numbers(line))


def of_json(line: str | bytes) -> Any:
    """The inverse. Raises ValueError, also for what is nested too deep."""
    try:
        return _DECODER.decode(line if isinstance(line, str) else line.decode())
    except RecursionError as err:
        raise ValueError("an event is not that deep") from err


def encodable(value: object) -> object:
    """`value` with every text in it such that UTF-8 can hold it."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, dict):
        pairs = cast("dict[object, object]", value).items()
        return {encodable(key): encodable(item) for key, item in pairs}
    if isinstance(value, list):
        return [encodable(item) for item in cast("list[object]", value)]
    return value


def _without_odd_numbers(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_odd_numbers(item) for key, item in cast("dict[str, Any]", value).items()}
    if isinstance(value, list):
        return [_without_odd_numbers(item) for item in cast("list[Any]", value)]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)
