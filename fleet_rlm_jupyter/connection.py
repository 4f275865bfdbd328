"""The line to a Jupyter server with this package: requests tried again, and events of runs without gaps."""

from __future__ import annotations

import http.client
import json
import ssl
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from typing import Any, TypeVar, get_args
from urllib.parse import quote, urlencode, urlsplit

import websocket
from pydantic import TypeAdapter

from fleet_rlm_jupyter.domain.api import API
from fleet_rlm_jupyter.domain.errors import BadRequest, FleetError, SandboxPhase, ServerUnavailable
from fleet_rlm_jupyter.domain.events import Event, RunEnded

ANSWER_SECONDS = 120
"""For the answer to a request; a sandbox may have to start."""

SILENCE_SECONDS = 45
"""A socket that says nothing for so long is dead: there is a heartbeat every 15 s."""

GIVE_UP_SECONDS = 60
"""How long a lost server is waited for."""

PIECE_BYTES = 1024**2

FIRST_PAUSE, LONGEST_PAUSE = 0.25, 8.0

Answer = TypeVar("Answer")

_IS_BACK_SOON = {"worker_restarted"}


class Connection:
    """To one server, as one user. Thread-safe: every request and every socket is its own."""

    def __init__(self, url: str, headers: Mapping[str, str] | None = None) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise BadRequest(f"{url!r} is no server's URL", "it looks like http://127.0.0.1:8888/")
        self.url = url.rstrip("/")
        self._headers = dict(headers or {})
        self._host, self._is_secure = parts.hostname, parts.scheme == "https"
        self._port = parts.port or (443 if self._is_secure else 80)
        self._path = parts.path.rstrip("/") + API

    def get(self, path: str, kind: type[Answer], **query: Any) -> Answer:
        """What is at `path`. Tried again while the server is away for a moment."""
        return self.ask("GET", path, kind, query=query)

    def ask(
        self,
        method: str,
        path: str,
        kind: type[Answer],
        body: Any = None,
        query: Mapping[str, Any] | None = None,
        is_safe: bool | None = None,
        seconds: float | None = None,
    ) -> Answer:
        """One request and its answer. One that is safe to repeat is repeated; by default all but POST.

        `seconds` is how long the server may be silent, where it is longer than for most.

        Raises the error of the server by its code, ServerUnavailable where none answers.
        """
        raw = None if body is None else json.dumps(body).encode()
        headers = {} if raw is None else {"Content-Type": "application/json"}

        def once() -> Answer:
            found = b"".join(self._pieces(self._request(method, path, raw, headers, query, seconds)))
            return TypeAdapter(kind).validate_json(found or b"null")

        return once() if not (method != "POST" if is_safe is None else is_safe) else self._patiently(once)

    def send(self, method: str, path: str, body: Any, headers: Mapping[str, str], query: Mapping[str, Any]) -> bytes:
        """One request with a body of bytes, a file or pieces of bytes; never repeated, for a stream is read once."""
        return b"".join(self._pieces(self._request(method, path, body, headers, query)))

    def pieces(self, path: str, query: Mapping[str, Any]) -> Iterator[bytes]:
        """A long answer as it comes. Raises at once where it is refused, and ServerUnavailable where it breaks off."""
        return self._pieces(self._request("GET", path, query=query))

    def lines(self, path: str, body: Any = None) -> Iterator[str]:
        """A long answer, line by line as they come; with a body to a POST. ServerUnavailable where it breaks off."""
        headers = {} if body is None else {"Content-Type": "application/json"}
        raw = None if body is None else json.dumps(body).encode()
        answer = self._request("GET" if raw is None else "POST", path, raw, headers)
        # Not the lines of the answer itself: to them an answer that breaks off is at its end.
        rest = b""
        for piece in self._pieces(answer, is_live=True):
            *lines, rest = (rest + piece).split(b"\n")
            yield from (line.decode("utf-8") for line in lines)
        if rest:
            yield rest.decode("utf-8")

    def events(self, run_id: str, since: int = 0, is_wanted: Callable[[], bool] = lambda: True) -> Iterator[Event]:
        """A run's events from `since` on, each once and in order, until it ends; over as many sockets as it takes."""
        pause = FIRST_PAUSE
        lost_at: float | None = None
        while is_wanted():
            with suppress(websocket.WebSocketException, OSError, ServerUnavailable):
                for event in self._followed(run_id, since):
                    lost_at, pause = None, FIRST_PAUSE
                    if event.seq < since:
                        continue
                    since = event.seq + 1
                    yield event
                    if isinstance(event.fact, RunEnded):
                        return
            lost_at = lost_at or time.monotonic()
            if time.monotonic() - lost_at > GIVE_UP_SECONDS:
                raise self._unreachable(f"it went away while run {run_id} went on")
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    def _followed(self, run_id: str, since: int) -> Iterator[Event]:
        scheme = "wss" if self._is_secure else "ws"
        line = websocket.create_connection(
            f"{scheme}://{self._authority}{self._path}/ws",
            header=[f"{name}: {value}" for name, value in self._headers.items()],
            timeout=SILENCE_SECONDS,
            suppress_origin=True,  # no page, no origin: we have a token
        )
        with closing(line):
            line.send(json.dumps({"op": "follow", "run_id": run_id, "since": since}))
            while text := line.recv():
                frame = json.loads(text)
                if frame["type"] == "events":
                    yield from map(Event.read, frame["events"])
                elif frame["type"] == "error":
                    if frame["code"] in _IS_BACK_SOON:
                        return
                    raise error_of(frame)

    def _patiently(self, once: Callable[[], Answer]) -> Answer:
        begun, pause = time.monotonic(), FIRST_PAUSE
        while True:
            try:
                return once()
            except ServerUnavailable:
                if time.monotonic() - begun > LONGEST_PAUSE:
                    raise
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    def _request(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        query: Mapping[str, Any] | None = None,
        seconds: float | None = None,
    ) -> http.client.HTTPResponse:
        given = {name: _word(value) for name, value in (query or {}).items() if value is not None}
        target = self._path + path + (f"?{urlencode(given)}" if given else "")
        line: http.client.HTTPConnection
        timeout = seconds or ANSWER_SECONDS
        if self._is_secure:
            context = ssl.create_default_context()
            line = http.client.HTTPSConnection(self._host, self._port, timeout=timeout, context=context)
        else:
            line = http.client.HTTPConnection(self._host, self._port, timeout=timeout)
        try:
            with self._reached():
                line.request(method, target, body, {**self._headers, **(headers or {}), "Connection": "close"})
                answer = line.getresponse()
                if answer.status < 400:
                    return answer
                with closing(answer):
                    raise self._refused(answer.status, answer.read())
        except ServerUnavailable:
            line.close()
            raise

    def _pieces(self, answer: http.client.HTTPResponse, is_live: bool = False) -> Iterator[bytes]:
        """What comes, in pieces as large as may be; in a live answer each as soon as it is there."""
        read = answer.read1 if is_live else answer.read
        with closing(answer), self._reached():
            while piece := read(PIECE_BYTES):
                yield piece

    @contextmanager
    def _reached(self) -> Generator[None]:
        try:
            yield
        except (OSError, http.client.HTTPException) as err:
            raise self._unreachable(str(err) or type(err).__name__) from err

    def _refused(self, status: int, body: bytes) -> FleetError:
        try:
            problem = json.loads(body)
            code = problem["code"]
        except (ValueError, TypeError, KeyError):
            return self._unreachable(f"it answered {status}")
        return self._unreachable(problem["message"]) if code in _IS_BACK_SOON else error_of(problem)

    def _unreachable(self, why: str) -> ServerUnavailable:
        hint = "look whether it runs and has fleet_rlm_jupyter: `jupyter server list`, `jupyter server extension list`"
        return ServerUnavailable(f"the Jupyter server at {self.url} does not answer: {why}", hint)

    @property
    def _authority(self) -> str:
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{host}:{self._port}"


def error_of(problem: Mapping[str, Any]) -> FleetError:
    """A problem document as the error that it was on the server, so that a caller handles both alike."""
    kind = _kinds(FleetError).get(problem["code"])
    error = (kind or FleetError)(problem["message"], problem.get("hint", ""))
    if kind is None:
        error.code = problem["code"]
    if problem.get("phase") in get_args(SandboxPhase):
        error.phase = problem["phase"]
    return error


def _kinds(kind: type[FleetError]) -> dict[str, type[FleetError]]:
    found = {kind.code: kind}
    for below in kind.__subclasses__():
        found |= _kinds(below)
    return found


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def quoted(text: str) -> str:
    """A name as one part of a path."""
    return quote(text, safe="")
