"""What a cell prints, whoever prints it: Python, threads, subprocesses. Runs in the sandbox; standard library only."""

from __future__ import annotations

import codecs
import collections
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from .codec import CHUNK, Frame

FLUSH_SECONDS = 0.02
SIGNAL_SECONDS, MOST_SIGNALS = 0.05, 50
_SPAWNS = {"os.system", "os.posix_spawn", "os.spawn", "os.exec", "subprocess.Popen", "os.fork", "os.forkpty"}


class Brake:
    """Ctrl-C for the main thread's cell, held back while that thread is inside `with brake`.

    Without it an interrupt could cut a frame in two, and the line would never recover.
    """

    def __init__(self) -> None:
        self._main = threading.get_ident()
        self._depth = 0
        self._is_due = False
        self._heard = 0
        self._doomed = ""
        self.cell = ""

    def begin(self, cell: str) -> None:
        """From here on interrupts are for `cell`."""
        self.cell = cell
        self._is_due = self._doomed == cell

    def end(self) -> None:
        """From here on an interrupt is for nobody."""
        self.cell = ""

    def doom(self, cell: str) -> None:
        """Interrupt `cell`, also if it has not begun yet."""
        self._doomed = cell
        if self.cell == cell:
            try:
                threading.Thread(target=self._stop, args=(cell,), daemon=True).start()
            except RuntimeError:  # the cell took all the threads there are; the host signals again if this is not heard
                signal.pthread_kill(self._main, signal.SIGINT)

    def _stop(self, cell: str) -> None:
        """Interrupt the running cell.

        A signal, since that also wakes a sleep or a lock; repeated until it is heard, since one that arrives just
        before the main thread begins to wait would be seen only after the wait.
        """
        heard = self._heard
        for _ in range(MOST_SIGNALS):
            if self.cell != cell or self._heard != heard:
                return
            signal.pthread_kill(self._main, signal.SIGINT)
            time.sleep(SIGNAL_SECONDS)

    def on_signal(self, number: int, frame: Any) -> None:
        self._heard += 1
        if self.cell and self._depth:
            self._is_due = True
        elif self.cell:
            self._is_due = False
            raise KeyboardInterrupt("interrupted")

    def __enter__(self) -> None:
        if threading.get_ident() == self._main:
            self._depth += 1

    def __exit__(self, *_: object) -> None:
        if threading.get_ident() != self._main:
            return
        # In this order: a signal between the two lines raises by itself, none is left for later.
        self._depth -= 1
        if self._is_due and self.cell and not self._depth:
            self._is_due = False
            raise KeyboardInterrupt("interrupted")


class Output:
    """What a cell prints: the head goes out at once, the tail at the end, and what lies between is counted.

    What is printed between two cells, by threads and processes that go on, is shown with the next one.
    """

    def __init__(self, send: Callable[[Frame], None], brake: Brake) -> None:
        self._send = send
        self._brake = brake
        self._lock = threading.Lock()
        self._woken = threading.Event()
        self._cell = ""
        self._pending: list[tuple[str, str]] = []
        self._held = 0
        self._room = 0
        self._tail: collections.deque[tuple[str, str]] = collections.deque()
        self._tail_chars = self._left_out = 0
        self._most_tail = CHUNK
        threading.Thread(target=self._flush_often, daemon=True).start()

    def begin(self, cell: str, chars: int) -> None:
        with self._lock:
            earlier = list(self._tail)
            self._tail.clear()
            self._tail_chars = self._left_out = 0
            self._cell, self._room, self._most_tail = cell, chars - chars // 2, chars // 2
        for stream, text in earlier:
            self.write(stream, text)

    def write(self, stream: str, text: str) -> None:
        with self._brake:
            with self._lock:
                live, rest = text[: self._room], text[self._room :]
                if live:
                    self._room -= len(live)
                    self._pending.append((stream, live))
                    self._held += len(live)
                if rest:
                    self._keep_tail(stream, rest)
                is_full = self._held >= CHUNK
            if is_full:
                self.flush()
            elif live and not self._woken.is_set():
                self._woken.set()

    def flush(self) -> None:
        with self._brake, self._lock:
            pending, self._pending, self._held = self._pending, [], 0
            self._emit(pending)

    def end(self) -> None:
        """Send what is left: pending text, how much was left out, the tail."""
        with self._lock:
            pending, self._pending, self._held = self._pending, [], 0
            if self._left_out:
                pending.append(("stdout", f"\n… {self._left_out:,} characters left out …\n"))
            pending.extend(self._tail)
            self._tail.clear()
            self._emit(pending)
            self._cell, self._room, self._tail_chars, self._left_out = "", 0, 0, 0

    def _keep_tail(self, stream: str, text: str) -> None:
        if len(text) > self._most_tail:
            self._left_out += len(text) - self._most_tail
            text = text[len(text) - self._most_tail :]
        self._tail.append((stream, text))
        self._tail_chars += len(text)
        while self._tail_chars > self._most_tail:
            first_stream, first = self._tail.popleft()
            over = min(len(first), self._tail_chars - self._most_tail)
            self._left_out += over
            self._tail_chars -= over
            if over < len(first):
                self._tail.appendleft((first_stream, first[over:]))

    def _emit(self, pieces: list[tuple[str, str]]) -> None:
        joined: list[tuple[str, list[str]]] = []
        for stream, text in pieces:
            if joined and joined[-1][0] == stream:
                joined[-1][1].append(text)
            else:
                joined.append((stream, [text]))
        for stream, texts in joined:
            text = "".join(texts)
            for at in range(0, len(text), CHUNK):
                self._send({"t": "out", "c": self._cell, "k": stream, "x": text[at : at + CHUNK]})

    def _flush_often(self) -> None:
        rest = threading.Event()
        while True:
            self._woken.wait()
            rest.wait(FLUSH_SECONDS)
            self._woken.clear()
            self.flush()


class Pump:
    """Carries what arrives at a file descriptor (subprocesses, C code) into the cell's output."""

    def __init__(self, output: Output, brake: Brake, name: str, fd: int) -> None:
        self._output, self._brake, self._name = output, brake, name
        self._reading, writing = os.pipe()
        os.set_blocking(self._reading, False)
        os.dup2(writing, fd)
        os.close(writing)
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._lock = threading.Lock()
        threading.Thread(target=self._run, daemon=True).start()

    def drain(self) -> None:
        """Everything written before now has arrived when this returns."""
        with self._brake, self._lock:
            for _ in range(32):  # a process that never stops writing must not hold the cell
                try:
                    data = os.read(self._reading, 65536)
                except BlockingIOError:
                    return
                if not data:
                    return
                self._output.write(self._name, self._decode(data))

    def _run(self) -> None:
        ready = select.poll()
        ready.register(self._reading, select.POLLIN)
        while not any(event & select.POLLHUP for _, event in ready.poll()):
            self.drain()


class Stream:
    """A text stream for `sys.stdout` and `sys.stderr`: straight into the cell's output, no pipe between."""

    encoding = "utf-8"
    errors = "strict"
    newlines = None
    closed = False

    def __init__(self, output: Output, name: str, fd: int, pump: Pump, spawned: threading.Event) -> None:
        self._output, self._name, self._fd, self._pump, self._spawned = output, name, fd, pump, spawned

    def write(self, text: Any) -> int:
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        if self._spawned.is_set():
            self._pump.drain()  # what a subprocess printed before comes before
        self._output.write(self._name, text)
        return len(text)

    def writelines(self, lines: Any) -> None:
        self.write("".join(lines))

    def flush(self) -> None:
        self._output.flush()

    def isatty(self) -> bool:
        return False

    def writable(self) -> bool:
        return True

    def readable(self) -> bool:
        return False

    def seekable(self) -> bool:
        return False

    def close(self) -> None:
        """Stays open: the next cell prints too."""

    def fileno(self) -> int:
        return self._fd

    @property
    def buffer(self) -> Any:
        return os.fdopen(os.dup(self._fd), "wb", 0)


def redirect(output: Output, brake: Brake) -> Callable[[], None]:
    """Take stdout and stderr of this process for `output`; returns what waits until everything has arrived."""
    spawned = threading.Event()
    sys.addaudithook(lambda event, _: spawned.set() if event in _SPAWNS else None)
    pumps: list[Pump] = []
    for name, fd in (("stdout", 1), ("stderr", 2)):
        pump = Pump(output, brake, name, fd)
        pumps.append(pump)
        setattr(sys, name, Stream(output, name, fd, pump, spawned))

    def in_child() -> None:
        # A forked process must not touch our frames: it prints into the pipes, like any other program.
        for name, fd in (("stdout", 1), ("stderr", 2)):
            setattr(sys, name, open(fd, "w", buffering=1, encoding="utf-8", errors="replace", closefd=False))  # noqa: SIM115

    def settle() -> None:
        for pump in pumps:
            pump.drain()

    os.register_at_fork(after_in_child=in_child)
    return settle
