"""An event loop on a thread of its own, for a library that speaks async in a house that does not."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any, TypeVar

from fleet_rlm_jupyter.domain.errors import SandboxUnavailable

_T = TypeVar("_T")

FAREWELL_SECONDS = 5


class LoopThread:
    """Thread-safe. Once it is stopped calls are refused, and nobody waits for the answer to an earlier one."""

    def __init__(self, name: str) -> None:
        self._lock = threading.Lock()
        self._loop = asyncio.new_event_loop()
        self._is_stopped = False
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def submit(self, work: Coroutine[Any, Any, _T]) -> Future[_T]:
        """Start `work` on the loop. Raises SandboxUnavailable once it has stopped."""
        with self._lock:
            if not self._is_stopped:
                return asyncio.run_coroutine_threadsafe(work, self._loop)
        work.close()
        raise SandboxUnavailable("these sandboxes were closed", "make a new Workbench")

    def post(self, act: Callable[..., object], *args: object) -> None:
        """Have `act` called on the loop; nothing happens once it has stopped."""
        with self._lock:
            if not self._is_stopped:
                self._loop.call_soon_threadsafe(act, *args)

    def stop(self, farewell: Coroutine[Any, Any, None]) -> None:
        """Await `farewell` as the last of all work, then end the thread."""
        with self._lock:
            self._is_stopped = True
            ended = asyncio.run_coroutine_threadsafe(farewell, self._loop)
        ended.add_done_callback(lambda _: self._loop.call_soon_threadsafe(self._loop.stop))
        with contextlib.suppress(FutureTimeoutError):
            ended.result(FAREWELL_SECONDS)

    def _run(self) -> None:
        self._loop.run_forever()
        self._loop.close()
