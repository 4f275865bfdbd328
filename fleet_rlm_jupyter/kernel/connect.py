"""Finds the Jupyter server that this kernel belongs to, without configuration; else says in one line why not."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import queue
import re
import ssl
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit, urlunsplit

from jupyter_core.paths import jupyter_runtime_dir

from fleet_rlm_jupyter.domain.api import API, API_VERSION
from fleet_rlm_jupyter.settings import Settings, kernel_variables, variable

PROBE_SECONDS = 0.3
FAR_PROBE_SECONDS = 3.0
"""For a server that somebody named and that is not on this machine."""

_MOST_BYTES = 64_000
_EVERYWHERE = {"": "127.0.0.1", "*": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}
"""Addresses to listen on that are none to call."""


@dataclass(frozen=True, slots=True)
class Server:
    """A Jupyter server that may answer. `url` ends with a slash; `source` says in words how it was found."""

    url: str
    token: str = field(repr=False)
    source: str


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What Jupyter tells a kernel about where it runs: the process that started it, a Hub's address and token."""

    parent_pid: int | None = None
    hub_url: str = ""
    hub_token: str = field(default="", repr=False)

    @classmethod
    def of(cls, variables: Mapping[str, str]) -> Surroundings:
        """From `settings.kernel_variables`."""
        pid = variables["JPY_PARENT_PID"]
        hub = variables["JUPYTERHUB_SERVICE_URL"], variables["JUPYTERHUB_API_TOKEN"]
        return cls(int(pid) if pid.isdecimal() else None, *hub)


@dataclass(frozen=True, slots=True)
class FoundServer:
    """The server that answered, or None and why: `reason` is empty where there was none to ask."""

    server: Server | None
    reason: str = ""


def find_server(settings: Settings, around: Surroundings | None = None, runtime: Path | None = None) -> FoundServer:
    """The first server that answers and speaks our API.

    A named one (`server_url`) is the only one asked. Else the one that started this kernel, by its runtime file, and
    under a Hub the one that the Hub names. Takes at most PROBE_SECONDS for each; a named server that is far away may
    take longer.
    """
    if settings.server_url:
        return _named(settings.server_url, settings)
    around = around or Surroundings.of(kernel_variables())
    servers, reason = _own(around, runtime or Path(jupyter_runtime_dir()))
    if around.hub_url and around.hub_token:
        try:
            hub = Server(callable_url(around.hub_url), around.hub_token, "the Hub")
        except ValueError:
            return FoundServer(None, f"{around.hub_url}, which the Hub names, is no URL")
        # The file is of the nearest server: of the one that the Hub started, or of one that somebody started inside it.
        # Under older Hubs the file of the former has no token, and the Hub's opens it.
        servers = [*(server for server in servers if server.token), hub]
    return _answering(servers, reason)


def base_of(url: str) -> str:
    """The server's address in that of one of its pages, as a browser shows it."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(path=re.sub(r"/(?:lab|tree|notebooks|doc)(?:/.*)?$", "/", parts.path), query=""))


def callable_url(url: str) -> str:
    """`url` with an address that can be called, without query, ending with a slash. Raises ValueError."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme not in ("http", "https"):
        raise ValueError("it begins with http:// or https://")
    host = _EVERYWHERE.get(host, host)
    shown = f"[{host}]" if ":" in host else host
    place = f"{shown}:{parts.port}" if parts.port else shown
    return urlunsplit((parts.scheme, place, f"{parts.path.rstrip('/')}/", "", ""))


def _named(url: str, settings: Settings) -> FoundServer:
    token = settings.server_token.get_secret_value() if settings.server_token else ""
    try:
        server = Server(callable_url(url), token, variable("server_url"))
    except ValueError as err:
        return FoundServer(None, f"{url} is no URL: {err}")
    return _answering([server], "")


def _own(around: Surroundings, runtime: Path) -> tuple[list[Server], str]:
    """The servers whose runtime files bear the pid of this kernel's parent; why not, if there is a file of none."""
    reason = ""
    for pid in dict.fromkeys([around.parent_pid, os.getppid()]):
        path = runtime / f"jpserver-{pid}.json"
        try:
            info = json.loads(path.read_text(encoding="utf-8"))
            url, token, port = str(info["url"]), str(info.get("token") or ""), info.get("port")
        except FileNotFoundError:
            continue
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            reason = f"{path.name} cannot be read"
            continue
        if not _is_alive(pid or 0):
            reason = f"{path.name} is stale: the server that wrote it is gone"
        elif info.get("sock"):
            reason = f"the server of {path.name} listens on a UNIX socket"
        else:
            try:
                url = callable_url(_with_host(url, str(info.get("hostname", "")), port))
            except ValueError:
                return [], f"{path.name} names no URL"
            return [Server(url, token, path.name)], ""
    return [], reason


def _with_host(url: str, listens_on: str, port: object) -> str:
    """A server on all addresses writes the machine's name, which need not resolve: it is on loopback too."""
    if listens_on not in _EVERYWHERE:
        return url
    parts = urlsplit(url)
    host = _EVERYWHERE[listens_on]
    return urlunsplit(parts._replace(netloc=f"{f'[{host}]' if ':' in host else host}:{port or parts.port or 80}"))


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _answering(servers: list[Server], reason: str) -> FoundServer:
    for server in servers:
        reason = _probe(server)
        if not reason:
            return FoundServer(server)
    return FoundServer(None, reason)


def _probe(server: Server) -> str:
    """Why `server` cannot be used; empty if it can."""
    parts = urlsplit(server.url)
    is_near = parts.hostname in ("127.0.0.1", "localhost", "::1")
    seconds = PROBE_SECONDS if is_near else FAR_PROBE_SECONDS
    where = f"the server at {server.url}"
    said: queue.SimpleQueue[tuple[int, bytes] | Exception] = queue.SimpleQueue()

    def ask() -> None:
        try:
            said.put(_get_status(parts, server.token, seconds))
        except (OSError, http.client.HTTPException, ValueError) as err:
            said.put(err)

    # In a thread of its own: neither a name that does not resolve nor an answer that drips heeds a timeout.
    threading.Thread(target=ask, name="fleet-probe", daemon=True).start()
    try:
        answer = said.get(timeout=seconds)
    except queue.Empty:
        return f"{where} did not answer within {seconds} s"
    if isinstance(answer, ssl.SSLError):
        return f"the certificate of {where} is not trusted here"
    if isinstance(answer, TimeoutError):
        return f"{where} did not answer within {seconds} s"
    if isinstance(answer, Exception):
        return f"{where} does not answer"
    return _judged(where, *answer)


def _judged(where: str, code: int, body: bytes) -> str:
    if code == 404:
        return f"{where} has no fleet extension; install fleet-rlm-jupyter beside it"
    if code in (301, 302, 303, 307, 401, 403):
        return f"{where} wants another token; set {variable('server_token')}"
    if code != 200:
        return f"{where} answers {code}"
    status: Any = None
    with contextlib.suppress(ValueError):
        status = json.loads(body)
    version = status.get("api") if isinstance(status, dict) else None
    if not isinstance(version, int):
        return f"{where} is none of ours"
    if version != API_VERSION:
        age = "an older" if version < API_VERSION else "a newer"
        return f"{where} speaks {age} API: {version}, here {API_VERSION}"
    return ""


def _get_status(parts: SplitResult, token: str, seconds: float) -> tuple[int, bytes]:
    host, port = parts.hostname or "", parts.port
    if parts.scheme == "https":
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(host, port, timeout=seconds)
    else:
        connection = http.client.HTTPConnection(host, port, timeout=seconds)
    with contextlib.closing(connection):
        headers = {"Accept": "application/json", **({"Authorization": f"token {token}"} if token else {})}
        connection.request("GET", f"{parts.path.rstrip('/')}{API}/status", headers=headers)
        response = connection.getresponse()
        return response.status, response.read(_MOST_BYTES)
