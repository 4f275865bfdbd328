"""The worker's HTTP: one table of routes, functions that run on threads, errors as problem documents."""

from __future__ import annotations

import asyncio
import hmac
import inspect
import json
import logging
import re
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from typing import Any, get_type_hints
from urllib.parse import quote, unquote

from pydantic import TypeAdapter, ValidationError
from tornado import web
from tornado.iostream import StreamClosedError

from fleet_rlm_jupyter.domain.api import API, KEY_HEADER, REQUEST_ID, USER_HEADER
from fleet_rlm_jupyter.domain.errors import (
    BadRequest,
    FleetError,
    ForUser,
    KeyReused,
    ModelFailed,
    NoSuchDataset,
    NoSuchMemory,
    NoSuchProgram,
    NoSuchRun,
    NoSuchSandbox,
    NoSuchSession,
    SandboxError,
    SessionBusy,
    StoreFailed,
    phase_of,
)
from fleet_rlm_jupyter.server.bodies import Body, break_off
from fleet_rlm_jupyter.server.desk import Asked, Desk
from fleet_rlm_jupyter.server.schema import MAX_FILE_BYTES, Problem, frame_problem

MAX_JSON_BYTES = 4 * 1024**2
"""Of a JSON body; contexts and files have routes of their own."""

MAX_RAW_BYTES = 32 * 1024**2
"""Of a body that is held as it is: an exported session, the rows of a dataset. To read one takes several times that."""

PIECE_BYTES = 256_000

log = logging.getLogger("fleet_rlm_jupyter.server")

_STATUS: tuple[tuple[type[FleetError], int], ...] = (
    (NoSuchSession, 404),
    (NoSuchRun, 404),
    (NoSuchDataset, 404),
    (NoSuchSandbox, 404),
    (NoSuchProgram, 404),
    (NoSuchMemory, 404),
    (SessionBusy, 409),
    (KeyReused, 409),
    (ModelFailed, 502),
    (ForUser, 400),
    (SandboxError, 503),
    (StoreFailed, 503),
)


_OF_HTTP = {403: "forbidden", 404: "not_found", 405: "method_not_allowed", 413: "too_large"}


@dataclass(frozen=True)
class Endpoint:
    """One method of one path. `call` says the rest.

    Its parameters: `asked`, then those in the path, `query` (a model of the query string), and `body` (of the JSON
    body), `raw` (the bytes of any other) or `upload` (a file that has them, as long as the request lasts). Its return
    annotation is the answer's model, its docstring the summary. It runs on a thread.
    """

    method: str
    path: str
    call: Callable[..., Any]
    status: int = 200

    @cached_property
    def hints(self) -> dict[str, Any]:
        return get_type_hints(self.call)

    @property
    def returns(self) -> Any:
        return self.hints.get("return")

    @property
    def names(self) -> list[str]:
        """The parameters in the path."""
        return re.findall(r"{(\w+)}", self.path)

    @property
    def summary(self) -> str:
        return (inspect.getdoc(self.call) or "").split("\n\n")[0].replace("\n", " ")

    @property
    def most_bytes(self) -> int:
        """Of its body."""
        if "upload" in self.hints:
            return MAX_FILE_BYTES
        return MAX_RAW_BYTES if "raw" in self.hints else MAX_JSON_BYTES

    def answer(self, asked: Asked, ids: Mapping[str, str], query: Mapping[str, list[bytes]], body: Body) -> Raw | None:
        """What the function says. Raises FleetError, or ValidationError where the request is malformed."""
        given: dict[str, Any] = dict(ids)
        if "query" in self.hints:
            model = self.hints["query"]
            given["query"] = model.model_validate_strings(query_of(query))
        elif query:
            raise BadRequest("this route takes no query", "leave the part after ? out")
        if "body" in self.hints:
            given["body"] = self.hints["body"].model_validate(_json(body.data))
        elif "raw" in self.hints:
            given["raw"] = body.data
        elif "upload" in self.hints:
            given["upload"] = body.path
        elif body.data.strip():
            raise BadRequest("this route takes no body", "send none")
        found = self.call(asked, **given)
        if found is None or isinstance(found, Raw):
            return found
        return Raw([TypeAdapter(self.returns).dump_json(found)], "application/json")


@dataclass(frozen=True, slots=True)
class Raw:
    """An answer that is written as it is, piece by piece; `filename` makes it a download.

    `is_live`: pieces take their time, and each leaves at once.
    """

    pieces: Iterable[bytes]
    content_type: str
    filename: str = ""
    is_live: bool = False


class WorkerHandler(web.RequestHandler):
    """A request that came through the Jupyter server, which alone has the key and says who asks."""

    def set_default_headers(self) -> None:
        # Here, for an error begins its answer anew.
        self.set_header(REQUEST_ID, self.request.headers.get(REQUEST_ID, ""))

    def prepare(self) -> None:
        given = self.request.headers.get(KEY_HEADER, "")
        if not hmac.compare_digest(given.encode(), self.settings["desk"].key.encode()):
            raise web.HTTPError(403)

    @property
    def asked(self) -> Asked:
        user = unquote(self.request.headers.get(USER_HEADER, ""))
        if not user:
            raise web.HTTPError(403)
        desk: Desk = self.settings["desk"]
        return Asked(desk, desk.bench.seen_by(user), user)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        error = kwargs.get("exc_info", (None, None))[1]
        status, problem = problem_of(error, status_code)
        self.set_status(status)
        self.set_header("Content-Type", "application/problem+json")
        # Also what a caller wrote is repeated, and they need not know our keys to have written one.
        self.finish(self.settings["desk"].bench.mask.everywhere_in(problem).model_dump_json())

    def send_error(self, status_code: int = 500, **kwargs: Any) -> None:
        if self._headers_written:
            break_off(self)
        else:
            super().send_error(status_code, **kwargs)

    def log_exception(self, typ: Any, value: BaseException | None, tb: Any) -> None:
        if not isinstance(value, FleetError | ValidationError | web.HTTPError):
            asked = self.request
            request_id = asked.headers.get(REQUEST_ID, "-")
            about = {"request_id": request_id}
            log.error("request %s: %s %s failed", request_id, asked.method, asked.path, exc_info=value, extra=about)


class NotFound(WorkerHandler):
    """What answers where there is no route."""

    def prepare(self) -> None:
        super().prepare()
        raise web.HTTPError(404)


@web.stream_request_body
class RoutesHandler(WorkerHandler):
    """All the methods of one path that are in the table."""

    def initialize(self, routes: dict[str, Endpoint]) -> None:
        self.routes = routes
        self._body: Body | None = None
        self._is_whole = False

    def prepare(self) -> None:
        super().prepare()
        route = self.routes.get(self.request.method or "")
        if route is not None:
            self._body = Body(route.most_bytes, in_file="upload" in route.hints)

    def data_received(self, chunk: bytes) -> None:
        if self._body is not None:
            self._body.add(chunk)

    def on_connection_close(self) -> None:
        if self._body is not None and not self._is_whole:
            self._body.close()

    async def _answer(self, **ids: str) -> None:
        route = self.routes.get(self.request.method or "")
        if route is None or self._body is None:
            self.set_header("Allow", ", ".join(self.routes))
            raise web.HTTPError(405)
        self._is_whole = True
        with closing(self._body):
            await self._give(route, self._body, ids)

    async def _give(self, route: Endpoint, body: Body, ids: dict[str, str]) -> None:
        if body.is_too_large:
            raise web.HTTPError(413, f"the body of such a request has at most {route.most_bytes // 1024**2} MB")
        query = {name: list(values) for name, values in self.request.query_arguments.items()}
        found = await asyncio.to_thread(route.answer, self.asked, ids, query, body)
        self.set_status(route.status)
        if found is not None:
            await self.send(found)

    async def send(self, found: Raw) -> None:
        self.set_header("Content-Type", found.content_type)
        if found.filename:
            # Whatever it is, no browser takes it for a page, nor lets it run with the rights of ours.
            self.set_header("X-Content-Type-Options", "nosniff")
            self.set_header("Content-Security-Policy", "sandbox")
            self.set_header("Content-Disposition", f"attachment; filename*=UTF-8''{quote(found.filename, safe='')}")
        pieces = iter(found.pieces)
        try:
            while piece := await asyncio.to_thread(_together, pieces, 1 if found.is_live else PIECE_BYTES):
                self.write(piece)
                await self.flush()
        except StreamClosedError:
            pass  # whoever asked has gone
        finally:
            if isinstance(pieces, Generator):  # what it holds, a sandbox perhaps, is not left to chance
                await asyncio.to_thread(pieces.close)

    get = post = put = patch = delete = _answer  # pyright: ignore[reportAssignmentType]


def _together(pieces: Iterator[bytes], most: int) -> bytes:
    """The next pieces, of about so many bytes together."""
    taken, size = [], 0
    for piece in pieces:
        taken.append(piece)
        size += len(piece)
        if size >= most:
            break
    return b"".join(taken)


def handlers(routes: Iterable[Endpoint]) -> list[tuple[str, type[web.RequestHandler], dict[str, Any]]]:
    """The table as tornado takes it, one handler a path."""
    paths: dict[str, dict[str, Endpoint]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method] = route
    return [(API + pattern(path), RoutesHandler, {"routes": methods}) for path, methods in paths.items()]


def pattern(path: str) -> str:
    """A regular expression for a path: {names} are segments, of which tornado undoes the percent signs."""
    return re.sub(r"{(\w+)}", r"(?P<\1>[^/]+)", path)


def problem_of(error: object, status: int = 500) -> tuple[int, Problem]:
    """The status and the document for whatever was raised; of what nobody foresaw only the log says more."""
    if isinstance(error, FleetError):
        found = next((status for kind, status in _STATUS if isinstance(error, kind)), 409)
        return found, Problem(code=error.code, message=error.text, hint=error.hint, phase=phase_of(error))
    if isinstance(error, ValidationError):
        return 400, frame_problem(error)
    if isinstance(error, web.HTTPError):
        code = _OF_HTTP.get(error.status_code, "bad_request")
        return error.status_code, Problem(code=code, message=error.log_message or code.replace("_", " "))
    return max(status, 500), Problem(code="internal", message="something went wrong", hint="the server's log says what")


def status_of() -> dict[int, list[str]]:
    """Which codes come with which status."""
    found: dict[int, list[str]] = {status: [code] for status, code in _OF_HTTP.items()}
    for kind, status in _STATUS:
        found.setdefault(status, []).append(kind.code)
    return {**dict(sorted(found.items())), 500: ["internal"]}


def _json(body: bytes) -> Any:
    try:
        return json.loads(body or b"{}", parse_constant=_refuse)
    except (ValueError, RecursionError):
        raise BadRequest("the body is not JSON", "send one JSON object as UTF-8") from None


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def query_of(query: Mapping[str, list[bytes]]) -> dict[str, str]:
    """The last value of each name. Raises BadRequest."""
    try:
        return {name: values[-1].decode("utf-8") for name, values in query.items() if values}
    except UnicodeDecodeError:
        raise BadRequest("the query is not UTF-8", "percent-encode it") from None
