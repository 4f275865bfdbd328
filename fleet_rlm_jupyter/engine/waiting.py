"""Work on threads of its own that somebody waits for: to its end, or to a stop."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from fleet_rlm_jupyter.domain.budget import Budget
from fleet_rlm_jupyter.domain.errors import BadRequest
from fleet_rlm_jupyter.engine import stream
from fleet_rlm_jupyter.engine.controls import Subtrees

_T = TypeVar("_T")


def in_parallel(work: Callable[[Any], _T], items: list[Any], workers: int) -> list[_T]:
    """[work(item) …] on at most `workers` threads, order kept; each in a copy of this context, or it has no parent."""
    if not items:
        return []
    if workers < 1:
        raise BadRequest("at least one worker is needed")
    with ThreadPoolExecutor(workers, thread_name_prefix="fleet") as pool:
        jobs = [pool.submit(contextvars.copy_context().run, work, item) for item in items]
        return [job.result() for job in jobs]


def unless_stopped(work: Callable[[], _T], budget: Budget, subtrees: Subtrees, here: str | None) -> _T:
    """What `work` returns or raises. A stop of the run, or of the part that is `here`, leaves it and is raised."""
    woken = threading.Event()
    unsubscribe = budget.on_stop(woken.set)
    try:
        with subtrees.waiting(here, woken.set) as check:
            doing = stream.start(work)
            doing.add_done_callback(lambda _: woken.set())
            woken.wait()
            if not doing.done():
                check()
                budget.check()
        return doing.result()
    finally:
        unsubscribe()
