"""Contexts by digest: uploaded as a stream, gone on with where it broke off, kept once."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Iterator

from tornado import web

from fleet_rlm_jupyter.domain.errors import BadRequest
from fleet_rlm_jupyter.server.schema import Upload, UploadQuery
from fleet_rlm_jupyter.server.web import WorkerHandler, query_of

PIECES_WAITING = 8
"""Pieces that came and are not written yet; then the sender waits."""


class UploadBroken(BadRequest):
    """An upload ended before its end; what came of it stays."""

    code = "upload_broken"


@web.stream_request_body
class ContextHandler(WorkerHandler):
    """`GET`: how much of a context is here. `PUT`: its bytes, or with `offset` the rest of them."""

    _writing: asyncio.Future[None] | None = None

    def prepare(self) -> None:
        super().prepare()
        self._sha256 = self.path_kwargs["sha256"]
        self._contexts = self.asked.bench.contexts
        if self.request.method == "GET":
            return
        if self.request.method != "PUT":
            raise web.HTTPError(405)
        given = UploadQuery.model_validate_strings(query_of(self.request.query_arguments))
        self._pieces: queue.Queue[bytes | None] = queue.Queue(PIECES_WAITING)
        self._is_whole = False
        put = asyncio.to_thread(self._contexts.put, self._sha256, self._stream(), given.offset)
        self._writing = asyncio.ensure_future(put)
        # Where the sender has gone nobody waits for it, and its error is nobody's.
        self._writing.add_done_callback(lambda done: done.cancelled() or done.exception())

    async def data_received(self, chunk: bytes) -> None:
        if self._writing is not None and not self._writing.done():
            await self._hand_on(chunk)

    def on_connection_close(self) -> None:
        if self._writing is not None and not self._writing.done():
            self._ending = asyncio.ensure_future(self._hand_on(None))

    async def get(self, sha256: str) -> None:
        await self._say()

    async def put(self, sha256: str) -> None:
        assert self._writing is not None
        self._is_whole = True
        await self._hand_on(None)
        await self._writing
        await self._say()

    def _stream(self) -> Iterator[bytes]:
        while (piece := self._pieces.get()) is not None:
            yield piece
        if not self._is_whole:
            raise UploadBroken("the upload broke off", "ask how much is here, and go on from there")

    async def _hand_on(self, piece: bytes | None) -> None:
        while not (self._writing is None or self._writing.done()):
            try:
                self._pieces.put_nowait(piece)
                return
            except queue.Full:
                await asyncio.sleep(0.001)

    async def _say(self) -> None:
        state = await asyncio.to_thread(self._state)
        self.set_header("Content-Type", "application/json")
        self.finish(state.model_dump_json())

    def _state(self) -> Upload:
        is_complete = self._contexts.has(self._sha256)
        received = 0 if is_complete else self._contexts.received(self._sha256)
        return Upload(sha256=self._sha256, is_complete=is_complete, received=received)
