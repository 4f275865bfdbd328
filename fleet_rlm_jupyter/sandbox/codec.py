"""What crosses between host and sandbox: frames on a byte stream, and values as JSON.

Used by both sides (uploaded beside `guest.py`), so it needs the standard library only. A frame is 0x1e, eight hex
digits of length, UTF-8 JSON. What comes from the other side is data: it is never unpickled and never evaluated.
"""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import json
import math
import os
from collections.abc import Callable, Iterator
from typing import Any, cast

PROTOCOL = 1
MARK = b"\x1e"
HEAD = 9
MAX_FRAME = 1 << 20
MAX_INLINE = 256_000
MAX_UNACKED = 64
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


def pack(value: Any) -> Any:
    """`value` as JSON. Raises TypeError for what cannot travel.

    Exact both ways: None, bool, int, float (also inf and nan), str, bytes, list, tuple, set, frozenset, dict with any
    packable keys, datetime, date, time, timedelta, Decimal. One way: named tuples, dataclasses and pydantic models
    arrive as dicts, enums as their values, paths as text.
    """
    kind = type(value)
    if value is None or kind in (bool, int, str):
        return value
    if kind is float:
        return value if math.isfinite(value) else {TAG: ["float", repr(value)]}
    if kind is list:
        return [pack(item) for item in value]
    if kind is dict:
        if all(type(key) is str for key in value) and TAG not in value:
            return {key: pack(item) for key, item in value.items()}
        return {TAG: ["dict", [[pack(key), pack(item)] for key, item in value.items()]]}
    return _pack_other(value)


def _pack_other(value: Any) -> Any:
    if isinstance(value, bytes | bytearray | memoryview):
        return {TAG: ["bytes", bytes(value).hex()]}
    if isinstance(value, datetime.timedelta):
        return {TAG: ["timedelta", [value.days, value.seconds, value.microseconds]]}
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return {TAG: [type(value).__name__, value.isoformat()]}
    if isinstance(value, decimal.Decimal):
        return {TAG: ["Decimal", str(value)]}
    if hasattr(value, "_asdict"):
        return pack(dict(value._asdict()))
    for collection in (tuple, set, frozenset):
        if isinstance(value, collection):
            return {TAG: [collection.__name__, [pack(item) for item in value]]}
    return pack(_as_plain(value))


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
    for kind in (str, bool, int, float, list, dict):
        if isinstance(value, kind):
            convert = cast(Callable[[Any], Any], kind)
            return convert(value)
    raise TypeError(f"a {type(value).__name__} cannot travel between host and sandbox; send its parts")


_UNPACK: dict[str, Callable[[Any], Any]] = {
    "float": float,
    "tuple": lambda items: tuple(unpack(item) for item in items),
    "set": lambda items: {unpack(item) for item in items},
    "frozenset": lambda items: frozenset(unpack(item) for item in items),
    "dict": lambda items: {unpack(key): unpack(item) for key, item in items},
    "bytes": bytes.fromhex,
    "timedelta": lambda parts: datetime.timedelta(*parts),
    "datetime": datetime.datetime.fromisoformat,
    "date": datetime.date.fromisoformat,
    "time": datetime.time.fromisoformat,
    "Decimal": decimal.Decimal,
}


def unpack(value: Any) -> Any:
    """The inverse of `pack`; raises ValueError for what `pack` never writes."""
    if isinstance(value, list):
        return [unpack(item) for item in value]
    if not isinstance(value, dict):
        return value
    if TAG not in value:
        return {key: unpack(item) for key, item in value.items()}
    tagged = value[TAG]
    if len(value) != 1 or not isinstance(tagged, list) or len(tagged) != 2 or tagged[0] not in _UNPACK:
        raise ValueError("not a packed value")
    try:
        return _UNPACK[tagged[0]](tagged[1])
    except (TypeError, ArithmeticError) as err:
        raise ValueError(f"not a packed {tagged[0]}") from err


def fresh(value: Any) -> Any:
    """A copy of an unpacked value whose containers are new and whose leaves are shared: leaves cannot change."""
    kind = type(value)
    if kind is list:
        return [fresh(item) for item in value]
    if kind is dict:
        return {key: fresh(item) for key, item in value.items()}
    if kind is tuple:
        return tuple(fresh(item) for item in value)
    return set(value) if kind is set else value
