"""The body of a request as it comes in: small ones in memory, uploads in a file, what is too large nowhere.

And what becomes of an answer that fails when a part of it has gone out.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import IO, Any, cast

from tornado import web


class Body:
    """At most `most_bytes` of it are kept; the rest is read and dropped, so that whoever sends it hears why."""

    def __init__(self, most_bytes: int, *, in_file: bool) -> None:
        self._most_bytes = most_bytes
        self._data = bytearray()
        self._file: IO[bytes] | None = None
        if in_file:
            self._file = tempfile.NamedTemporaryFile(prefix="fleet-upload-")  # noqa: SIM115 - `close` closes it
        self._size = 0

    def add(self, piece: bytes) -> None:
        self._size += len(piece)
        if self.is_too_large:
            self._data.clear()
        elif self._file is not None:
            self._file.write(piece)
        else:
            self._data += piece

    @property
    def is_too_large(self) -> bool:
        return self._size > self._most_bytes

    @property
    def data(self) -> bytes:
        return bytes(self._data)

    @property
    def path(self) -> Path:
        """The file that holds it, until `close`."""
        assert self._file is not None, "only an upload has one"
        self._file.flush()
        return Path(self._file.name)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def break_off(handler: web.RequestHandler) -> None:
    """End the line under an answer that failed in its middle: ended properly, its part would pass for the whole."""
    cast("Any", handler.request.connection).close()
