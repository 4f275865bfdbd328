"""The host's end of the line to a guest: sends a cell, serves its calls, comes back with what it did."""

from __future__ import annotations

import collections
import contextvars
import functools
import importlib.util
import io
import marshal
import queue
import re
import threading
import types
import zipfile
from pathlib import Path
from typing import Any, Protocol

from fleet_rlm_jupyter.domain.errors import SandboxLost
from fleet_rlm_jupyter.domain.ports import OnOutput
from fleet_rlm_jupyter.sandbox.callers import Callers, Reply
from fleet_rlm_jupyter.sandbox.cell import CallTool, Cell, CellWatch, Done, News
from fleet_rlm_jupyter.sandbox.codec import MAX_INLINE, Frame, FrameReader, dumps, encode, loads, pack, unpack

GUEST = (
    "codec.py", "artifacts.py", "output.py", "tables.py", "guest_line.py",
    "volume_tool.py", "guest_volume.py", "guest_work.py", "guest_tools.py", "guest.py",
)  # fmt: skip

ACK_EVERY = 16
ACK_BYTES = 128_000
MOST_CALL_THREADS = 64
MOST_WAITING = 4096
MOST_ANSWER_BYTES = 16_000_000
MOST_ARGUMENTS = 256_000_000
"""Answers kept for a line that breaks: more than the sockets between here and the guest can hold."""

_SPILLED = re.compile(r"(?:call-\d+|final)-[0-9a-f]{16}\Z")


class Machine(Protocol):
    """The sandbox as a link sees it. Every method may be called from any thread and raises SandboxLost."""

    home: str

    def send(self, data: bytes) -> None: ...
    def signal(self, pid: int, number: int) -> None: ...
    def put(self, path: str, data: bytes) -> None: ...
    def get(self, path: str, most: int) -> bytes: ...  # ValueError for a larger file


class KernelLink:
    """Frames in, frames out. One cell at a time; `feed` and `interrupt` come from other threads."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._reader = FrameReader()
        self._inbox: queue.SimpleQueue[Frame | News] = queue.SimpleQueue()
        self._last = 0
        self._unacked = self._received = self._acked_bytes = 0
        self._cells = 0
        self._current: Frame | None = None
        self._gone = ""
        self._lock = threading.Lock()
        self._answers: collections.deque[bytes] = collections.deque()
        self._answer_bytes = 0
        self._callers = Callers(MOST_CALL_THREADS)
        self.pid = 0
        self.libraries: frozenset[str] = frozenset()

    # --- from the line's thread ------------------------------------------------------------------------------------

    def feed(self, data: bytes) -> None:
        """Bytes from the terminal. Frames out of turn are dropped: the guest sends them again after `hello`."""
        self._received += len(data)
        for frame in self._reader.feed(data):
            # An honest guest never has so many under way; another must not fill our memory.
            if frame.get("s") == self._last + 1 and self._inbox.qsize() < MOST_WAITING:
                self._last += 1
                self._inbox.put(frame)

    def reconnected(self) -> None:
        """The line broke and is back: have what was missed sent again, and send again what may not have arrived."""
        with self._lock:
            again = [encode({"t": "hello", "n": self._last})]
            if self._current is not None:
                again += [encode(self._current), *self._answers]
            for data in again:
                self._machine.send(data)

    def lost(self, why: str, *, is_line: bool = False) -> None:
        """The guest is gone, or only the line to it, and then nobody knows what it does."""
        self._inbox.put(News("lost", why=why, is_line=is_line))

    def interrupt(self) -> None:
        """Stop the running cell; nothing happens when none runs."""
        current = self._current
        if current is not None:
            self._inbox.put(News("stop", current["c"]))

    # --- from the thread that executes -----------------------------------------------------------------------------

    def wait_ready(self, seconds: float) -> Frame:
        """The guest's first frame. Raises SandboxLost if it does not come."""
        try:
            frame = self._inbox.get(timeout=seconds)
        except queue.Empty:
            raise SandboxLost(f"the sandbox's Python did not start within {seconds:g} seconds", "ask again") from None
        if isinstance(frame, News) or frame["t"] != "ready" or type(frame.get("pid")) is not int:
            why = frame.why if isinstance(frame, News) else "it said something else"
            raise SandboxLost(f"the sandbox's Python did not start: {why}", "ask again")
        self.pid = frame["pid"]
        said = frame.get("has")
        self.libraries = frozenset(map(str, said)) if isinstance(said, list) else frozenset()
        self._acknowledge()
        return frame

    def run(self, cell: Cell, call_tool: CallTool, on_output: OnOutput | None) -> Done:
        """Run `cell` to its end; calls run in copies of this thread's context. Raises SandboxLost if it must be killed.

        A BaseException of a tool that is no Exception ends the cell and comes out of here; so does whatever is raised
        in this thread meanwhile, a Ctrl-C for one.
        """
        if self._gone:
            raise SandboxLost(f"the sandbox's Python ended: {self._gone}", "its variables are gone; ask again")
        self._cells += 1
        frame = self._frame_of(cell)
        with self._lock:
            self._current, self._answer_bytes = frame, 0
            self._answers.clear()
        watch = CellWatch(self, frame["c"], cell, call_tool, on_output)
        try:
            self._machine.send(encode(frame))
            return watch.serve()
        except SandboxLost as err:
            self._gone = err.text
            raise
        except BaseException:
            self._gone = watch.gone if watch.is_over else watch.abandon()
            raise
        finally:
            self._current = None

    def close(self) -> None:
        """No call begins any more; those that run are left alone."""
        self._callers.close()

    def _frame_of(self, cell: Cell) -> Frame:
        frame: Frame = {
            "t": "exec",
            "c": str(self._cells),
            "code": cell.code,
            "limits": {"chars": cell.output_chars},
            "tools": cell.tools,
            "set": cell.inputs,
        }
        optional = {"fields": cell.fields, "put": cell.values, "rm": cell.dropped, "pull": cell.pull}
        frame.update({name: value for name, value in optional.items() if value})
        return frame

    # --- for the watch over a cell -----------------------------------------------------------------------------------

    def next(self, seconds: float | None) -> Frame | News:
        """What happens next; raises queue.Empty if nothing does within `seconds`."""
        item = self._inbox.get(timeout=seconds)
        if not isinstance(item, News):
            self._unacked += 1
            is_due = self._unacked >= ACK_EVERY or self._received - self._acked_bytes >= ACK_BYTES
            if is_due or item["t"] == "done":
                self._acknowledge()
        return item

    def answer(self, cell: str, frame: Frame, call_tool: CallTool) -> None:
        """Serve one call of the guest on a thread of its own, in a copy of this thread's context."""
        context = contextvars.copy_context()

        def work() -> None:
            reply = Reply()
            with reply:
                reply.said = self._result(frame, call_tool)
            if reply.said is None:  # a cancel: the cell ends, no answer is due
                self._inbox.put(News("raised", cell, error=reply.error))
                return
            self._send_answer(encode({"t": "ret", "i": frame.get("i"), **reply.said}))
            self._inbox.put(News("answered", cell))

        self._callers.submit(lambda: context.run(work))

    def send_interrupt(self, number: str) -> None:
        self._machine.send(encode({"t": "int", "c": number}))

    def send_signal(self, number: int) -> None:
        self._machine.signal(self.pid, number)

    def spilled(self, path: object, most: int) -> Any:
        """The value in a file that the guest left for us, of at most that many bytes."""
        return loads(self.fetched(path, most))

    def fetched(self, path: object, most: int) -> bytes:
        """What is in such a file: only from its own folder, whatever it says."""
        name = str(path).rpartition("/")[2]
        if not _SPILLED.match(name):
            raise ValueError("the sandbox named a file that is none of its messages")
        return self._machine.get(f"{self._machine.home}/.fleet/{name}", most)

    def _acknowledge(self) -> None:
        self._unacked, self._acked_bytes = 0, self._received
        self._machine.send(encode({"t": "ack", "n": self._last}))

    def _send_answer(self, data: bytes) -> None:
        with self._lock:
            self._answers.append(data)
            self._answer_bytes += len(data)
            while self._answer_bytes > MOST_ANSWER_BYTES:
                self._answer_bytes -= len(self._answers.popleft())
            self._machine.send(data)

    def _result(self, frame: Frame, call_tool: CallTool) -> Frame:
        args, kwargs = self._arguments(frame)
        packed = pack(call_tool(str(frame.get("fn")), args, kwargs))
        data = dumps(packed)
        if len(data) <= MAX_INLINE:
            return {"v": packed}
        path = f"{self._machine.home}/.fleet/answer-{self.pid}-{int(str(frame.get('i')))}"
        self._machine.put(path, data)
        return {"f": path}

    def _arguments(self, frame: Frame) -> tuple[list[Any], dict[str, Any]]:
        """The arguments of a call, as far as they can be trusted: a list and a dict with text keys, or ValueError."""
        given = (
            self.spilled(frame["f"], MOST_ARGUMENTS)
            if "f" in frame
            else [unpack(frame.get("a")), unpack(frame.get("k"))]
        )
        if isinstance(given, list) and len(given) == 2:
            args, kwargs = given
            if isinstance(args, list) and isinstance(kwargs, dict) and all(type(key) is str for key in kwargs):
                return args, kwargs
        raise ValueError("the call's arguments cannot be read")


@functools.cache
def guest_archive() -> bytes:
    """The package `fleet_guest` that runs in a sandbox, as one file to import from, compiled for a Python like ours.

    Stored, not deflated, so that a Python without zlib can read it too.
    """
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as package:
        package.writestr("fleet_guest/__init__.py", b"")
        for name in GUEST:
            source = Path(__file__).with_name(name).read_bytes()
            code = compile(source, f"<fleet_guest>/{name}", "exec", dont_inherit=True)
            package.writestr(f"fleet_guest/{name}c", _compiled(source, code))
            package.writestr(f"fleet_guest/{name}", source)  # for another Python, which passes over the one before
    return archive.getvalue()


def _compiled(source: bytes, code: types.CodeType) -> bytes:
    """A .pyc that is valid whatever the times of the files are (PEP 552, an unchecked hash)."""
    flags = 0b01.to_bytes(4, "little")
    return importlib.util.MAGIC_NUMBER + flags + importlib.util.source_hash(source) + marshal.dumps(code)
