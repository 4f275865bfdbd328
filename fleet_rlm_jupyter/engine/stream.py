"""The threads that LM calls run on, and the pieces of an answer as they arrive.

DSPy hands a streamed answer on with `anyio.from_thread`, which works only in AnyIO's own worker threads; so calls run
on those, under a loop that does nothing else. All are daemons: a request that hangs must not keep a process alive.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import cache
from typing import Any, TypeVar

from anyio import CapacityLimiter, to_thread

_T = TypeVar("_T")

OnText = Callable[[str], None]


def start(work: Callable[[], _T]) -> Future[_T]:
    """Run `work` on a thread of its own, in a copy of this context. Cancelling the future leaves the thread behind."""
    # A limiter for each: how many calls run at the same time is the Budget's business.
    running = to_thread.run_sync(work, abandon_on_cancel=True, limiter=CapacityLimiter(1))
    return asyncio.run_coroutine_threadsafe(running, _loop())


class Tee:
    """What DSPy's `send_stream` setting takes: gives the text of each piece to `on_text`, in the caller's context."""

    def __init__(self, on_text: OnText) -> None:
        self._on_text = on_text

    async def send(self, piece: Any) -> None:
        for choice in getattr(piece, "choices", None) or ():
            text = getattr(choice.delta, "content", None)
            if text:
                self._on_text(text)


@cache
def _loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="fleet-lm", daemon=True).start()
    return loop
