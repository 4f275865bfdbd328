"""Work that an interrupt does not break in two: Python raises it in the main thread, between any two instructions."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait
from typing import TypeVar

_T = TypeVar("_T")

LONGEST_SECONDS = 10.0


def unbroken(work: Callable[[], _T], stop: Callable[[], object]) -> _T:
    """What `work` gives or raises; from the main thread it is done in another one, which no interrupt strikes.

    An interrupt of the main thread has `stop` called at once, and again when `work` is done, for what it has made by
    then; it is raised when that is over, or after LONGEST_SECONDS. Work that has not begun by then never does.
    """
    if threading.current_thread() is not threading.main_thread():
        return work()
    turn: Future[None] = Future()

    def done() -> _T:
        if not turn.set_running_or_notify_cancel():
            raise CancelledError
        try:
            return work()
        finally:
            turn.set_result(None)

    pool = ThreadPoolExecutor(1, "fleet-unbroken")
    try:
        return pool.submit(contextvars.copy_context().run, done).result()
    except KeyboardInterrupt:
        if not turn.cancel():
            stop()
            turn.add_done_callback(lambda _: stop())
            wait([turn], LONGEST_SECONDS)
        raise
    finally:
        pool.shutdown(wait=False)
