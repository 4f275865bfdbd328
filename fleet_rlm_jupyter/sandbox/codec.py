"""What crosses between host and sandbox: frames on a byte stream, and values as JSON.

Used by both sides (uploaded beside `guest.py`), so it needs the standard library only. A frame is 0x1e, eight hex
digits of length, UTF-8 JSON. What comes from the other side is data: it is never unpickled and never evaluated.
"""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import enum
import json
import math
import os
import types
from collections.abc import Callable, Iterable, Iterator, KeysView, ValuesView
from typing import Any, cast

PROTOCOL = 1
MARK = b"\x1e"
HEAD = 9
MAX_FRAME = 1 << 20
MAX_INLINE = 256_000
MAX_UNACKED = 64
MAX_UNACKED_BYTES = 512_000
"""Together with MAX_UNACKED this stays below the 256 terminal messages that Daytona keeps for a slow reader."""
CHUNK = 16_000

Frame = dict[str, Any]


def encode(frame: Frame) -> bytes:
    """One frame as bytes. ASCII only, so that a chunk border never cuts a character."""
    body = json.dumps(frame, separators=(",", ":")).encode()
    return MARK + b"%08x" % len(body) + body


class FrameReader:
    """Bytes in any portions → frames. Whatever is no frame (banners, echo, half a frame) is skipped."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        self._buffer += data
        while True:
            start = self._buffer.find(MARK)
            if start < 0:
                self._buffer.clear()
                return
            del self._buffer[:start]
            if len(self._buffer) < HEAD:
                return
            length = _length(self._buffer[1:HEAD])
            if length is None:
                del self._buffer[:1]
                continue
            if len(self._buffer) < HEAD + length:
                # A mark inside what should be this frame's JSON means that the frame was cut and a new one began.
                again = self._buffer.find(MARK, 1)
                if again < 0:
                    return
                del self._buffer[:again]
                continue
            body = bytes(self._buffer[HEAD : HEAD + length])
            frame = _parsed(body)
            if frame is None:
                del self._buffer[:1]
                continue
            del self._buffer[: HEAD + length]
            yield frame


def _length(digits: bytes | bytearray) -> int | None:
    try:
        length = int(digits, 16)
    except ValueError:
        return None
    return length if 0 < length <= MAX_FRAME else None


def _parsed(body: bytes) -> Frame | None:
    try:
        frame = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return frame if isinstance(frame, dict) and isinstance(frame.get("t"), str) else None


TAG = "~"
"""An object with only this key carries a value that JSON has no word for: {"~": [kind, …]}."""

_PLAIN = {str, bool, int, type(None)}
_SEQUENCES = (range, collections.deque, KeysView, ValuesView, types.GeneratorType)


def dumps(packed: Any) -> bytes:
    """What `pack` returned as UTF-8 JSON, for files. Raises ValueError for a number of too many digits."""
    return json.dumps(packed, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass")


def loads(data: bytes) -> Any:
    """The value whose packed form is in `data`; raises ValueError for what `pack` and `dumps` never write."""
    try:
        return json.loads(data.decode("utf-8", "surrogatepass"), object_hook=_untagged)
    except RecursionError as err:
        raise ValueError("nested too deeply") from err


def pack(value: Any) -> Any:
    """`value` as JSON; shares containers with it. Raises TypeError or ValueError for what cannot travel.

    Exact both ways: None, bool, int, float (also inf and nan), str, bytes, list, tuple, set, frozenset, dict with any
    packable keys, datetime (a time zone as its offset), date, time, timedelta, Decimal. One way: named tuples,
    dataclasses and pydantic models arrive as dicts, enums as their values, paths as text, views, ranges, deques and
    generators as lists, subclasses as what they derive from, NumPy's scalars and arrays as numbers and lists.
    """
    try:
        return _packed(value)
    except RecursionError as err:
        raise ValueError("a value that is nested too deeply, or contains itself, cannot travel") from err


def _packed(value: Any) -> Any:
    kind = type(value)
    if kind in _PLAIN:
        return value
    if kind is float:
        return value if math.isfinite(value) else {TAG: ["float", repr(value)]}
    if kind is list:
        return value if _are_plain(value) else [_packed(item) for item in value]
    if kind is dict:
        if set(map(type, value)) <= {str} and TAG not in value:
            return value if _are_plain(value.values()) else {key: _packed(item) for key, item in value.items()}
        return {TAG: ["dict", [[_packed(key), _packed(item)] for key, item in value.items()]]}
    return _packed_other(value)


def _are_plain(items: Iterable[Any]) -> bool:
    """True if JSON takes all of `items` as they are. Costs next to nothing: most large values are lists of texts."""
    kinds = set(map(type, items))
    if float in kinds:
        return kinds <= {*_PLAIN, float} and all(math.isfinite(item) for item in items if type(item) is float)
    return kinds <= _PLAIN


def _packed_other(value: Any) -> Any:
    if isinstance(value, bytes | bytearray | memoryview):
        return {TAG: ["bytes", bytes(value).hex()]}
    if isinstance(value, datetime.timedelta):
        return {TAG: ["timedelta", [value.days, value.seconds, value.microseconds]]}
    for moment in (datetime.datetime, datetime.date, datetime.time):
        if isinstance(value, moment):
            # pandas' NaT calls itself a datetime, and like nan it is not equal to itself.
            return {TAG: [moment.__name__, value.isoformat()]} if value == value else None
    if isinstance(value, decimal.Decimal):
        return {TAG: ["Decimal", str(value)]}
    if hasattr(value, "_asdict"):
        return _packed(dict(value._asdict()))
    for collection in (tuple, set, frozenset):
        if isinstance(value, collection):
            return {TAG: [collection.__name__, [_packed(item) for item in value]]}
    return _packed(_as_plain(value))


def _as_plain(value: Any) -> Any:
    """The nearest plain value of an object that JSON does not know; one way only."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    for name in ("model_dump", "tolist"):
        convert = getattr(value, name, None)
        if callable(convert) and not isinstance(value, type):
            return convert()
    if isinstance(value, _SEQUENCES):
        return list(value)
    for kind in cast(tuple[Any, ...], (str, int, float, list, dict)):
        if isinstance(value, kind):
            return kind(value)
    raise TypeError(f"a {type(value).__name__} cannot travel between host and sandbox; send its parts")


_UNPACK: dict[str, Callable[[Any], Any]] = {
    "float": float,
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "dict": dict,
    "bytes": bytes.fromhex,
    "timedelta": lambda parts: datetime.timedelta(*parts),
    "datetime": datetime.datetime.fromisoformat,
    "date": datetime.date.fromisoformat,
    "time": datetime.time.fromisoformat,
    "Decimal": decimal.Decimal,
}


def unpack(value: Any) -> Any:
    """The inverse of `pack`; raises ValueError for what `pack` never writes."""
    try:
        return _unpacked(value)
    except RecursionError as err:
        raise ValueError("nested too deeply") from err


def _unpacked(value: Any) -> Any:
    if isinstance(value, list):
        return [_unpacked(item) for item in value]
    if isinstance(value, dict):
        return _untagged({key: _unpacked(item) for key, item in value.items()})
    return value


def _untagged(value: dict[str, Any]) -> Any:
    """The value that a JSON object stands for, given that what it contains is unpacked already."""
    if TAG not in value:
        return value
    tagged = value[TAG]
    if len(value) != 1 or type(tagged) is not list or len(tagged) != 2 or type(tagged[0]) is not str:
        raise ValueError("not a packed value")
    kind, content = tagged
    if kind not in _UNPACK:
        raise ValueError("not a packed value")
    try:
        return _UNPACK[kind](content)
    except (TypeError, ArithmeticError) as err:
        raise ValueError(f"not a packed {kind}") from err


def fresh(value: Any) -> Any:
    """A copy of an unpacked value whose containers are new and whose leaves are shared: leaves cannot change."""
    kind = type(value)
    if kind is list:
        return value.copy() if _are_leaves(value) else [fresh(item) for item in value]
    if kind is dict:
        if _are_leaves(value.values()):
            return value.copy()
        return {key: fresh(item) for key, item in value.items()}
    if kind is tuple:
        return value if _are_leaves(value) else tuple(fresh(item) for item in value)
    return set(value) if kind is set else value


def _are_leaves(items: Iterable[Any]) -> bool:
    return set(map(type, items)).isdisjoint((list, dict, tuple, set))
