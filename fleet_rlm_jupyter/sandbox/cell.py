"""One cell from its start to its end, as the thread sees it that waits for it: output, calls, clock, interrupt."""

from __future__ import annotations

import queue
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from fleet_rlm_jupyter.domain.errors import BadPath, OutcomeUnknown, SandboxLost
from fleet_rlm_jupyter.domain.ports import OnOutput
from fleet_rlm_jupyter.domain.volume import VolumePath
from fleet_rlm_jupyter.sandbox.artifacts import FOLDER, MOST_TOLD
from fleet_rlm_jupyter.sandbox.codec import Frame, loads, unpack
from fleet_rlm_jupyter.sandbox.tables import decoded

STEP_SECONDS = 3.0
MOST_SUBMITTED = 64_000_000  # decoded, shown and kept whole; meanwhile no deadline is looked at
MOST_PULLED = 1 << 30
"""How long each rung of the ladder waits: interrupt, signal, kill."""

CallTool = Callable[[str, list[Any], dict[str, Any]], Any]


@dataclass(frozen=True, slots=True)
class Cell:
    """One piece of code with what it needs. `inputs` is name → key, `values` key → what the guest does not have yet."""

    code: str
    tools: list[str]
    fields: list[dict[str, Any]] | None
    inputs: dict[str, str]
    values: dict[str, Frame]
    dropped: list[str]
    output_chars: int
    seconds: float
    pull: str = ""
    """The variable to bring out, instead of running code."""


@dataclass(slots=True)
class Done:
    """How a cell ended. `final`: what it submitted; `error`: the name of what it raised; `is_unbound`: it never ran.

    `wrote`: paths below artifacts/ that have changed, as the guest says.
    """

    text: str
    error: str | None = None
    message: str = ""
    trace: str = ""
    final: dict[str, Any] | None = None
    is_unbound: bool = False
    value: Any = None
    wrote: list[str] = field(default_factory=list[str])


@dataclass(frozen=True, slots=True)
class News:
    """Something that happened on this side. Never made from what the guest says."""

    kind: Literal["lost", "stop", "answered", "raised"]
    cell: str = ""
    why: str = ""
    error: BaseException | None = None
    is_line: bool = False


class Line(Protocol):
    """What a watch needs of the line to its guest."""

    def next(self, seconds: float | None) -> Frame | News: ...  # raises queue.Empty
    def answer(self, cell: str, frame: Frame, call_tool: CallTool) -> None: ...
    def spilled(self, path: object, most: int) -> Any: ...  # raises ValueError, SandboxError
    def fetched(self, path: object, most: int) -> bytes: ...  # raises ValueError, SandboxError
    def send_interrupt(self, number: str) -> None: ...
    def send_signal(self, number: int) -> None: ...


class CellWatch:
    """One cell from its start to its end, as seen by the thread that executes it."""

    def __init__(self, line: Line, number: str, cell: Cell, call_tool: CallTool, on_output: OnOutput | None) -> None:
        self._line = line
        self._number = number
        self._is_pull = bool(cell.pull)
        self._call_tool = call_tool
        self._on_output = on_output
        self._clock = _Clock(cell.seconds)
        self._seconds = cell.seconds
        self._ladder = _Ladder(line, number)
        self._texts: list[str] = []
        self._room = 2 * cell.output_chars + 1000  # the guest keeps the bound; a forged one must not fill our memory
        self.is_over = False
        self.gone = ""

    def serve(self) -> Done:
        while True:
            item = self._next()
            if isinstance(item, News):
                self._take(item)
            elif item["t"] == "out" and item.get("c") == self._number:
                self._show("stderr" if item.get("k") == "stderr" else "stdout", str(item.get("x", ""))[: self._room])
            elif item["t"] == "call":
                self._clock.change_waiting(1)
                self._line.answer(self._number, item, self._call_tool)
            elif item["t"] == "done" and item.get("c") == self._number:
                self.is_over = True
                self._ladder.raise_pending()
                done = self._done(item)
                done.wrote = artifact_paths(item.get("wrote"))
                return done

    def abandon(self) -> str:
        """Stop the cell, since nobody waits for it any more; why the guest is gone, or nothing if it lives on."""
        self._on_output = None
        self._call_tool = _refuse
        self._ladder.begin(None)
        try:
            self.serve()
        except SandboxLost as err:
            self.gone = err.text
        return self.gone

    def _take(self, news: News) -> None:
        if news.kind == "lost":
            self.is_over, self.gone = True, news.why
            self._ladder.raise_pending()
            if news.is_line:
                text = f"whether the cell came to its end is not known: {news.why}"
                raise OutcomeUnknown(text, "look at what it was to write before you ask again")
            raise SandboxLost(f"the sandbox's Python ended: {news.why}", "its variables are gone; ask again")
        if news.cell != self._number:
            return  # late, from an earlier cell
        if news.kind == "answered":
            self._clock.change_waiting(-1)
        elif news.kind == "raised":
            self._clock.change_waiting(-1)
            self._ladder.begin(news.error)
        else:
            self._ladder.begin(None)

    def _show(self, stream: Literal["stdout", "stderr"], text: str) -> None:
        self._room -= len(text)
        self._texts.append(text)
        if self._on_output is not None and text:
            self._on_output(stream, text)

    def _next(self) -> Frame | News:
        """What happens next, climbing the ladder and watching the clock while nothing does."""
        while True:
            waits = [wait for wait in (self._clock.remaining(), self._ladder.remaining()) if wait is not None]
            try:
                return self._line.next(max(0.0, min(waits)) if waits else None)
            except queue.Empty:
                if self._ladder.remaining() is not None:
                    self._ladder.climb()
                else:
                    self._ladder.begin(None, f"TimeoutError: the cell ran longer than {self._seconds:g} s")
                    self._clock.left = float("inf")

    def _done(self, frame: Frame) -> Done:
        text, is_unbound = "".join(self._texts), frame.get("unbound") is True
        if frame.get("ok") is not True:
            error, message, trace = (str(frame.get(name, ""))[:100_000] for name in ("err", "msg", "tb"))
            if self._ladder.why:
                error, message, trace = "TimeoutError", self._ladder.why, f"{trace.rstrip()}\n{self._ladder.why}"
            return Done(text, error or "Error", message, trace, is_unbound=is_unbound)
        if self._is_pull:
            return self._pulled(text, frame)
        try:
            file = frame.get("final_file")
            final = self._line.spilled(file, MOST_SUBMITTED) if file is not None else unpack(frame.get("final"))
            if final is not None and not isinstance(final, dict):
                raise ValueError("it is no mapping of fields")
        except ValueError as err:
            return Done(text, "ValueError", str(err), f"ValueError: what was submitted cannot be read: {err}")
        return Done(text, final=final)

    def _pulled(self, text: str, frame: Frame) -> Done:
        try:
            data = self._line.fetched(frame.get("value"), MOST_PULLED)
            kind = str(frame.get("kind"))
            if kind not in ("json", "npy", "columns"):
                raise ValueError("it is of no kind that may come out")
            return Done(text, value=loads(data) if kind == "json" else decoded(kind, data))
        except ValueError as err:
            return Done(text, "ValueError", str(err), f"ValueError: the value cannot be read: {err}")
        except ImportError as err:
            return Done(text, "ImportError", str(err), f"ImportError: {err.name} is needed here to take the value in")


@dataclass(slots=True)
class _Clock:
    """The cell's own seconds: they do not pass while it waits for the host."""

    left: float
    waiting: int = 0
    since: float = field(default_factory=time.monotonic)

    def change_waiting(self, by: int) -> None:
        now = time.monotonic()
        if self.waiting == 0:
            self.left -= now - self.since
        self.since = now
        self.waiting += by

    def remaining(self) -> float | None:
        return None if self.waiting else self.left - (time.monotonic() - self.since)


class _Ladder:
    """Interrupt, then a signal from outside, then the end of the guest: three seconds for each rung."""

    def __init__(self, line: Line, number: str) -> None:
        self._line = line
        self._number = number
        self._error: BaseException | None = None
        self._rung = 0
        self._deadline: float | None = None
        self.why = ""

    def begin(self, error: BaseException | None, why: str = "") -> None:
        """Interrupt the cell; `error` is raised in its place once it has ended."""
        self._error = self._error or error
        if self._rung == 0:
            self.why = why
            self._line.send_interrupt(self._number)
            self._up()

    def climb(self) -> None:
        if self._rung == 1:
            self._line.send_signal(signal.SIGINT)
            self._up()
        elif self._rung == 2:
            self._line.send_signal(signal.SIGKILL)
            self._up()
        else:
            self.raise_pending()
            raise SandboxLost("the cell could not be interrupted", "its sandbox was given up; ask again")

    def remaining(self) -> float | None:
        return None if self._deadline is None else self._deadline - time.monotonic()

    def raise_pending(self) -> None:
        if self._error is not None:
            raise self._error

    def _up(self) -> None:
        self._rung += 1
        self._deadline = time.monotonic() + STEP_SECONDS


def artifact_paths(said: object) -> list[str]:
    """Paths below artifacts/, and nothing else, of what the guest said."""
    found: list[str] = []
    for text in said[:MOST_TOLD] if isinstance(said, list) else ():
        try:
            path = VolumePath(str(text))
        except BadPath:
            continue
        if path.root == FOLDER and str(path) != FOLDER:
            found.append(str(path))
    return found


def _refuse(name: str, args: list[Any], kwargs: dict[str, Any]) -> Any:
    raise RuntimeError(f"{name} cannot be called any more: the cell is being stopped")
