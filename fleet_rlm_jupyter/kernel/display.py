"""What an output cell shows: live lines while a run goes on, then the run itself in their place."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable
from html import escape
from typing import Any

from IPython.core.getipython import get_ipython
from IPython.display import display

from fleet_rlm_jupyter.domain.events import (
    BudgetSpent,
    Event,
    RunEnded,
)
from fleet_rlm_jupyter.domain.lines import progress_line
from fleet_rlm_jupyter.kernel.handles import STOP_SECONDS, Handle, Result, Take
from fleet_rlm_jupyter.kernel.page import MARKS, status_word
from fleet_rlm_jupyter.terminal import clean, spend

SHOWN_LINES = 6
SECONDS_BETWEEN = 0.05
SECONDS_BETWEEN_TICKS = 1.0


def show(result: Result) -> None:
    """A run that has ended as an output of its own; as text where there is no front end."""
    if getattr(get_ipython(), "kernel", None) is None:
        print(repr(result))
    else:
        display(result._repr_mimebundle_(), raw=True)  # pyright: ignore[reportPrivateUsage]


class LiveLines:
    """The last few changes of state in one display that is updated; without a front end, one printed line each."""

    def __init__(self) -> None:
        self._begun_handle: Handle | None = None
        self._has_front_end = getattr(get_ipython(), "kernel", None) is not None
        self._shown: Any = None
        self._lines: list[str] = []
        self._spent = ""
        self._is_changed = True
        self._begun = time.monotonic()
        self._updated = 0.0

    @property
    def handle(self) -> Handle:
        """The run's, once it is followed."""
        assert self._begun_handle is not None, "follow comes first"
        return self._begun_handle

    def follow(self, begin: Callable[[Take], object]) -> bool:
        """Begin a run and show it until it ends; True if the user interrupted it, at whatever moment, which cancels it.

        Raises KeyboardInterrupt where it had not begun, and does not any more.
        """
        events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        try:
            begin(self._take)
            if not self._has_front_end:
                print(f"running {clean(self.handle.where)}", flush=True)
            self.handle.live.watch(events.put)
            self._show_until_end(events)
        except KeyboardInterrupt:
            if self._begun_handle is None:
                raise
            self.handle.cancel()
            self._add("stopping; what was found is kept")
            self._update()
            self.handle.result(STOP_SECONDS)
            return True
        return False

    def end(self, result: Result) -> None:
        """Put the result in the place of the lines."""
        if self._shown is None:
            show(result)
        else:
            self._shown.update(result._repr_mimebundle_(), raw=True)  # pyright: ignore[reportPrivateUsage]

    def summary(self, result: Result) -> None:
        """Put one line in the place of the lines: whoever asked has the result."""
        if self._has_front_end:
            line = clean(
                result.mask(f"{MARKS[result.status]} {status_word(result.run)} · {spend(result.run, result.tree)}")
            )
            self._put({"text/plain": line, "text/html": _as_pre("", line)})

    def _take(self, handle: Handle) -> None:
        self._begun_handle = handle

    def _show_until_end(self, events: queue.SimpleQueue[Event]) -> None:
        is_over = False
        while not is_over:
            try:
                event = events.get(timeout=SECONDS_BETWEEN)
                is_over = isinstance(event.fact, RunEnded)
                self._see(event)
            except queue.Empty:
                pass
            now = time.monotonic()
            since = now - self._updated
            if (self._is_changed and since >= SECONDS_BETWEEN) or since >= SECONDS_BETWEEN_TICKS:
                self._update()

    def _see(self, event: Event) -> None:
        if isinstance(event.fact, BudgetSpent):
            self._spent = f"{event.fact.calls} of {event.fact.limits.calls} LM calls"
            self._is_changed = True
        line = progress_line(event)
        if line is not None:
            self._add(line)

    def _add(self, line: str) -> None:
        line = clean(self.handle.mask(line))
        self._lines.append(line)
        self._is_changed = True
        if not self._has_front_end:
            print(line, flush=True)

    def _update(self) -> None:
        self._updated, self._is_changed = time.monotonic(), False
        if not self._has_front_end:
            return
        head = f"running {clean(self.handle.where)} · {time.monotonic() - self._begun:.0f} s" + (
            f" · {self._spent}" if self._spent else ""
        )
        head += " · interrupt the kernel (■) to stop"
        lines = self._lines[-SHOWN_LINES:]
        shown = "\n".join(lines)
        self._put({"text/plain": f"{head}\n{shown}", "text/html": _as_pre(head, shown)})

    def _put(self, data: dict[str, str]) -> None:
        if self._shown is None:
            self._shown = display(data, raw=True, display_id=True)
        else:
            self._shown.update(data, raw=True)


def _as_pre(head: str, text: str) -> str:
    style = (
        "color:var(--jp-content-font-color2, inherit);background:none;margin:0;padding:2px 7px;"
        "white-space:pre-wrap;font-family:var(--jp-code-font-family, ui-monospace, monospace);"
        "font-size:var(--jp-code-font-size, .9em)"
    )
    strong = f"<strong>{escape(head)}</strong>\n" if head else ""
    return f'<pre style="{style}">{strong}{escape(text)}</pre>'
