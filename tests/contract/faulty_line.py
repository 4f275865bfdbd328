"""A TCP proxy in front of a real server, which breaks connections and answers some requests itself."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Literal

_REQUEST = re.compile(rb"(GET|POST|PUT|DELETE) (\S+) HTTP/1\.1\r\n")
_PORT = re.compile(r":(\d{5})\b")


@dataclass
class Fault:
    """What happens to the next `times` requests whose "METHOD /path" matches: this answer.

    b"" breaks the line; None never answers. `after` says what the service does before that: nothing, the work, or for
    a socket the work and the answer, so that what is said next is lost and breaks the line.
    """

    pattern: str
    answer: bytes | None
    times: int = 1
    after: Literal["nothing", "the work", "the answer"] = "nothing"


def refusal(status: int, message: str = "no", **headers: str) -> bytes:
    """An HTTP answer in the form of Daytona's errors; header names with _ for -."""
    body = json.dumps({"statusCode": status, "message": message}).encode()
    lines = [f"HTTP/1.1 {status} X", "Content-Type: application/json", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "Connection: close", "", ""]).encode() + body


def answer(body: Any, status: int = 200) -> bytes:
    """An HTTP answer with `body` as JSON."""
    raw = json.dumps(body).encode()
    head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(raw)}\r\n"
    return head.encode() + b"Connection: close\r\n\r\n" + raw


class FaultyLine:
    """`url` leads to the server at `target` and so do the addresses in its answers. Thread-safe."""

    def __init__(self, target: str) -> None:
        self._target = int(_PORT.search(target).group(1))
        self._loop = asyncio.new_event_loop()
        self._lines: set[asyncio.StreamWriter] = set()
        self.faults: list[Fault] = []
        self.requests: list[str] = []
        self.bodies: list[bytes] = []
        self.on_request: Callable[[str], None] = lambda request: None
        self.is_down = False
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(ready,), daemon=True)
        self._thread.start()
        assert ready.wait(10)
        self.url = target.replace(f":{self._target}", f":{self.port}")

    def cut(self, only_sockets: bool = True) -> None:
        """Break every WebSocket (or every connection) that is open now."""
        self._loop.call_soon_threadsafe(self._cut, only_sockets)

    def seen_from_here(self, body: Any) -> Any:
        """What the server said, with its addresses leading through this line."""
        return json.loads(json.dumps(body).replace(f":{self._target}/", f":{self.port}/"))

    def count(self, pattern: str) -> int:
        return sum(1 for request in self.requests if re.match(pattern, request))

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._closing.set)
        self._thread.join(10)

    def _cut(self, only_sockets: bool) -> None:
        for line in list(self._lines):
            if not only_sockets or line.is_socket:
                line.transport.abort()

    def _run(self, ready: threading.Event) -> None:
        async def listen() -> None:
            self._closing = asyncio.Event()
            server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
            self.port = server.sockets[0].getsockname()[1]
            assert len(str(self.port)) == len(str(self._target))  # it is replaced in texts of fixed length
            ready.set()
            await self._closing.wait()
            server.close()

        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(listen())

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if self.is_down:
                raise ConnectionRefusedError
            inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except ConnectionError:  # the service restarts
            writer.transport.abort()
            return
        for line in (writer, inner_writer):
            line.is_socket = line.is_mute = False
            line.has_answer = asyncio.Event()
            self._lines.add(line)
        ways = [
            asyncio.create_task(_quiet(self._forward(reader, writer, inner_writer))),
            asyncio.create_task(_quiet(self._back(inner_reader, writer))),
        ]
        with contextlib.suppress(asyncio.CancelledError):  # it was closed
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()
        for line in (writer, inner_writer):
            self._lines.discard(line)
            line.close()

    async def _forward(self, reader: Any, writer: Any, inner: Any) -> None:
        while data := await _read(reader):
            found = None if writer.is_socket else _REQUEST.match(data)
            if found:
                request = f"{found[1].decode()} {found[2].decode()}"
                data = await self._whole(reader, data)
                self.requests.append(request)
                self.on_request(request)
                writer.is_socket = b"websocket" in data.split(b"\r\n\r\n")[0].lower()
                fault = self._fault_for(request)
                if fault is not None:
                    await self._go_wrong(fault, data, reader, writer, inner)
                    return
            inner.write(data)
            await inner.drain()

    async def _go_wrong(self, fault: Fault, data: bytes, reader: Any, writer: Any, inner: Any) -> None:
        if fault.after != "nothing":
            writer.is_mute = fault.after == "the work"
            inner.write(data)
            await (writer.has_answer.wait() if writer.is_mute else _read(reader))
        if fault.answer is None:
            while await _read(reader):
                pass
        else:
            writer.write(fault.answer)
            if not fault.answer:
                writer.transport.abort()

    async def _whole(self, reader: Any, data: bytes) -> bytes:
        """The request with its body where that is JSON; `bodies` keeps it."""
        length = _json_length(data.split(b"\r\n\r\n")[0])
        while len(data.partition(b"\r\n\r\n")[2]) < length and (more := await _read(reader)):
            data += more
        self.bodies.append(data.partition(b"\r\n\r\n")[2] if length else b"")
        return data

    def _fault_for(self, request: str) -> Fault | None:
        for fault in self.faults:
            if fault.times and re.match(fault.pattern, request):
                fault.times -= 1
                return fault
        return None

    async def _back(self, reader: Any, writer: Any) -> None:
        while data := await _read(reader):
            writer.has_answer.set()
            if not writer.is_mute:
                # In sockets too: the service tells of its sandboxes there, with their addresses.
                writer.write(data.replace(b":%d/toolbox" % self._target, b":%d/toolbox" % self.port))
                await writer.drain()


def _json_length(head: bytes) -> int:
    found = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
    return int(found[1]) if found and b"application/json" in head else 0


async def _read(reader: Any) -> bytes:
    try:
        return await reader.read(65536)
    except ConnectionError:
        return b""


async def _quiet(way: Coroutine[Any, Any, None]) -> None:
    with contextlib.suppress(ConnectionError):
        await way
