"""A web server on loopback that says what a test wants, also what no honest server would."""

from __future__ import annotations

import contextlib
import http.server
import socket
import ssl
import threading
from collections.abc import Callable
from typing import Any

Route = Callable[[http.server.BaseHTTPRequestHandler], None]


class Web:
    """`routes` by path; `asked` holds (Host, path) of every request. For `with`."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.routes: dict[str, Route] = {}
        self.asked: list[tuple[str | None, str]] = []
        self.ended = threading.Event()
        web = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                web.asked.append((self.headers["Host"], self.path))
                self.close_connection = True
                with contextlib.suppress(OSError):
                    web.routes.get(self.path.partition("?")[0], text("nothing here", status=404))(self)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        if tls:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.address: tuple[str, int] = self._server.server_address[:2]  # type: ignore[assignment]
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.address[1]}"

    def __enter__(self) -> Web:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.ended.set()
        self._server.shutdown()
        self._server.server_close()

    def drip(self, head: bytes, piece: bytes, every: float = 0.05) -> Route:
        """Says `head`, then `piece` again and again, slowly and without end."""

        def route(request: http.server.BaseHTTPRequestHandler) -> None:
            request.wfile.write(head)
            while not self.ended.wait(every):
                request.wfile.write(piece)

        return route


def text(body: bytes | str, kind: str | None = "text/plain", status: int = 200, **headers: str) -> Route:
    """An answer of that body; `Content_Encoding="gzip"` is a header."""
    raw = body.encode() if isinstance(body, str) else body

    def route(request: http.server.BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        if kind:
            request.send_header("Content-Type", kind)
        for name, value in {"Content_Length": str(len(raw)), **headers}.items():
            request.send_header(name.replace("_", "-"), value)
        request.end_headers()
        request.wfile.write(raw)

    return route


def redirect(to: str, status: int = 302) -> Route:
    return text("", status=status, Location=to)


def raw(answer: bytes) -> Route:
    """Exactly these bytes."""
    return lambda request: void(request.wfile.write(answer))


def void(value: object) -> None:
    """For a lambda that returns nothing."""


class Silent:
    """A listener that takes connections, says nothing and knows how many came. For `with`."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, 0), family=family, backlog=64)
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        self._taken: list[socket.socket] = []

    def __enter__(self) -> Silent:
        return self

    def __exit__(self, *error: object) -> None:
        for line in [*self._taken, self._listener]:
            line.close()

    @property
    def connects(self) -> int:
        """How many connections there were so far; the system completes them whether or not they are taken."""
        while True:
            try:
                self._taken.append(self._listener.accept()[0])
            except BlockingIOError:
                return len(self._taken)
