"""Arrays of NumPy and tables of pandas as bytes and back. Used by both sides, so neither library need be there.

`npy`: NumPy's own format, without objects. `columns`: a table column by column, as arrays where it can be, else as
packed JSON. `arrow`: Arrow's stream, into a sandbox only. What comes out of a sandbox is checked, never unpickled.
"""

from __future__ import annotations

import importlib
import importlib.util
import io
import json
import math
import re
import sys
from typing import Any

from .codec import dumps, fresh, loads, pack

LIBRARIES = ("numpy", "pandas", "pyarrow")
TABLE_KINDS = ("npy", "columns", "arrow")
_HEAD = 8
_ARRAY_KINDS = "biufcMmUS"
_NPY = re.compile(
    rb"\x93NUMPY[\x01\x02]\x00..(?:\x00\x00)?\{'descr': '(?P<dtype>[<>|=]?[biufcMmUS]\d+(?:\[\d*\w+\])?)', "
    rb"'fortran_order': (?P<fortran>True|False), 'shape': \((?P<shape>(?:\d{1,15}(?:, ?|(?=\)))){0,32})\), \} *\n",
    re.DOTALL,
)
_DTYPES = re.compile(r"object|str|string|category|boolean|U?Int(8|16|32|64)|Float(32|64)|datetime64\[\w+, [\w/+:-]+\]")


def libraries() -> list[str]:
    """Which of LIBRARIES could be imported here."""
    return [name for name in LIBRARIES if importlib.util.find_spec(name) is not None]


def is_table(value: Any) -> bool:
    """Whether `value` is an array, a Series or a DataFrame; imports nothing."""
    return _kind_of(value) != ""


def encoded(value: Any, there: frozenset[str]) -> tuple[str, bytes] | None:
    """(kind, bytes) of an array or table for a side that has the libraries `there`; None: send it as plain values."""
    kind = _kind_of(value)
    if kind == "ndarray":
        return ("npy", _npy(value)) if "numpy" in there and value.dtype.kind in _ARRAY_KINDS else None
    if not kind or "pandas" not in there:
        return None
    if kind == "DataFrame" and "pyarrow" in there and importlib.util.find_spec("pyarrow") is not None:
        made = _arrow(value)
        if made is not None:
            return "arrow", made
    return "columns", _columns(value, kind)


def decoded(kind: str, data: bytes, most_cells: int = sys.maxsize) -> Any:
    """The value in `data`; raises ValueError for what `encoded` never writes, ImportError without the library.

    A table of more than `most_cells` cells is no value either: rows and columns can be many in few bytes.
    """
    try:
        if kind == "npy":
            return _array(data)
        if kind in ("columns", "arrow"):
            return (_table if kind == "columns" else _of_arrow)(data, most_cells)
    except (LookupError, TypeError, AttributeError, ArithmeticError, RuntimeError, OSError) as err:
        raise ValueError("not a table") from err
    raise ValueError("not a table")


def plain(value: Any) -> Any:
    """An array as nested lists; a table as a dict of columns, a Series as a list: for a side without the library."""
    kind = _kind_of(value)
    if kind == "DataFrame":
        return {str(name): _listed(value.iloc[:, place]) for place, name in enumerate(value.columns)}
    if kind == "Series":
        return _listed(value)
    return value.tolist()


def renewed(value: Any) -> Any:
    """A copy of an input for one cell, which may change it."""
    return value.copy() if is_table(value) else fresh(value)


def _kind_of(value: Any) -> str:
    for base in type(value).__mro__[:-1]:
        package = base.__module__.partition(".")[0]
        if (package, base.__name__) in (("numpy", "ndarray"), ("pandas", "Series"), ("pandas", "DataFrame")):
            return base.__name__
    return ""


def _npy(array: Any) -> bytes:
    file = io.BytesIO()
    sys.modules["numpy"].save(file, array, allow_pickle=False)
    return file.getvalue()


def _array(data: bytes) -> Any:
    """Reads the header by itself and takes the data as they lie: it is neither evaluated nor believed."""
    numpy = importlib.import_module("numpy")
    found = _NPY.match(data)
    if found is None:
        raise ValueError("not an array")
    dtype, shape = (
        numpy.dtype(found["dtype"].decode()),
        [int(length) for length in found["shape"].split(b",") if length.strip()],
    )
    count = math.prod(shape)
    if dtype.kind not in _ARRAY_KINDS or len(data) - found.end() != count * dtype.itemsize:
        raise ValueError("not an array")
    flat = numpy.frombuffer(data, dtype, count, found.end()) if count else numpy.empty(0, dtype)
    return flat.reshape(shape, order="F" if found["fortran"] == b"True" else "C").copy()


def _arrow(frame: Any) -> bytes | None:
    arrow = importlib.import_module("pyarrow")
    try:
        table = arrow.Table.from_pandas(frame)
    except (arrow.ArrowException, TypeError, ValueError):  # columns of mixed objects
        return None
    sink = io.BytesIO()
    with arrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def _of_arrow(data: bytes, most_cells: int) -> Any:
    arrow = importlib.import_module("pyarrow")
    table = arrow.ipc.open_stream(arrow.py_buffer(data)).read_all()
    table.validate(full=True)  # else offsets and indices that lie are followed out of the buffers
    _refuse_many(table.num_rows, table.num_columns, most_cells)
    return table.to_pandas()


def _refuse_many(rows: int, columns: int, most_cells: int) -> None:
    if rows * max(1, columns) > most_cells:
        raise ValueError("too many cells")


def _columns(table: Any, kind: str) -> bytes:
    blobs: list[bytes] = []

    def put(series: Any) -> dict[str, Any]:
        values = series.to_numpy() if hasattr(series.dtype, "kind") and not _is_extension(series.dtype) else None
        if values is not None and values.dtype.kind in _ARRAY_KINDS:
            blobs.append(_npy(values))
            return {"as": "npy", "n": len(blobs[-1])}
        blobs.append(dumps(pack(_listed(series))))
        said = {"as": "list", "n": len(blobs[-1]), "dtype": str(series.dtype)}
        if said["dtype"] == "category":
            said["categories"] = pack(_listed(series.cat.categories.to_series()))
            said["ordered"] = bool(series.cat.ordered)
        return said

    frame = table.to_frame() if kind == "Series" else table
    index = frame.index
    levels = [] if _is_range(index) else [index.get_level_values(place) for place in range(index.nlevels)]
    head = {
        "is_series": kind == "Series",
        "name": pack(table.name) if kind == "Series" else None,
        "rows": len(frame),
        "range": [index.start, index.stop, index.step] if not levels else None,
        "index": [put(level.to_series()) for level in levels],
        "index_names": pack(list(index.names)),
        "labels": pack(list(frame.columns)),
        "columns": [put(frame.iloc[:, place]) for place in range(frame.shape[1])],
    }
    text = json.dumps(head).encode()
    return b"%08x" % len(text) + text + b"".join(blobs)


def _table(data: bytes, most_cells: int) -> Any:
    pandas = importlib.import_module("pandas")
    at = _HEAD + int(data[:_HEAD], 16)
    head = json.loads(data[_HEAD:at])
    _refuse_many(int(head["rows"]), len(head["columns"]), most_cells)

    def take(said: Any) -> Any:
        nonlocal at
        blob, at = data[at : at + int(said["n"])], at + int(said["n"])
        if said["as"] == "npy":
            return pandas.Series(_array(blob))
        name = str(said["dtype"])
        values = loads(blob)
        if not isinstance(values, list) or not _DTYPES.fullmatch(name):
            raise ValueError("not a column")
        if name == "category" and "categories" in said:
            kinds = loads(json.dumps(said["categories"]).encode())
            return pandas.Series(pandas.Categorical(values, pandas.Index(kinds), bool(said["ordered"])))
        return pandas.Series(values, dtype=name)

    levels = [take(said) for said in head["index"]]
    names = loads(json.dumps(head["index_names"]).encode())
    if len(levels) > 1:
        index = pandas.MultiIndex.from_arrays(levels, names=names)
    elif levels:
        index = pandas.Index(levels[0], name=names[0])
    else:
        index = pandas.RangeIndex(*map(int, head["range"]), name=names[0])
    columns = [take(said) for said in head["columns"]]
    if any(len(column) != len(index) for column in columns) or len(index) != head["rows"]:
        raise ValueError("not a table")
    labels = loads(json.dumps(head["labels"]).encode())
    frame = pandas.DataFrame(dict(enumerate(columns)), index=range(len(index)))
    frame.index, frame.columns = index, pandas.Index(labels) if labels else pandas.RangeIndex(0)
    if not head["is_series"]:
        return frame
    series = frame.iloc[:, 0]
    series.name = loads(json.dumps(head["name"]).encode())
    return series


def _listed(series: Any) -> list[Any]:
    """Plain values, None where one is missing."""
    return [None if missing else value for value, missing in zip(series.astype(object), series.isna(), strict=True)]


def _is_extension(dtype: Any) -> bool:
    return type(dtype).__module__.partition(".")[0] != "numpy"


def _is_range(index: Any) -> bool:
    return type(index).__name__ == "RangeIndex"
