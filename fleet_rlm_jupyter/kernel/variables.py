"""Kernel variables become a context: one text, or texts by name. What cannot travel is refused with the way out.

Tables and arrays become CSV, lists of objects JSON lines, other objects JSON: what a person would save to a file, and
what generated code and the offline recipes read without further libraries.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import decimal
import difflib
import enum
import inspect
import io
import json
import types
import uuid
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any, cast

from pydantic import BaseModel

from fleet_rlm_jupyter.domain.context import Context, Manifest, Value
from fleet_rlm_jupyter.domain.errors import BadRequest
from fleet_rlm_jupyter.engine.contexts import read_context
from fleet_rlm_jupyter.settings import ContextSettings
from fleet_rlm_jupyter.verbs.frames import is_plain


def context_of(names: list[str], known: Mapping[str, object], limits: ContextSettings) -> Context:
    """The context made of the variables `names` of `known`: the one variable's, or name → text of several.

    Raises BadRequest for a name that is not there and a value that cannot travel, BadPath for an unreadable path.
    """
    values = values_of(names, known)
    if len(values) == 1:
        ((name, value),) = values.items()
        return as_context(value, limits, name)
    read = Manifest()
    return _bounded(_texts(values, limits, read), limits, read)


def values_of(names: list[str], known: Mapping[str, object]) -> dict[str, object]:
    """The variables `names` of `known`. Raises BadRequest for a name that is not there."""
    return {name: _find(name, known) for name in names}


def as_context(value: object, limits: ContextSettings, name: str = "context") -> Context:
    """`value` as a text or texts by name. Raises like `context_of`."""
    read = Manifest()
    made = _bounded(_value(value, limits, name, read), limits, read)
    if "pandas.DataFrame" in _kinds(value):
        thing: Any = value
        made.table = thing.copy()  # the next cell may change it while the question is still being answered
    return made


def _value(value: object, limits: ContextSettings, name: str, read: Manifest) -> Value:
    if isinstance(value, PurePath):
        found = read_context([Path(value)], limits)
        read.add(found.manifest)
        return found.value
    if isinstance(value, Mapping):
        items = cast("Mapping[object, object]", value)
        if items and all(isinstance(key, str) and _is_document(item) for key, item in items.items()):
            return _texts({str(key): item for key, item in items.items()}, limits, read, f"{name}[{{!r}}]")
    return _as_text(value, name)


def _texts(values: Mapping[str, object], limits: ContextSettings, read: Manifest, called: str = "{}") -> dict[str, str]:
    texts: dict[str, str] = {}
    for name, value in values.items():
        made = _value(value, limits, called.format(name), read)
        texts.update({name: made} if isinstance(made, str) else {f"{name}/{key}": text for key, text in made.items()})
    return texts


def _find(name: str, known: Mapping[str, object]) -> object:
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, [other for other in known if not other.startswith("_")], 1)
    hint = f"did you mean {near[0]}?" if near else "run the cell that defines it first, or check the spelling"
    raise BadRequest(f"there is no variable {name!r}", hint)


def _bounded(value: Value, limits: ContextSettings, read: Manifest) -> Context:
    """With what was seen while paths among the variables were read."""
    made = Context.of(value)
    if made.manifest.bytes > limits.max_mb * 1_000_000:
        raise BadRequest(
            f"the context has {made.manifest.bytes / 1e6:,.0f} MB, more than {limits.max_mb}",
            "raise context.max_mb or pass a part of it",
        )
    read.files, read.bytes = made.manifest.files, made.manifest.bytes
    return Context(value, read)


def _is_document(value: object) -> bool:
    return isinstance(value, str | bytes | bytearray | PurePath) or _table(value) is not None


def _as_text(value: object, name: str) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bytes | bytearray | memoryview):
        return _decoded(bytes(value), name)
    if isinstance(value, bool | int | float | complex):
        return str(value)
    table = _table(value)
    if table is not None:
        return table
    if isinstance(value, list | tuple | set | frozenset | deque):
        return _lines(list(cast("list[object]", value)), name)
    return json.dumps(_json(value, name), ensure_ascii=False, indent=1)


def _decoded(raw: bytes, name: str) -> str:
    if b"\0" not in raw[:8192]:
        with contextlib.suppress(UnicodeDecodeError):
            return raw.decode("utf-8-sig")
    raise BadRequest(
        f"{name} cannot be a context: its bytes are not UTF-8 text",
        f"decode it first, as in text = {name}.decode('latin-1'), or extract its text",
    )


def _table(value: object) -> str | None:
    """pandas, polars and NumPy by name: none of them is imported for a value that is not theirs."""
    thing: Any = value
    kinds = _kinds(value)
    if "pandas.DataFrame" in kinds:
        return thing.to_csv(index=not is_plain(thing.index))
    if kinds & {"pandas.Series", "pandas.Index"}:
        series = thing.to_series() if "pandas.Index" in kinds else thing
        return series.to_frame(name=series.name if series.name is not None else "value").to_csv(
            index=not is_plain(series.index)
        )
    if "polars.DataFrame" in kinds:
        return thing.write_csv()
    if "polars.Series" in kinds:
        return thing.to_frame().write_csv()
    return _array(thing) if "numpy.ndarray" in kinds else None


def _kinds(value: object) -> set[str]:
    return {f"{base.__module__.split('.')[0]}.{base.__name__}" for base in type(value).__mro__}


def _array(array: Any) -> str:
    """A value a line, a row a line, or nested JSON from three dimensions on."""
    if array.dtype.names:
        rows = [",".join(array.dtype.names), *(_row(row) for row in array.reshape(-1).tolist())]
        return "\n".join(rows) + "\n"
    if array.dtype.hasobject or array.ndim == 0 or array.ndim > 2:
        return json.dumps(_json(array.tolist(), "array"), ensure_ascii=False)
    return "\n".join(_row(row) if array.ndim == 2 else str(row) for row in array.tolist()) + "\n"


def _row(values: Any) -> str:
    return ",".join(str(value) for value in values)


def _lines(items: list[object], name: str) -> str:
    """A text a line where each is one line, else one JSON value a line."""
    if all(isinstance(item, str) and item.splitlines() in ([item], []) for item in items):
        return "".join(f"{item}\n" for item in items)
    made = (_json(item, f"{name}[{place}]") for place, item in enumerate(items))
    return "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in made)


def _json(value: object, name: str, level: int = 0) -> Any:
    """`value` as JSON; scalars of NumPy, dates, sets, dataclasses and pydantic models become what they say."""
    if value is None and level == 0:
        raise BadRequest(
            f"{name} cannot be a context: it is None", "the cell that should have filled it returned nothing"
        )
    if value is None or isinstance(value, bool | int | float | str):
        return value.value if isinstance(value, enum.Enum) else value
    if level > 100:
        raise BadRequest(f"{name} cannot be a context: it is nested too deeply, perhaps in itself", "pass a part of it")
    if isinstance(value, Mapping):
        pairs = cast("Mapping[object, object]", value).items()
        return {
            key if isinstance(key, str) else str(key): _json(item, f"{name}[{key!r}]", level + 1) for key, item in pairs
        }
    if isinstance(value, list | tuple | set | frozenset | deque):
        items = cast("list[object]", value)
        return [_json(item, f"{name}[{place}]", level + 1) for place, item in enumerate(items)]
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, PurePath | decimal.Decimal | uuid.UUID | datetime.timedelta | complex):
        return str(value)
    if isinstance(value, bytes | bytearray):
        return _decoded(bytes(value), name)
    return _json_of_object(value, name, level)


def _json_of_object(value: object, name: str, level: int) -> Any:
    thing: Any = value
    if isinstance(value, enum.Enum):
        return _json(value.value, name, level + 1)
    if isinstance(value, BaseModel):
        return _json(value.model_dump(mode="json"), name, level + 1)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return _json(fields, name, level + 1)
    if (table := _table(value)) is not None:
        return table
    if type(value).__module__.split(".")[0] in ("numpy", "pandas") and callable(getattr(thing, "item", None)):
        return _json(thing.item(), name, level + 1)
    if type(value).__module__.startswith("pandas.") and str(value) in ("NaT", "<NA>"):
        return None
    reason, hint = _why_not(value, name)
    raise BadRequest(f"{name} cannot be a context: {reason}", hint)


def _why_not(value: object, name: str) -> tuple[str, str]:
    if isinstance(value, io.IOBase) or hasattr(value, "read"):
        return "an open file stays in this kernel", f"pass its text, text = {name}.read(), or its path, Path(…)"
    if inspect.iscoroutine(value) or inspect.isawaitable(value):
        return "it has not been awaited", f"await it first: value = await {name}"
    if isinstance(value, Iterator) or inspect.isgenerator(value):
        return f"{_a(value)} can be read only once", f"make a list of it: rows = list({name})"
    if isinstance(value, types.ModuleType):
        return "a module is code, not data", f"pass its source: source = inspect.getsource({name})"
    if isinstance(value, type) or callable(value):
        return f"{_a(value)} is code, not data", f"pass its source, inspect.getsource({name}), or what it returns"
    if type(value).__module__ in ("_thread", "threading", "socket", "asyncio", "sqlite3", "multiprocessing"):
        return f"{_a(value)} is alive in this process only", "pass the data that it guards or delivers"
    return (
        f"nobody said how {_a(value)} is written as text",
        f"pass a text, list, dict, table or path: str({name}), vars({name}), or what you mean of it",
    )


def _a(value: object) -> str:
    kind = type(value)
    module = "" if kind.__module__ in ("builtins", "__main__") else f"{kind.__module__}."
    return f"a {module}{kind.__qualname__}"
