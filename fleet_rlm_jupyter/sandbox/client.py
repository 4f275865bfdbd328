"""The Daytona SDK on a loop thread of its own: to Daytona's cloud when it is configured, else to the local server.

The SDK speaks async and costs seconds to import; everything else calls into it from ordinary threads. The import
happens on a thread too, as soon as sandboxes may be needed.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import CancelledError, Future
from typing import Any, TypeVar

from fleet_rlm_jupyter.deferred import importing
from fleet_rlm_jupyter.domain.errors import SandboxUnavailable
from fleet_rlm_jupyter.domain.ports import Isolation
from fleet_rlm_jupyter.sandbox import local
from fleet_rlm_jupyter.sandbox.loop_thread import LoopThread
from fleet_rlm_jupyter.sandbox.retries import retried
from fleet_rlm_jupyter.sandbox.service_errors import sdk, translated
from fleet_rlm_jupyter.settings import Settings, bypass_proxies_for_loopback

_T = TypeVar("_T")

CALL_SECONDS = 60
CALM_SECONDS = 0.1
"""What nobody waits for begins so much later: its cause needs the processor now, and then waits for a model."""
GRACE_SECONDS = 5

PIECE_BYTES = 1_000_000
"""Of what is streamed; the most of it that is held here."""


class DaytonaClient:
    """One SDK client, made when it is first needed. Thread-safe; refuses everything once it is closed."""

    def __init__(self, settings: Settings, *, trusted_code: bool) -> None:
        self.settings = settings
        self.is_remote = settings.daytona.api_key is not None
        self._closing = threading.Event()
        self._trusted_code = trusted_code
        self._lock = threading.RLock()
        self._loop = LoopThread("fleet-daytona")
        self.made: Any = None  # once it is: for use on the loop
        self._server: local.LocalServer | None = None
        # Importing the SDK takes a second or more; the local server starts meanwhile.
        threading.Thread(target=_import, name="fleet-import", daemon=True).start()

    @property
    def is_closed(self) -> bool:
        return self._closing.is_set()

    @property
    def is_there(self) -> bool:
        """Whether there is a service to ask without starting one."""
        server = self._server
        return self.is_remote or (server is not None and server.is_running)

    @property
    def isolation(self) -> Isolation:
        """May start the local server."""
        if self.is_remote:
            return Isolation("remote", "Daytona — remote sandbox")
        return self.server().isolation

    def get(self) -> Any:
        """The SDK's client, `AsyncDaytona`, for use on the loop. Raises SandboxUnavailable or BadSettings."""
        with self._lock:
            self.refuse_if_closed()
            if self.is_remote:
                daytona = self.settings.daytona
                assert daytona.api_key is not None
                key, url = daytona.api_key.get_secret_value(), daytona.api_url
            else:
                server = self.server()  # a new one where the old one has ended, and then a new client too
                key, url = server.key, server.url
            if self.made is None:
                bypass_proxies_for_loopback()
                # Key and URL are said here: the SDK would else take what it finds in a .env of the working folder.
                target = self.settings.daytona.target if self.is_remote else "local"
                config = sdk().DaytonaConfig(api_key=key, api_url=url, target=target)
                self.made = self.call(_made(lambda: sdk().AsyncDaytona(config)), CALL_SECONDS)
            return self.made

    def server(self) -> local.LocalServer:
        """The local server, started when it is not running."""
        with self._lock:
            self.refuse_if_closed()
            if self._server is not None and not self._server.is_running:
                self._server, gone = None, self.made
                self.made = None
                if gone is not None:
                    self._loop.submit(_closed(gone))
            if self._server is None:
                self._server = local.start(self.settings.sandbox, trusted_code=self._trusted_code)
            return self._server

    def call(self, work: Coroutine[Any, Any, _T], seconds: float) -> _T:
        """Await `work` on the SDK's loop, from any other thread. Raises our errors for the SDK's."""
        future = self._loop.submit(asyncio.wait_for(work, seconds))
        try:
            return future.result(seconds + GRACE_SECONDS)
        except CancelledError:
            raise SandboxUnavailable("the sandboxes were closed meanwhile", "make a new Workbench") from None
        except (sdk().DaytonaError, TimeoutError, OSError) as err:
            raise translated(err) from err
        finally:
            future.cancel()  # a Ctrl-C here must not leave the work going

    def pieces(self, begin: Callable[[], Awaitable[AsyncGenerator[bytes]]], seconds: float) -> Iterator[bytes]:
        """What the SDK streams, read as it is asked for; no piece is larger than the SDK's beyond PIECE_BYTES.

        When this returns the first piece is here, so what is wrong is raised at once; each may take `seconds`.
        """
        stream, first = self.call(retried(lambda: _begun(begin)), seconds)
        return self._rest(stream, first, seconds)

    def _rest(self, stream: AsyncGenerator[bytes], piece: bytes, seconds: float) -> Iterator[bytes]:
        try:
            yield piece
            while len(piece) >= PIECE_BYTES:
                piece = self.call(_next_of(stream), seconds)
                yield piece
        finally:
            with contextlib.suppress(SandboxUnavailable):  # the loop has stopped, and the line with it
                self.submit(_over(stream))

    def submit(self, work: Coroutine[Any, Any, _T]) -> Future[_T]:
        """Start `work` on the loop; nobody need wait for it. Raises SandboxUnavailable once that has stopped."""
        return self._loop.submit(work)

    def post(self, act: Callable[..., object], *args: object) -> None:
        """Have `act` called on the loop; nothing happens once that has stopped."""
        self._loop.post(act, *args)

    def wait(self, seconds: float) -> None:
        """Wait, but not beyond closing. Raises SandboxUnavailable then."""
        self._closing.wait(seconds)
        self.refuse_if_closed()

    def refuse_if_closed(self) -> None:
        """Raise SandboxUnavailable once `begin_closing` was called."""
        if self.is_closed:
            raise SandboxUnavailable("these sandboxes were closed", "make a new Workbench")

    def begin_closing(self) -> bool:
        """Refuse what comes from now on; False if that was so already."""
        with self._lock:
            was = self.is_closed
            self._closing.set()
            return not was

    def close(self, last: Coroutine[Any, Any, None] | None = None) -> None:
        """End the server with its sandboxes, or await `last`, which ends ours at Daytona; then end the loop."""
        if self._server is not None:
            self._server.stop()
        if last is not None and self.made is not None and self.is_remote:
            with contextlib.suppress(SandboxUnavailable):
                self.call(last, CALL_SECONDS)
        elif last is not None:
            last.close()
        self._loop.stop(_wound_up(self.made))


async def _closed(client: Any) -> None:
    with contextlib.suppress(sdk().DaytonaError, OSError):
        await client.close()


async def _wound_up(client: Any) -> None:
    """Close the client, then cancel whatever else is on this loop, so that nobody waits for it."""
    if client is not None:
        # First: it waits for tasks of its own, and one that was cancelled would cancel this one too.
        await _closed(client)
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


async def _begun(begin: Callable[[], Awaitable[AsyncGenerator[bytes]]]) -> tuple[AsyncGenerator[bytes], bytes]:
    stream = await begin()
    return stream, await _next_of(stream)


async def _next_of(stream: AsyncGenerator[bytes]) -> bytes:
    """The next PIECE_BYTES of it, or less at its end."""
    import aiohttp

    taken, size = [], 0
    try:
        while size < PIECE_BYTES and (piece := await anext(stream, None)) is not None:
            taken.append(piece)
            size += len(piece)
    except aiohttp.ClientError as err:  # daytona<1: of all that the SDK raises only what it streams is not translated
        raise sdk().DaytonaConnectionError(str(err) or type(err).__name__) from err
    return b"".join(taken)


async def _over(stream: AsyncGenerator[bytes]) -> None:
    with contextlib.suppress(RuntimeError):  # it is still unwinding from a call that was given up
        await stream.aclose()


async def _made(make: Callable[[], _T]) -> _T:
    """Make something on the loop's thread."""
    return make()


def _import() -> None:
    """All of the SDK that is going to be used, while the local server starts."""
    with importing():
        _ = sdk().AsyncDaytona
