"""The host's end of the line to a guest: sends a cell, serves its calls, comes back with what it did."""

from __future__ import annotations

import contextvars
import json
import queue
import re
import signal
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol

from fleet_rlm_jupyter.domain.errors import SandboxLost
from fleet_rlm_jupyter.domain.ports import OnOutput
from fleet_rlm_jupyter.sandbox.codec import MAX_INLINE, Frame, FrameReader, encode, pack, unpack

STEP_SECONDS = 3.0
"""How long each rung of the ladder waits: interrupt, signal, kill."""

ACK_EVERY = 16
MOST_CALL_THREADS = 64

_SPILLED = re.compile(r"(?:call-\d+|final)-[0-9a-f]{16}\Z")


class Machine(Protocol):
    """The sandbox as a link sees it. Every method may be called from any thread and raises SandboxLost."""

    home: str

    def send(self, data: bytes) -> None: ...
    def signal(self, pid: int, number: int) -> None: ...
    def put(self, path: str, data: bytes) -> None: ...
    def get(self, path: str) -> bytes: ...


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


@dataclass(slots=True)
class Done:
    """How a cell ended. `final` is what it submitted; `error` the name of what it raised."""

    text: str
    error: str | None = None
    message: str = ""
    trace: str = ""
    final: dict[str, Any] | None = None


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


CallTool = Callable[[str, list[Any], dict[str, Any]], Any]


class KernelLink:
    """Frames in, frames out. One cell at a time; `feed` and `interrupt` come from other threads."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._reader = FrameReader()
        self._inbox: queue.SimpleQueue[Frame] = queue.SimpleQueue()
        self._last = 0
        self._unacked = 0
        self._cells = 0
        self._current: Frame | None = None
        self._answers: dict[str, bytes] = {}
        self._pool = ThreadPoolExecutor(MOST_CALL_THREADS, thread_name_prefix="fleet-call")
        self.pid = 0

    # --- from the line's thread ------------------------------------------------------------------------------------

    def feed(self, data: bytes) -> None:
        """Bytes from the terminal. Frames out of turn are dropped: the guest sends them again after `hello`."""
        for frame in self._reader.feed(data):
            number = frame.get("s")
            if number == self._last + 1:
                self._last += 1
                self._inbox.put(frame)

    def reconnected(self) -> None:
        """The line broke and is back: have what was missed sent again, and send again what may not have arrived."""
        self._machine.send(encode({"t": "hello", "n": self._last}))
        current = self._current
        if current is not None:
            self._machine.send(encode(current))
            for answer in list(self._answers.values()):
                self._machine.send(answer)

    def lost(self, why: str) -> None:
        """The guest is gone."""
        self._inbox.put({"t": "lost", "why": why})

    def interrupt(self) -> None:
        """Stop the running cell; nothing happens when none runs."""
        if self._current is not None:
            self._inbox.put({"t": "stop"})

    # --- from the thread that executes -----------------------------------------------------------------------------

    def wait_ready(self, seconds: float) -> Frame:
        """The guest's first frame. Raises SandboxLost if it does not come."""
        try:
            frame = self._inbox.get(timeout=seconds)
        except queue.Empty:
            raise SandboxLost(f"the sandbox's Python did not start within {seconds:g} seconds", "ask again") from None
        if frame["t"] != "ready":
            raise SandboxLost(f"the sandbox's Python did not start: {frame.get('why', frame['t'])}", "ask again")
        self.pid = int(frame["pid"])
        self._acknowledge()
        return frame

    def run(self, cell: Cell, call_tool: CallTool, on_output: OnOutput | None) -> Done:
        """Run `cell` to its end; calls run in copies of this thread's context. Raises SandboxLost if it must be killed.

        A BaseException of a tool that is no Exception ends the cell and comes out of here.
        """
        self._cells += 1
        frame = self._frame_of(cell)
        self._current, self._answers = frame, {}
        try:
            self._machine.send(encode(frame))
            return self._serve(frame["c"], cell, call_tool, on_output)
        finally:
            self._current = None

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _frame_of(self, cell: Cell) -> Frame:
        frame: Frame = {
            "t": "exec",
            "c": str(self._cells),
            "code": cell.code,
            "limits": {"chars": cell.output_chars},
            "tools": cell.tools,
            "set": cell.inputs,
        }
        optional = {"fields": cell.fields, "put": cell.values, "rm": cell.dropped}
        frame.update({name: value for name, value in optional.items() if value})
        return frame

    def _serve(self, number: str, cell: Cell, call_tool: CallTool, on_output: OnOutput | None) -> Done:
        clock, ladder, texts = _Clock(cell.seconds), _Ladder(self, number), []
        while True:
            frame = self._next(clock, ladder)
            kind = frame["t"]
            if kind == "out" and frame.get("c") == number:
                text = str(frame.get("x", ""))
                texts.append(text)
                if on_output is not None:
                    on_output("stderr" if frame.get("k") == "stderr" else "stdout", text)
            elif kind == "call":
                clock.change_waiting(1)
                self._answer_in_background(frame, call_tool)
            elif kind == "answered":
                clock.change_waiting(-1)
            elif kind == "raised":
                ladder.begin(frame["error"])
            elif kind == "stop":
                ladder.begin(None)
            elif kind == "lost":
                raise SandboxLost(f"the sandbox's Python ended: {frame['why']}", "its variables are gone; ask again")
            elif kind == "done" and frame.get("c") == number:
                self._acknowledge()
                ladder.raise_pending()
                return self._done(frame, "".join(texts))

    def _next(self, clock: _Clock, ladder: _Ladder) -> Frame:
        """The next frame, climbing the ladder and watching the clock while none comes."""
        while True:
            waits = [wait for wait in (clock.remaining(), ladder.remaining()) if wait is not None]
            try:
                frame = self._inbox.get(timeout=max(0.0, min(waits)) if waits else None)
            except queue.Empty:
                if ladder.remaining() is not None:
                    ladder.climb()
                else:
                    ladder.begin(None)
                    clock.left = float("inf")
                continue
            if "s" in frame:
                self._unacked += 1
                if self._unacked >= ACK_EVERY:
                    self._acknowledge()
            return frame

    def _acknowledge(self) -> None:
        self._unacked = 0
        self._machine.send(encode({"t": "ack", "n": self._last}))

    def _answer_in_background(self, frame: Frame, call_tool: CallTool) -> None:
        number = str(frame.get("i"))

        def finish(job: Future[Frame]) -> None:
            error = job.exception()
            if error is not None and not isinstance(error, Exception):
                self._inbox.put({"t": "raised", "error": error})  # a cancel: the cell ends, no answer is due
                return
            said = {"e": {"type": type(error).__name__, "msg": str(error)[:10_000]}} if error else job.result()
            data = encode({"t": "ret", "i": number, **said})
            self._answers[number] = data
            self._machine.send(data)
            self._inbox.put({"t": "answered"})

        context = contextvars.copy_context()
        self._pool.submit(context.run, self._answer, number, frame, call_tool).add_done_callback(finish)

    def _answer(self, number: str, frame: Frame, call_tool: CallTool) -> Frame:
        args, kwargs = self._arguments(frame)
        packed = json.dumps(pack(call_tool(str(frame.get("fn")), args, kwargs)), separators=(",", ":"))
        if len(packed) <= MAX_INLINE:
            return {"v": json.loads(packed)}
        path = f"{self._machine.home}/.fleet/answer-{number}"
        self._machine.put(path, packed.encode())
        return {"f": path}

    def _arguments(self, frame: Frame) -> tuple[list[Any], dict[str, Any]]:
        """The arguments of a call, as far as they can be trusted: a list and a dict with text keys, or ValueError."""
        if "f" in frame:
            args, kwargs = json.loads(self._spilled(frame["f"]))
        else:
            args, kwargs = frame.get("a"), frame.get("k")
        args, kwargs = unpack(args), unpack(kwargs)
        if not isinstance(args, list) or not isinstance(kwargs, dict) or not all(type(key) is str for key in kwargs):
            raise ValueError("the call's arguments cannot be read")
        return args, kwargs

    def _spilled(self, path: object) -> bytes:
        """A file that the guest left for us: only from its own folder, whatever it says."""
        name = str(path).rpartition("/")[2]
        if not _SPILLED.match(name):
            raise ValueError("the sandbox named a file that is none of its messages")
        return self._machine.get(f"{self._machine.home}/.fleet/{name}")

    def _done(self, frame: Frame, text: str) -> Done:
        if frame.get("ok") is True:
            final = unpack(json.loads(self._spilled(frame["final_file"]))) if "final_file" in frame else None
            if "final" in frame:
                final = unpack(frame["final"])
            return Done(text, final=final if isinstance(final, dict) else None)
        error, message, trace = (str(frame.get(name, "")) for name in ("err", "msg", "tb"))
        return Done(text, error or "Error", message, trace)

    def send_interrupt(self, number: str) -> None:
        self._machine.send(encode({"t": "int", "c": number}))

    def send_signal(self, number: int) -> None:
        self._machine.signal(self.pid, number)


class _Ladder:
    """Interrupt, then a signal from outside, then the end of the guest: three seconds for each rung."""

    def __init__(self, link: KernelLink, number: str) -> None:
        self._link = link
        self._number = number
        self._error: BaseException | None = None
        self._rung = 0
        self._deadline: float | None = None

    def begin(self, error: BaseException | None) -> None:
        """Interrupt the cell; `error` is raised in its place once it has ended."""
        self._error = self._error or error
        if self._rung == 0:
            self._link.send_interrupt(self._number)
            self._up()

    def climb(self) -> None:
        if self._rung == 1:
            self._link.send_signal(signal.SIGINT)
            self._up()
        elif self._rung == 2:
            self._link.send_signal(signal.SIGKILL)
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
