"""Whether an array or table is still what it was: compared with a copy, bit by bit, which beats encoding it anew."""

from __future__ import annotations

import importlib
import sys
from typing import Any

_KINDS = "biufmM"
_SIZES = (1, 2, 4, 8)


def twin_of(value: Any, most_bytes: int) -> Any | None:
    """A copy for `is_as` to compare with; None for more bytes, and for what may hold objects that change inside."""
    if _is_a("numpy", "ndarray", value):
        return value.copy("K") if _is_plain(value.dtype) and value.nbytes <= most_bytes else None
    if not _is_a("pandas", "DataFrame", value) or value.memory_usage(deep=False).sum() > most_bytes:
        return None
    labels = (value.index, value.columns)
    if not all(_is_plain(dtype) or _is_text(dtype) for dtype in value.dtypes) or not all(map(_are_labels, labels)):
        return None
    made = value.copy(deep=True)
    made.index, made.columns = (each.copy(deep=True) for each in labels)
    return made


def is_as(value: Any, twin: Any) -> bool:
    """Whether `value` has the very bits, types and labels of `twin`."""
    if type(value) is not type(twin) or value.shape != twin.shape:
        return False
    if _is_a("numpy", "ndarray", value):
        return value.dtype == twin.dtype and value.flags.f_contiguous == twin.flags.f_contiguous and _same(value, twin)
    if list(value.dtypes) != list(twin.dtypes) or value.attrs != twin.attrs:
        return False
    for mine, other in ((value.index, twin.index), (value.columns, twin.columns)):
        if type(mine) is not type(other) or mine.dtype != other.dtype or mine.names != other.names:
            return False
        if not mine.equals(other):
            return False
    columns = ((value.iloc[:, place], twin.iloc[:, place]) for place in range(value.shape[1]))
    return all(
        _same(mine.to_numpy(), other.to_numpy()) if _is_plain(mine.dtype) else mine.array.equals(other.array)
        for mine, other in columns
    )


def _same(mine: Any, other: Any) -> bool:
    """As bits: -0.0 is not 0.0, and NaN is the NaN it was."""
    kind = f"u{mine.dtype.itemsize}"
    return bool(importlib.import_module("numpy").array_equal(mine.view(kind), other.view(kind)))


def _is_a(package: str, name: str, value: Any) -> bool:
    """Exactly that class: what derives from it may hold more."""
    module = sys.modules.get(package)
    return module is not None and type(value) is getattr(module, name)


def _is_plain(dtype: Any) -> bool:
    return type(dtype).__module__.startswith("numpy") and dtype.kind in _KINDS and dtype.itemsize in _SIZES


def _is_text(dtype: Any) -> bool:
    return type(dtype).__name__ == "StringDtype"


def _are_labels(index: Any) -> bool:
    """Whether equal labels are the same labels: integers, times and texts."""
    if type(index).__name__ == "MultiIndex":
        return False
    dtype = index.dtype
    return (_is_plain(dtype) and dtype.kind in "iumM") or _is_text(dtype) or all(type(one) is str for one in index)
