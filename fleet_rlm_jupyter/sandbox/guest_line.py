"""The guest's end of the line: frames that may have to be sent again, calls to the host. Runs in the sandbox."""

from __future__ import annotations

import collections
import os
import queue
import threading
from typing import Any

from .codec import MAX_INLINE, MAX_UNACKED, MAX_UNACKED_BYTES, Frame, dumps, encode, loads, pack, unpack
from .output import Brake

SPILL = os.path.abspath(".fleet")


class Outbox:
    """Frames to the host, numbered; those it has not acknowledged are kept for the case that the line breaks."""

    def __init__(self, fd: int, brake: Brake) -> None:
        self._fd = fd
        self._brake = brake
        self._pid = os.getpid()
        self._next = 1
        self._unacked: collections.deque[tuple[int, bytes]] = collections.deque()
        self._bytes = 0
        self._room = threading.Condition(threading.Lock())

    def send(self, frame: Frame) -> None:
        """Blocks while too much is under way: a host that does not read holds the cell, not its memory."""
        if os.getpid() != self._pid:
            raise RuntimeError("host functions and SUBMIT work in the REPL's own process, not in one forked from it")
        with self._brake, self._room:
            while len(self._unacked) >= MAX_UNACKED or self._bytes >= MAX_UNACKED_BYTES:
                self._room.wait()
            data = encode({"s": self._next, **frame})
            self._unacked.append((self._next, data))
            self._bytes += len(data)
            self._next += 1
            self._write(data)

    def acknowledge(self, number: int) -> None:
        with self._room:
            while self._unacked and self._unacked[0][0] <= number:
                self._bytes -= len(self._unacked.popleft()[1])
            self._room.notify_all()

    def resume(self, number: int) -> None:
        """The host is back and has everything up to `number`: send the rest again."""
        self.acknowledge(number)
        with self._room:
            for _, data in self._unacked:
                self._write(data)

    def _write(self, data: bytes) -> None:
        while data:
            data = data[os.write(self._fd, data) :]


class Callbacks:
    """Calls to the host that wait for their answer; any thread, many at once."""

    def __init__(self, outbox: Outbox, brake: Brake) -> None:
        self._outbox = outbox
        self._brake = brake
        self._lock = threading.Lock()
        self._next = 0
        self._waiting: dict[str, tuple[int, queue.SimpleQueue[Frame]]] = {}

    def call(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        frame: Frame = {"t": "call", "c": self._brake.cell, "fn": name}
        packed = pack([list(args), kwargs])
        data = dumps(packed)
        answer: queue.SimpleQueue[Frame] = queue.SimpleQueue()
        with self._brake, self._lock:
            self._next += 1
            number = frame["i"] = str(self._next)
            self._waiting[number] = threading.get_ident(), answer
        path = ""
        try:
            if len(data) > MAX_INLINE:
                path = frame["f"] = spill(f"call-{number}", data)
            else:
                frame["a"], frame["k"] = packed
            self._outbox.send(frame)
            return self._value(answer.get())
        finally:
            with self._brake, self._lock:
                del self._waiting[number]
            if path:
                os.unlink(path)

    def resolve(self, frame: Frame) -> None:
        with self._lock:
            _, answer = self._waiting.get(str(frame.get("i")), (0, None))
        if answer is not None:
            answer.put(frame)
        elif "f" in frame:
            os.unlink(frame["f"])

    def interrupt(self) -> None:
        """End every call that another thread than the main one waits for; that one gets the signal."""
        main = threading.main_thread().ident
        with self._lock:
            waiting = [answer for thread, answer in self._waiting.values() if thread != main]
        for answer in waiting:
            answer.put({"e": {"type": "KeyboardInterrupt", "msg": "interrupted"}})

    @staticmethod
    def _value(frame: Frame) -> Any:
        if "e" in frame:
            error = frame["e"]
            if error["type"] == "KeyboardInterrupt":
                raise KeyboardInterrupt(error["msg"])
            raise RuntimeError(f"{error['type']}: {error['msg']}")
        return unspill(frame["f"]) if "f" in frame else unpack(frame.get("v"))


def spill(name: str, data: bytes) -> str:
    """A file for the host to fetch."""
    path = os.path.join(SPILL, f"{name}-{os.urandom(8).hex()}")
    with open(path, "wb") as file:
        file.write(data)
    return path


def unspill(path: str) -> Any:
    """The value in a file that the host put here for once."""
    with open(path, "rb") as file:
        os.unlink(path)
        return loads(file.read())
