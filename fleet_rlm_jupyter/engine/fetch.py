"""What is behind a URL that a user gave: from public addresses only, bounded in bytes, time and redirects.

A name is resolved once and the checked address is the one connected to, so a resolver that says something else the
second time changes nothing. Every redirect is looked at anew. Proxies of the environment are not used: a proxy would
resolve the name again.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import queue
import re
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from fleet_rlm_jupyter.domain.errors import BadUrl

MAX_BYTES = 50_000_000
MAX_SECONDS = 20.0
MAX_REDIRECTS = 5

PORTS = {"http": 80, "https": 443}
NOT_WEB = {3306, 5432, 6379, 9042, 11211, 27017}
"""Databases and caches that would take a request for commands of their own; so might anything below 1024."""

_TEXT_TYPES = re.compile(
    r"text/.+"
    r"|application/(.+\+)?(json|xml|yaml)"
    r"|application/(x-)?(ndjson|jsonl|jsonlines|json-lines|yaml|toml|csv|sql|log|tex|latex|sh|shellscript|python"
    r"|javascript|ecmascript|typescript)"
    r"|image/svg\+xml|message/rfc822"
    # How servers send a log or whatever they have no type for; whether it is text is looked at later.
    r"|(application|binary)/octet-stream"
)

# What some version of `ipaddress` calls global: IETF's own, 6to4 relays, the host agent of a cloud.
_ALSO_NOT_PUBLIC = [ipaddress.ip_network(net) for net in ("192.0.0.0/24", "192.88.99.0/24", "168.63.129.16/32")]
_NAT64 = ipaddress.ip_network("64:ff9b::/96")

_YOURSELF = "fetch it yourself and pass the file"

Resolve = Callable[[str, int], Iterable[str]]
"""(host, port) → its addresses. Raises OSError or UnicodeError."""

Dial = Callable[[tuple[str, int], float], socket.socket]
"""((address, port), seconds) → a connection. Raises OSError."""


@dataclass(frozen=True, slots=True)
class Page:
    """What came back: where from, its bytes unpacked, and what the server says they are ("" where it does not)."""

    url: str
    body: bytes
    content_type: str
    charset: str


def is_url(given: object) -> bool:
    """`given` is meant as a URL, of whatever scheme, and not as a path."""
    return isinstance(given, str) and re.match(r"\s*[A-Za-z][A-Za-z0-9+.-]*://", given) is not None


def shown(url: str) -> str:
    """`url` as it may be printed and stored: a query may hold a signature, and a user name a password."""
    scheme, _, rest = url.strip().partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}".partition("?")[0].partition("#")[0][:200]


def addresses(host: str, port: int) -> list[str]:
    """What the system's resolver says."""
    return [str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


def is_public(address: str) -> bool:
    """Anybody on the Internet could mean it. An address that carries another one counts as that one."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour
        if ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
        if ip.is_site_local:
            return False
    is_special = ip.is_multicast or ip.is_reserved or ip.is_unspecified or ip.is_loopback or ip.is_link_local
    return ip.is_global and not is_special and not any(ip in net for net in _ALSO_NOT_PUBLIC)


@dataclass(frozen=True, slots=True)
class Fetcher:
    """Fetches URLs. `allow_private` lets it connect to addresses that are not public; `tls` is for an own authority.

    `resolve` and `dial` are the network: a test of what is refused needs one that has public addresses.
    """

    allow_private: bool = False
    max_bytes: int = MAX_BYTES
    max_seconds: float = MAX_SECONDS
    resolve: Resolve = addresses
    dial: Dial = socket.create_connection
    tls: ssl.SSLContext | None = None

    def fetch(self, url: str) -> Page:
        """Raises BadUrl for what may not be fetched, is not there, is no text, is too large or takes too long."""
        with _Deadline(self.max_seconds) as deadline:
            try:
                return self._follow(url.strip(), deadline)
            except (OSError, http.client.HTTPException, zlib.error) as err:
                if deadline.is_over:
                    text = f"{shown(url)} took more than {self.max_seconds:g} seconds"
                    raise BadUrl(text, f"try again, or {_YOURSELF}") from err
                raise BadUrl(f"{shown(url)} cannot be read: {_said(err)}", f"check the URL, or {_YOURSELF}") from err

    def _follow(self, url: str, deadline: _Deadline) -> Page:
        for _ in range(MAX_REDIRECTS + 1):
            parts = _checked(url)
            with contextlib.closing(self._connected(parts, deadline)) as connection:
                reply = _asked(connection, parts)
                onward = reply.getheader("Location") if reply.status in (301, 302, 303, 307, 308) else None
                if onward is None:
                    return self._page(url, reply, deadline)
            following = urljoin(url, onward.strip())
            if parts.scheme == "https" and following.lower().startswith("http:"):
                raise BadUrl(f"{shown(url)} leads from https to http", _YOURSELF)
            url = following
        raise BadUrl(f"{shown(url)} is one redirect too many", "give the URL it ends at")

    def _connected(self, parts: SplitResult, deadline: _Deadline) -> http.client.HTTPConnection:
        host, port = _host(parts), parts.port or PORTS[parts.scheme]
        line = self._line(parts, self._found(host, port, deadline), port, deadline)
        deadline.cuts(line)
        if parts.scheme == "https":
            tls = self.tls or ssl.create_default_context()
            line = tls.wrap_socket(line, server_hostname=host, do_handshake_on_connect=False)
            deadline.cuts(line)
            line.do_handshake()
        connection = http.client.HTTPConnection(host, port)
        connection.sock = line
        return connection

    def _found(self, host: str, port: int, deadline: _Deadline) -> list[str]:
        """The addresses of `host`, looked up in a thread: a resolver knows no time-out."""
        answers: queue.SimpleQueue[list[str] | Exception] = queue.SimpleQueue()

        def look_up() -> None:
            try:
                answers.put(list(dict.fromkeys(self.resolve(host, port))))
            except (OSError, UnicodeError) as err:
                answers.put(err)

        threading.Thread(target=look_up, name="fleet-resolve", daemon=True).start()
        try:
            found = answers.get(timeout=deadline.left())
        except queue.Empty:
            raise TimeoutError("the name was not resolved in time") from None
        if isinstance(found, Exception) or not found:
            raise BadUrl(f"the host {host} is not known", f"check the URL and the connection, or {_YOURSELF}")
        return found

    def _line(self, parts: SplitResult, found: list[str], port: int, deadline: _Deadline) -> socket.socket:
        if not self.allow_private and not all(is_public(address) for address in found):
            raise BadUrl(
                f"{parts.hostname} is not on the public Internet: {', '.join(found)[:200]}",
                f"{_YOURSELF}; context.allow_private_urls allows such hosts",
            )
        for address in found[:-1]:
            with contextlib.suppress(OSError):
                return self.dial((address, port), deadline.left())
        return self.dial((found[-1], port), deadline.left())

    def _page(self, url: str, reply: http.client.HTTPResponse, deadline: _Deadline) -> Page:
        if reply.status != 200:
            raise BadUrl(f"{shown(url)} answers {reply.status} {reply.reason}"[:300], f"check the URL, or {_YOURSELF}")
        kind = reply.headers.get_content_type() if "Content-Type" in reply.headers else ""
        if kind and not _TEXT_TYPES.fullmatch(kind):
            raise BadUrl(f"{shown(url)} is {kind}, not text", "fetch it yourself and convert it to text first")
        if (reply.length or 0) > self.max_bytes:
            raise self._too_large(url)
        packing = reply.getheader("Content-Encoding", "identity").strip().lower()
        if packing not in ("identity", "gzip", "x-gzip", "deflate"):
            raise BadUrl(f"{shown(url)} is packed as {packing}"[:300], _YOURSELF)
        pieces = self._bounded(url, _pieces(reply, deadline))
        if packing != "identity":
            pieces = self._bounded(url, _unpacked(pieces))
        return Page(url, b"".join(pieces), kind, reply.headers.get_content_charset("") or "")

    def _bounded(self, url: str, pieces: Iterable[bytes]) -> Iterator[bytes]:
        size = 0
        for piece in pieces:
            size += len(piece)
            if size > self.max_bytes:
                raise self._too_large(url)
            yield piece

    def _too_large(self, url: str) -> BadUrl:
        return BadUrl(f"{shown(url)} is larger than {self.max_bytes / 1e6:g} MB", f"{_YOURSELF}, or a part of it")


class _Deadline:
    """Cuts the line when time is up: who drips a byte a second outlives every time-out of a single read."""

    def __init__(self, seconds: float) -> None:
        self._at = time.monotonic() + seconds
        self._line: socket.socket | None = None
        self._timer = threading.Timer(seconds, self._cut)
        self._timer.daemon = True

    def __enter__(self) -> _Deadline:
        self._timer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()

    @property
    def is_over(self) -> bool:
        return time.monotonic() >= self._at

    def left(self) -> float:
        """Seconds, more than 0. Raises TimeoutError."""
        if self.is_over:
            raise TimeoutError("time is up")
        return max(self._at - time.monotonic(), 0.001)

    def cuts(self, line: socket.socket) -> None:
        self._line = line
        self.left()  # the timer may have found no line to cut

    def _cut(self) -> None:
        if self._line is not None:
            with contextlib.suppress(OSError):
                # Not an SSLSocket's own: that drops what the reading thread is using.
                socket.socket.shutdown(self._line, socket.SHUT_RDWR)


def _checked(url: str) -> SplitResult:
    """`url` in parts. Raises BadUrl unless it is http or https to a host and port that a web page may have."""
    if re.search(r"[\x00-\x20\x7f\\]", url):
        raise BadUrl(f"{shown(url)!r} is no URL: it holds a space, a backslash or a control character", "check it")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as err:
        raise BadUrl(f"{shown(url)} is no URL: {err}", "check it") from err
    if parts.scheme not in PORTS:
        raise BadUrl(f"{parts.scheme or 'this'} is no scheme that is fetched: {shown(url)}", "use http or https")
    if "@" in parts.netloc:
        raise BadUrl(f"{shown(url)} comes with a user name", f"leave it out; where one is needed, {_YOURSELF}")
    if not parts.hostname:
        raise BadUrl(f"{shown(url)} names no host", "check it")
    if port is not None and (port in NOT_WEB or (port < 1024 and port not in PORTS.values())):
        raise BadUrl(f"port {port} is none of a web server: {shown(url)}", _YOURSELF)
    return parts


def _host(parts: SplitResult) -> str:
    """The host as it is resolved, sent and certified: Unicode names in their ASCII form."""
    host = parts.hostname or ""
    try:
        return host if host.isascii() else host.encode("idna").decode("ascii")
    except UnicodeError as err:
        raise BadUrl(f"{host} is no name of a host", "check the URL") from err


def _asked(connection: http.client.HTTPConnection, parts: SplitResult) -> http.client.HTTPResponse:
    host = f"[{connection.host}]" if ":" in connection.host else connection.host
    target = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~") + (
        "?" + quote(parts.query, safe="/?%:@!$&'()*+,;=~[]") if parts.query else ""
    )
    headers = {
        "Host": host if connection.port == PORTS[parts.scheme] else f"{host}:{connection.port}",
        "User-Agent": "fleet-rlm-jupyter",
        "Accept": "text/*, application/json, */*;q=0.5",
        "Accept-Encoding": "gzip",
        "Connection": "close",
    }
    connection.request("GET", target, headers=headers)
    return connection.getresponse()


def _pieces(reply: http.client.HTTPResponse, deadline: _Deadline) -> Iterator[bytes]:
    while piece := reply.read1(65_536):
        deadline.left()
        yield piece
    deadline.left()  # a line that was cut ends like one that has no more to say
    if reply.length:
        raise http.client.IncompleteRead(b"", reply.length)


def _unpacked(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """At most 1 MB at a time, whatever a piece unpacks to."""
    member = zlib.decompressobj(wbits=47)
    is_begun = False
    for piece in pieces:
        while piece:
            if member.eof:
                member = zlib.decompressobj(wbits=47)
            is_begun = True
            yield member.decompress(piece, 1_000_000)
            piece = member.unused_data if member.eof else member.unconsumed_tail
    if is_begun and not member.eof:
        raise zlib.error("the packed data breaks off")


def _said(err: Exception) -> str:
    if isinstance(err, http.client.HTTPException):
        return "the answer breaks off" if isinstance(err, http.client.IncompleteRead) else "the answer is no HTTP"
    return (err.strerror if isinstance(err, OSError) and err.strerror else str(err))[:200] or type(err).__name__
