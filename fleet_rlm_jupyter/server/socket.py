"""The worker's socket: ask, follow, unfollow, cancel, answer in; events out, gapless and at most 20 frames a second."""

from __future__ import annotations

import asyncio
import hmac
import json
import time
from collections import deque
from contextlib import suppress
from functools import partial
from typing import Any
from urllib.parse import unquote

from tornado import web, websocket

from fleet_rlm_jupyter.domain.api import KEY_HEADER, SOCKET_CLOSED, USER_HEADER
from fleet_rlm_jupyter.domain.errors import BadRequest
from fleet_rlm_jupyter.server.desk import Asked, Desk
from fleet_rlm_jupyter.server.feeds import Cursor
from fleet_rlm_jupyter.server.frames import (
    AnswerOp,
    AskOp,
    BadFrame,
    CancelOp,
    FollowOp,
    Op,
    UnfollowOp,
    parse,
)
from fleet_rlm_jupyter.server.logs import NO_REQUEST
from fleet_rlm_jupyter.server.run_routes import ask, is_open
from fleet_rlm_jupyter.server.web import log, problem_of

FRAME_SECONDS = 0.05
FRAME_CHARS = 256_000
HEARTBEAT_SECONDS = 15
MAX_STRIKES = 100
MAX_UNDER_WAY = 32
MAX_FOLLOWED = 1000
MAX_REPLIES = 1000
"""Replies that wait for a reader who sends ops but reads nothing; then it is closed."""

OPS_PER_SECOND = 50


class WorkerSocket(websocket.WebSocketHandler):
    """One client. Ops run side by side on threads; one task writes, and a write that waits holds nothing else up."""

    def check_origin(self, origin: str) -> bool:
        return True  # the Jupyter server looked at it, with what it knows of its own address

    async def get(self, *args: Any, **kwargs: Any) -> None:
        desk: Desk = self.settings["desk"]
        given = self.request.headers.get(KEY_HEADER, "")
        user = unquote(self.request.headers.get(USER_HEADER, ""))
        if not user or not hmac.compare_digest(given.encode(), desk.key.encode()):
            raise web.HTTPError(403)
        self._asked = Asked(desk, desk.bench.seen_by(user), user)
        await super().get(*args, **kwargs)

    def open(self, *args: Any, **kwargs: Any) -> None:
        self.set_nodelay(True)  # frames are gathered here already: the system need not wait for more
        self._feeds = self._asked.desk.feeds
        self._cursors: dict[str, Cursor] = {}
        self._replies: deque[str] = deque()
        self._grown = asyncio.Event()
        self._strikes = 0
        self._under_way: set[asyncio.Task[None]] = set()
        self._allowance, self._seen_at = float(OPS_PER_SECOND), time.monotonic()
        self._writer = asyncio.ensure_future(self._write())

    async def on_message(self, message: str | bytes) -> None:
        await self._not_too_fast()
        try:
            op = parse(message)
        except BadFrame as err:
            self._strike(err)
            return
        self._strikes = 0
        if len(self._under_way) >= MAX_UNDER_WAY:
            self._say("error", op.id, code="too_many", message="too many ops are under way", hint="wait for replies")
            return
        task = asyncio.ensure_future(self._work(op))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    def on_close(self) -> None:
        # What was asked goes on: who asked may come back and follow.
        self._writer.cancel()
        for run_id in list(self._cursors):
            self._unfollow(run_id)

    async def _work(self, op: Op) -> None:
        try:
            await self._do(op)
        except Exception as err:
            status, problem = problem_of(err)
            if status == 500:
                log.error("op %s failed", op.op, exc_info=err, extra={"request_id": op.id or NO_REQUEST})
            self._say("error", op.id, op=op.op, **self._asked.bench.mask.everywhere_in(problem).model_dump())

    async def _do(self, op: Op) -> None:
        bench = self._asked.bench
        match op:
            case AskOp():
                accepted = await asyncio.to_thread(ask, self._asked, op)
                self._say("accepted", op.id, op=op.op, **accepted.model_dump())
                await self._follow(FollowOp(op="follow", run_id=accepted.run_id))
            case FollowOp():
                await self._follow(op)
                self._say("ok", op.id, op=op.op, run_id=op.run_id)
            case UnfollowOp():
                self._unfollow(op.run_id)
                self._say("ok", op.id, op=op.op, run_id=op.run_id)
            case CancelOp():
                await asyncio.to_thread(bench.cancel, op.run_id, op.call_id)
                self._say("ok", op.id, op=op.op, run_id=op.run_id)
            case AnswerOp():
                await asyncio.to_thread(bench.answer, op.run_id, op.call_id, op.text)
                self._say("ok", op.id, op=op.op, run_id=op.run_id)

    async def _follow(self, op: FollowOp) -> None:
        bench = self._asked.bench
        if len(self._cursors) >= MAX_FOLLOWED and op.run_id not in self._cursors:
            raise BadRequest(f"a socket follows at most {MAX_FOLLOWED} runs", "unfollow one, or open another socket")
        follow = partial(bench.follow, op.run_id)
        if await asyncio.to_thread(is_open, bench, op.run_id):
            self._feeds.open(op.run_id, follow)
        self._feeds.subscribe(op.run_id, self._grown.set)
        self._cursors[op.run_id] = Cursor(self._feeds, op.run_id, follow, op.since)
        self._grown.set()

    def _unfollow(self, run_id: str) -> None:
        self._feeds.unsubscribe(run_id, self._grown.set)
        self._cursors.pop(run_id, None)

    async def _write(self) -> None:
        with suppress(websocket.WebSocketClosedError):
            while True:
                if not self._grown.is_set():
                    try:
                        await asyncio.wait_for(self._grown.wait(), HEARTBEAT_SECONDS)
                    except TimeoutError:
                        self._say("heartbeat", at=time.time())
                self._grown.clear()
                is_more = await self._write_once()
                if is_more:
                    self._grown.set()  # catching up: as fast as it is read
                else:
                    await asyncio.sleep(FRAME_SECONDS)

    async def _write_once(self) -> bool:
        """Write what there is; whether there is more for at least one run."""
        while self._replies:
            await self.write_message(self._replies.popleft())
        lines: list[str] = []
        room, is_more = FRAME_CHARS, False
        for run_id, cursor in list(self._cursors.items()):
            since = cursor.next
            taken = await cursor.take(room)
            if cursor.has_fallen_behind:
                await self.write_message(_frame("resync", run_id=run_id, since=since))
            lines += taken
            room -= sum(map(len, taken))
            is_more |= cursor.has_more
            if cursor.is_done and self._cursors.get(run_id) is cursor:
                self._unfollow(run_id)
            if room <= 0:
                break
        if lines:
            await self.write_message(f'{{"type":"events","events":[{",".join(lines)}]}}')
        return is_more

    def _say(self, kind: str, frame_id: str | None = None, **fields: Any) -> None:
        named = {"id": frame_id} if frame_id is not None else {}
        self._replies.append(_frame(kind, **named, **fields))
        if len(self._replies) > MAX_REPLIES:
            self.close(SOCKET_CLOSED["policy"], "replies are not read")
        self._grown.set()

    def _strike(self, err: BadFrame) -> None:
        self._strikes += 1
        message = self._asked.bench.mask(err.text)  # it may name a field that is unknown
        self._say("error", err.frame_id, code=err.code, message=message, hint=err.hint)
        if self._strikes >= MAX_STRIKES:
            self.close(SOCKET_CLOSED["policy"], "strikes")

    async def _not_too_fast(self) -> None:
        """Nothing more is read from who sends too fast, until they may again."""
        now = time.monotonic()
        self._allowance = min(2.0 * OPS_PER_SECOND, self._allowance + (now - self._seen_at) * OPS_PER_SECOND) - 1
        self._seen_at = now
        if self._allowance < 0:
            await asyncio.sleep(-self._allowance / OPS_PER_SECOND)


def _frame(kind: str, **fields: Any) -> str:
    return json.dumps({"type": kind, **fields}, ensure_ascii=False)
