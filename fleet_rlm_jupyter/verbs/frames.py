"""DataFrames as contexts: as CSV for who reads text, and as bytes that keep their types on the way to a server."""

from __future__ import annotations

import io
from importlib.metadata import version
from typing import Any

from fleet_rlm_jupyter.domain.context import Context
from fleet_rlm_jupyter.domain.errors import BadRequest
from fleet_rlm_jupyter.sandbox.tables import decoded, encoded, libraries

OLDEST_ARROW = 15
"""Before it, Arrow's own reader would unpickle what a stream asks it to (CVE-2023-47248, mended in 14.0.1)."""


def readers() -> list[str]:
    """The libraries that tables are read with here; without pandas there are none."""
    there = libraries()
    if "pyarrow" in there and int(version("pyarrow").partition(".")[0]) < OLDEST_ARROW:
        there.remove("pyarrow")
    return there if "pandas" in there else []


def packed(frame: object, there: list[str]) -> tuple[str, bytes] | None:
    """(kind, bytes) of a DataFrame for a side with the libraries `there`; None where it cannot go as one."""
    try:
        return encoded(frame, frozenset(there))
    except (TypeError, ValueError):  # objects of which nobody said how they are written
        return None


def unpacked(kind: str, data: bytes, most_mb: int) -> Context:
    """The DataFrame that `packed` made `data` of, with its CSV. Raises BadRequest.

    What comes is checked before it is believed: its buffers by Arrow, or its lengths by our own reader.
    """
    if kind not in ("arrow", "columns") or not readers():
        raise BadRequest(f"tables of the kind {kind} are not read here", "send CSV, as a text")
    most_bytes = most_mb * 1_000_000
    try:
        frame = decoded(kind, data, most_cells=most_bytes)  # in CSV a cell is a byte at least
    except (ValueError, ImportError) as err:
        raise BadRequest(f"the context is no table of the kind {kind}", "send it anew, or as CSV") from err
    made = Context.of(csv_of(frame, most_bytes))
    made.table = frame
    made.manifest.notes.append(f"it came with its types ({kind})")
    return made


def csv_of(frame: Any, most_bytes: int) -> str:
    """What a person would save; the index only where it says something. Raises BadRequest where it is too large."""
    file = _Bounded(most_bytes)
    frame.to_csv(file, index=not is_plain(frame.index))
    return file.getvalue()


def is_plain(index: Any) -> bool:
    """The index counts 0, 1, 2… and says nothing."""
    return type(index).__name__ == "RangeIndex" and index.name is None


class _Bounded(io.StringIO):
    """A text that stops growing in time: a short table can have a long CSV, where a few values are repeated."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self._room = most

    def write(self, text: str, /) -> int:
        self._room -= len(text)
        if self._room < 0:
            raise BadRequest("the table is larger than context.max_mb as CSV", "raise it, or pass a part of the table")
        return super().write(text)
