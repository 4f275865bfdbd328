"""A sandbox on its way: a stop does not wait for it, it ends by itself once it is there."""

from __future__ import annotations

import threading
from collections.abc import Callable

from fleet_rlm_jupyter.domain.budget import Budget
from fleet_rlm_jupyter.domain.ports import Interpreter
from fleet_rlm_jupyter.engine import stream
from fleet_rlm_jupyter.engine.controls import Subtrees


class Opening:
    """Starts `inner` once. `gone` is called when an interpreter that was left alone is over."""

    def __init__(self, inner: Interpreter, gone: Callable[[], None]) -> None:
        self._inner = inner
        self._gone = gone
        self._lock = threading.Lock()
        self._is_there = False
        self.is_left = False

    def start(self, budget: Budget, subtrees: Subtrees, here: str | None) -> None:
        """Return when it is there; raises what its start raises, and the stop, at once, if that comes first.

        After a stop nobody may touch the interpreter any more: it is shut down by the thread that starts it.
        """
        woken = threading.Event()
        unsubscribe = budget.on_stop(woken.set)
        try:
            with subtrees.waiting(here, woken.set) as check:
                starting = stream.start(self._start)
                starting.add_done_callback(lambda _: woken.set())
                woken.wait()
                with self._lock:
                    self.is_left = not self._is_there
                if self.is_left:
                    check()
                    budget.check()
            starting.result()
        finally:
            unsubscribe()

    def _start(self) -> None:
        try:
            self._inner.start()
        finally:
            with self._lock:
                self._is_there = True
            if self.is_left:
                self._end()

    def _end(self) -> None:
        try:
            self._inner.shutdown()
        finally:
            self._gone()
