"""Reads a multipart upload as a stream: no part is ever held in memory whole."""

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass

from aiohttp import StreamReader

from fleet_rlm_jupyter.localdaytona.wire import ApiError

_HEADER_LIMIT = 64 * 1024
_BOUNDARY = re.compile(r'multipart/form-data;.*boundary=(?:"([^"]+)"|([^\s;]+))', re.IGNORECASE)


@dataclass(frozen=True)
class UploadPart:
    """What the headers of a part say."""

    name: str
    filename: str


class MultipartStream:
    """Parts of one request body in order: `async for part in stream.parts()`, then `stream.data()` per part."""

    def __init__(self, content_type: str, content: StreamReader) -> None:
        match = _BOUNDARY.match(content_type)
        if match is None:
            raise ApiError(400, "BAD_REQUEST", "the body must be multipart/form-data")
        self._delimiter = b"\r\n--" + (match[1] or match[2]).encode()
        self._content = content
        self._buffer = bytearray(b"\r\n")  # so that the first delimiter looks like the others

    async def parts(self) -> AsyncIterator[UploadPart]:
        """Each part's names; the data of a part must be read before the next."""
        async for _ in self.data():  # a preamble is allowed, and ignored
            pass
        while True:
            while len(self._buffer) < 2:
                await self._more()
            if self._buffer.startswith(b"--"):
                await self._content.read()
                return
            while (end := self._buffer.find(b"\r\n\r\n")) < 0:
                if len(self._buffer) > _HEADER_LIMIT:
                    raise ApiError(400, "BAD_REQUEST", "the headers of a part are too long")
                await self._more()
            headers = self._buffer[:end].decode("utf-8", "replace")
            del self._buffer[: end + 4]
            yield UploadPart(_parameter("name", headers), _parameter("filename", headers))

    async def data(self) -> AsyncIterator[bytes]:
        """The pieces of the current part, up to its delimiter."""
        while (at := self._buffer.find(self._delimiter)) < 0:
            safe = len(self._buffer) - len(self._delimiter)
            if safe > 0:
                yield bytes(memoryview(self._buffer)[:safe])
                del self._buffer[:safe]
            await self._more()
        if at:
            yield bytes(memoryview(self._buffer)[:at])
        del self._buffer[: at + len(self._delimiter)]

    async def _more(self) -> None:
        piece = await self._content.readany()
        if not piece:
            raise ApiError(400, "BAD_REQUEST", "the upload ended early")
        self._buffer += piece


def _parameter(name: str, headers: str) -> str:
    match = re.search(rf'[;\s]{name}="((?:[^"\\]|\\.)*)"', headers)
    return re.sub(r"\\(.)", r"\1", match[1]) if match else ""
