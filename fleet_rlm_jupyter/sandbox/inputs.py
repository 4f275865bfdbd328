"""What the guest already has of a program's inputs, so that a value is sent once however often it is bound."""

from __future__ import annotations

import datetime
import decimal
import hashlib
import operator
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from dspy.primitives.code_interpreter import CodeInterpreterError

from fleet_rlm_jupyter.sandbox.codec import Frame, dumps, pack
from fleet_rlm_jupyter.sandbox.kernel_link import Machine
from fleet_rlm_jupyter.sandbox.tables import encoded, is_table, plain
from fleet_rlm_jupyter.sandbox.twins import is_as, twin_of

MOST_INLINE, MOST_INLINE_OF_CELL = 32_000, 200_000
"""Bytes of one value, and of all of a cell's, that ride in the frame; the others go by file."""

MOST_TWIN = 256_000_000
"""Bytes of an array or table up to which a copy is kept, so that an unchanged one is not encoded for each cell."""

_LEAVES = {
    str, bytes, int, float, bool, type(None),
    datetime.datetime, datetime.date, datetime.time, datetime.timedelta, decimal.Decimal,
}  # fmt: skip
_CONTAINERS = {list, tuple, dict, set, frozenset}
_END = object()


@dataclass(slots=True)
class _Bound:
    """What a name was last bound to: its parts (None: compare by content), its key, and a copy of an array or table."""

    parts: list[Any] | None
    key: str
    twin: Any = None


class Inputs:
    """Keeps track of what the guest has.

    A value is the same as before if it is built in the same way of the very same leaves, which cannot change; this
    costs no look into a text, whatever its length. Otherwise its content decides: keys are digests, so that equal
    content under two names, or in a later cell, is not sent again.
    """

    def __init__(self, machine: Machine, libraries: frozenset[str]) -> None:
        """`libraries`: what the guest can import of those that tables and arrays need."""
        self._machine = machine
        self._name = secrets.token_hex(6)  # other REPLs in the same sandbox may be sent the same content at once
        self._libraries = libraries
        self._bound: dict[str, _Bound] = {}
        self._sent: set[str] = set()

    def prepare(self, variables: dict[str, Any]) -> tuple[dict[str, str], dict[str, Frame], list[str]]:
        """(name → key, key → what to put, keys to drop) for the next cell; large values are uploaded here."""
        values: dict[str, Frame] = {}
        for name, value in variables.items():
            known, parts = self._bound.get(name), parts_of(value)
            if known is not None and known.twin is not None and is_as(value, known.twin):
                continue
            if known is None or known.parts is None or parts is None or not _are_same(known.parts, parts):
                twin = twin_of(value, MOST_TWIN) if is_table(value) else None
                self._bound[name] = _Bound(parts, self._put(value, values), twin)
        used = {known.key for known in self._bound.values()}
        dropped = [key for key in self._sent if key not in used]
        self._sent.difference_update(dropped)
        return {name: self._bound[name].key for name in variables}, values, dropped

    def _put(self, value: Any, values: dict[str, Frame]) -> str:
        kind, packed, data = _encoded(value, self._libraries)
        key = f"{kind}-{hashlib.sha256(data).hexdigest()[:32]}"
        if key in self._sent:
            return key
        inline = sum(frame["n"] for frame in values.values() if "n" in frame)
        if kind == "json" and len(data) <= MOST_INLINE and inline + len(data) <= MOST_INLINE_OF_CELL:
            values[key] = {"v": packed, "n": len(data)}
        else:
            path = f"{self._machine.home}/.fleet/{key}-{self._name}"
            self._machine.put(path, data)
            values[key] = {kind: path}
        self._sent.add(key)
        return key


def parts_of(value: Any) -> list[Any] | None:
    """The leaves of `value` in order, with marks where its containers begin and end; None if others are among them."""
    if type(value) in _LEAVES:
        return [value]
    parts: list[Any] = []
    try:
        return parts if _collect(value, parts) else None
    except RecursionError:
        return None


def _collect(value: Any, parts: list[Any]) -> bool:
    kind = type(value)
    if kind in _LEAVES:
        parts.append(value)
        return True
    if kind not in _CONTAINERS:
        return False
    parts.append(kind)
    if kind is dict and not _add(value.keys(), parts):
        return False
    if not _add(value.values() if kind is dict else value, parts):
        return False
    parts.append(_END)
    return True


def _add(items: Collection[Any], parts: list[Any]) -> bool:
    if set(map(type, items)) <= _LEAVES:
        parts.extend(items)
        return True
    return all(_collect(item, parts) for item in items)


def _are_same(before: list[Any], now: list[Any]) -> bool:
    return len(before) == len(now) and all(map(operator.is_, before, now))


def _encoded(value: Any, libraries: frozenset[str]) -> tuple[str, Any, bytes]:
    if is_table(value):
        made = encoded(value, libraries)
        if made is not None:
            return made[0], None, made[1]
        value = plain(value)
    if type(value) is str and len(value) > MOST_INLINE:
        return "text", None, value.encode("utf-8", "surrogatepass")
    if type(value) is bytes and len(value) > MOST_INLINE:
        return "bytes", None, value
    try:
        packed = pack(value)
        return "json", packed, dumps(packed)
    except (TypeError, ValueError) as err:
        raise CodeInterpreterError(f"an input cannot travel to the sandbox: {err}") from err
