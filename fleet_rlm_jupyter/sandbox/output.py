"""What a cell prints, whoever prints it: Python, threads, subprocesses. Runs in the sandbox; standard library only."""

from __future__ import annotations

import codecs
import collections
import os
import threading
from collections.abc import Callable
from typing import Any

from .codec import CHUNK, Frame


class Output:
    """What a cell prints: the head goes out at once, the tail at the end, and what lies between is counted."""

    def __init__(self, send: Callable[[Frame], None]) -> None:
        self._send = send
        self._lock = threading.Lock()
        self._woken = threading.Event()
        self._cell = ""
        self._pending: list[tuple[str, str]] = []
        self._held = 0
        self._room = 0
        self._tail: collections.deque[tuple[str, str]] = collections.deque()
        self._tail_chars = self._left_out = self._most_tail = 0
        threading.Thread(target=self._flush_often, daemon=True).start()

    def begin(self, cell: str, chars: int) -> None:
        with self._lock:
            self._cell, self._room, self._most_tail = cell, chars - chars // 2, chars // 2
            self._tail.clear()
            self._tail_chars = self._left_out = 0

    def write(self, stream: str, text: str) -> None:
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
        elif live:
            self._woken.set()

    def flush(self) -> None:
        with self._lock:
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
            self._cell = ""

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
        while True:
            self._woken.wait()
            self._woken.clear()
            threading.Event().wait(0.02)
            self.flush()


class Stream:
    """sys.stdout or sys.stderr of cells."""

    encoding = "utf-8"
    errors = "replace"

    def __init__(self, output: Output, name: str, fd: int) -> None:
        self._output, self._name, self._fd = output, name, fd

    def write(self, text: Any) -> int:
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        self._output.write(self._name, text)
        return len(text)

    def writelines(self, lines: Any) -> None:
        self._output.write(self._name, "".join(lines))

    def flush(self) -> None:
        self._output.flush()

    def isatty(self) -> bool:
        return False

    def writable(self) -> bool:
        return True

    def readable(self) -> bool:
        return False

    def fileno(self) -> int:
        return self._fd

    @property
    def buffer(self) -> Any:
        return os.fdopen(os.dup(self._fd), "wb", 0)


class Pump:
    """Carries what arrives at a file descriptor (subprocesses, C code) into the cell's output."""

    def __init__(self, output: Output, name: str, reading: int, fd: int) -> None:
        self._output, self._name, self._reading, self._fd = output, name, reading, fd
        self._mark = os.urandom(16)
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._settled = threading.Event()
        threading.Thread(target=self._run, daemon=True).start()

    def settle(self) -> None:
        """Wait until everything written before now has arrived."""
        self._settled.clear()
        try:
            os.write(self._fd, self._mark)
        except OSError:
            return  # the cell closed its own output
        self._settled.wait(5)

    def _run(self) -> None:
        kept = b""
        while data := os.read(self._reading, 65536):
            kept += data
            found = kept.find(self._mark)
            while found >= 0:
                self._show(kept[:found])
                kept = kept[found + len(self._mark) :]
                self._settled.set()
                found = kept.find(self._mark)
            if not kept.endswith(tuple(self._mark[:n] for n in range(1, len(self._mark)))):
                self._show(kept)
                kept = b""

    def _show(self, data: bytes) -> None:
        if data:
            self._output.write(self._name, self._decode(data))
