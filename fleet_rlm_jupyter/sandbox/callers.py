"""The threads on which host functions run that a cell calls, and what becomes of their errors."""

from __future__ import annotations

import collections
import threading
import traceback
from collections.abc import Callable
from types import TracebackType

from fleet_rlm_jupyter.sandbox.codec import Frame

MOST_MESSAGE = 10_000
IDLE_SECONDS = 0.5


class Reply:
    """What a call came to: `said` for the guest, or in `error` what must reach the caller instead.

    A tool may raise anything, and this is where it goes, as it would with a Future.
    """

    def __init__(self) -> None:
        self.said: Frame | None = None
        self.error: BaseException | None = None

    def __enter__(self) -> None:
        """The call begins."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> bool:
        self.error = error
        if isinstance(error, Exception):
            self.said = {"e": {"type": type(error).__name__, "msg": _message(error)}}
        return True


class Callers:
    """Up to `most` threads that serve calls. Daemons: a tool that hangs must not keep the process from ending."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._changed = threading.Condition()
        self._waiting: collections.deque[Callable[[], None]] = collections.deque()
        self._threads = self._idle = 0

    def submit(self, job: Callable[[], None]) -> None:
        with self._changed:
            self._waiting.append(job)
            if len(self._waiting) <= self._idle:
                self._changed.notify()
                return
            if self._threads >= self._most:
                return
            self._threads += 1
        threading.Thread(target=self._work, name="fleet-call", daemon=True).start()

    def close(self) -> None:
        with self._changed:
            self._waiting.clear()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._idle += 1
                # Calls come one after the other: a thread that stays a moment is there for the next.
                is_due = self._changed.wait_for(lambda: self._waiting, IDLE_SECONDS)
                self._idle -= 1
                if not is_due:
                    self._threads -= 1
                    return
                job = self._waiting.popleft()
            job()


def _message(error: Exception) -> str:
    """What an error says; safe where its own `__str__` fails."""
    return "".join(traceback.format_exception_only(error)).partition(": ")[2].strip()[:MOST_MESSAGE]
