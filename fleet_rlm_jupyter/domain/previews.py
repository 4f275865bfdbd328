"""Values as text: a preview for an event, and the whole of it for whoever asks."""

from __future__ import annotations

from collections.abc import Collection
from itertools import islice
from reprlib import Repr
from typing import cast

PREVIEW_BYTES = 2000
VALUE_CHARS = 1_000_000
"""Most characters that are kept of a value behind a preview."""


def preview(value: object) -> str:
    """`value` as text of at most PREVIEW_BYTES bytes, its head and tail kept, the cut said.

    Costs the same for a value of any size: a 100 MB input is looked at on every iteration.
    """
    text = value if isinstance(value, str) else _as_text(value)
    if len(text) <= PREVIEW_BYTES:
        raw = text.encode("utf-8", "replace")
        if len(raw) <= PREVIEW_BYTES:
            return raw.decode("utf-8")
    half = (PREVIEW_BYTES - 60) // 2
    head = text[:half].encode("utf-8", "replace")[:half].decode("utf-8", "ignore")
    tail = text[-half:].encode("utf-8", "replace")[-half:].decode("utf-8", "ignore")
    return f"{head}\n… {len(text) - len(head) - len(tail):,} characters left out …\n{tail}"


def whole(value: object) -> str:
    """`value` as text: all of a text, texts by name one after the other; at most VALUE_CHARS, the cut said."""
    if isinstance(value, str):
        text = value
    elif isinstance(value, dict):
        text = ""
        for name, item in cast("dict[object, object]", value).items():
            text += f"=== {name} ===\n{item if isinstance(item, str) else _as_text(item)}\n"
            if len(text) > 2 * VALUE_CHARS:
                break
    else:
        bounded = Repr()
        bounded.maxlevel, bounded.maxstring, bounded.maxother = 8, VALUE_CHARS // 10, VALUE_CHARS
        bounded.maxlist = bounded.maxtuple = bounded.maxdict = bounded.maxset = 1000
        text = bounded.repr(value)
    if len(text) > VALUE_CHARS:
        half = VALUE_CHARS // 2
        text = f"{text[:half]}\n… {len(text) - 2 * half:,} characters left out …\n{text[-half:]}"
    return text.encode("utf-8", "replace").decode("utf-8")


_SHOWN_ITEMS = 8
_SHOWN_LEVELS = 3


def _as_text(value: object, level: int = 0) -> str:
    if isinstance(value, str | bytes):
        return repr(value[:200])
    if isinstance(value, dict | list | tuple | set | frozenset):
        return _as_text_of_many(cast("Collection[object]", value), level)
    if isinstance(value, int) and value.bit_length() > 10_000:
        return f"integer of {value.bit_length():,} bits"  # Python refuses to write it out
    bounded = Repr()  # also says so when the value's own repr raises
    bounded.maxother = PREVIEW_BYTES
    return bounded.repr(value)


def _as_text_of_many(value: Collection[object], level: int) -> str:
    name = f"{type(value).__name__} of {len(value)}"
    if level == _SHOWN_LEVELS:
        return name
    if isinstance(value, dict):
        pairs = cast("dict[object, object]", value).items()
        shown = [
            f"{_as_text(key, level + 1)}: {_as_text(item, level + 1)}" for key, item in islice(pairs, _SHOWN_ITEMS)
        ]
    else:
        shown = [_as_text(item, level + 1) for item in islice(value, _SHOWN_ITEMS)]
    if len(value) > _SHOWN_ITEMS:
        shown.append("…")
    begin, end = "[]" if isinstance(value, list) else "()" if isinstance(value, tuple) else "{}"
    return f"{name}: {begin}{', '.join(shown)}{end}"
