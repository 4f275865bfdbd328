"""The REPL inside the sandbox: runs cells, calls back to the host, speaks frames on its terminal.

Uploaded with `codec.py` and `output.py`, started as `python3 -u -m fleet_guest.guest` on a PTY; standard library only.
The main thread runs cells, one thread reads frames, two pump what subprocesses print.
"""

from __future__ import annotations

import ast
import collections
import json
import linecache
import os
import queue
import signal
import sys
import threading
import traceback
import tty
from collections.abc import Callable
from typing import Any

from .codec import MAX_INLINE, MAX_UNACKED, PROTOCOL, Frame, FrameReader, encode, fresh, pack, unpack
from .output import Output, Pump, Stream

SPILL = ".fleet"


class Submitted(BaseException):
    """SUBMIT was called: nothing of the cell runs any more, and no `except Exception` of it stops that."""

    def __init__(self, value: dict[str, Any]) -> None:
        super().__init__("submitted")
        self.value = value


class Outbox:
    """Frames to the host, numbered; those it has not acknowledged are kept for the case that the line breaks."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._next = 1
        self._unacked: collections.deque[tuple[int, bytes]] = collections.deque()
        self._room = threading.Condition(threading.RLock())

    def send(self, frame: Frame) -> None:
        """Blocks while MAX_UNACKED frames are under way: a host that does not read holds the cell, not its memory."""
        with self._room:
            while len(self._unacked) >= MAX_UNACKED:
                self._room.wait()
            data = encode({"s": self._next, **frame})
            self._unacked.append((self._next, data))
            self._next += 1
            self._write(data)

    def acknowledge(self, number: int) -> None:
        with self._room:
            while self._unacked and self._unacked[0][0] <= number:
                self._unacked.popleft()
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

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._lock = threading.Lock()
        self._next = 0
        self._waiting: dict[str, queue.SimpleQueue[Frame]] = {}

    def call(self, cell: str, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        packed = json.dumps([pack(list(args)), pack(kwargs)], separators=(",", ":"))
        answer: queue.SimpleQueue[Frame] = queue.SimpleQueue()
        with self._lock:
            self._next += 1
            number = str(self._next)
            self._waiting[number] = answer
        frame: Frame = {"t": "call", "i": number, "c": cell, "fn": name}
        if len(packed) > MAX_INLINE:
            frame["f"] = spill(f"call-{number}", packed.encode())
        else:
            frame["a"], frame["k"] = json.loads(packed)
        try:
            self._outbox.send(frame)
            return self._value(answer.get())
        finally:
            with self._lock:
                self._waiting.pop(number, None)

    def resolve(self, frame: Frame) -> None:
        with self._lock:
            answer = self._waiting.get(str(frame.get("i")))
        if answer is not None:
            answer.put(frame)

    def interrupt(self) -> None:
        with self._lock:
            waiting = list(self._waiting.values())
        for answer in waiting:
            answer.put({"e": {"type": "KeyboardInterrupt", "msg": "interrupted"}})

    @staticmethod
    def _value(frame: Frame) -> Any:
        if "e" in frame:
            error = frame["e"]
            if error["type"] == "KeyboardInterrupt":
                raise KeyboardInterrupt(error["msg"])
            raise RuntimeError(f"{error['type']}: {error['msg']}")
        return unpack(unspill(frame["f"]) if "f" in frame else frame.get("v"))


def spill(name: str, data: bytes) -> str:
    """A file for the host to fetch."""
    path = os.path.abspath(os.path.join(SPILL, f"{name}-{os.urandom(8).hex()}"))
    with open(path, "wb") as file:
        file.write(data)
    return path


def unspill(path: str) -> Any:
    """The JSON of a file that the host put here for once."""
    with open(path, "rb") as file:
        value = json.load(file)
    os.unlink(path)
    return value


class Repl:
    """The namespace of the cells and how one of them runs."""

    def __init__(self, callbacks: Callbacks, output: Output) -> None:
        self.namespace: dict[str, Any] = {"__name__": "__main__", "__builtins__": __builtins__}
        self.running = ""
        self._callbacks = callbacks
        self._output = output
        self._values: dict[str, Any] = {}
        self._fields: list[dict[str, Any]] | None = None
        self._tools: set[str] = set()
        self._count = 0

    def run(self, frame: Frame) -> Frame:
        """Run one cell; the `done` frame. `rm` in it drops values that no name uses any more."""
        self._count += 1
        name = f"<cell {self._count}>"
        done: Frame = {"t": "done", "c": frame["c"], "ok": True}
        try:
            self._prepare(frame)
            self._execute(frame["code"], name)
        except Submitted as submitted:
            done.update(self._final(submitted.value))
        except SyntaxError as err:
            is_ours = err.filename == name
            text = "".join(traceback.format_exception_only(err)) if is_ours else _trace_of(err)
            done.update(ok=False, err="SyntaxError" if is_ours else "Error", msg=str(err), tb=text)
        except BaseException as err:
            done.update(ok=False, err=type(err).__name__, msg=str(err), tb=_trace_of(err))
        return done

    def _prepare(self, frame: Frame) -> None:
        for key in frame.get("rm", ()):
            self._values.pop(key, None)
        for key, sent in frame.get("put", {}).items():
            self._values[key] = _received(sent)
        for variable, key in frame.get("set", {}).items():
            # Anew for each cell: what a cell did to an input is not seen by the next, as DSPy's semantics want it.
            self.namespace[variable] = fresh(self._values[key])
        self._fields = frame.get("fields")
        self.namespace["SUBMIT"] = self._submit
        for tool in set(frame["tools"]) - self._tools:
            self.namespace[tool] = self._proxy(tool)
        self._tools = set(frame["tools"])

    def _execute(self, code: str, name: str) -> None:
        linecache.cache[name] = (len(code), None, code.splitlines(keepends=True), name)
        tree = ast.parse(code, name)
        last = tree.body[-1] if tree.body else None
        if isinstance(last, ast.Expr):
            tree.body.pop()
        exec(compile(tree, name, "exec"), self.namespace)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), name, "eval"), self.namespace)
            if value is not None:
                sys.stdout.write((value if isinstance(value, str) else repr(value)) + "\n")

    def _submit(self, *args: Any, **kwargs: Any) -> None:
        names = [field["name"] for field in self._fields] if self._fields else ["output"]
        if len(args) > len(names):
            raise TypeError(f"SUBMIT takes {len(names)} values ({', '.join(names)}), {len(args)} were given")
        given = dict(zip(names, args, strict=False))
        for name, value in kwargs.items():
            if name not in names or name in given:
                raise TypeError(
                    f"SUBMIT takes each of {', '.join(names)} once; {name} is not one of them or came twice"
                )
            given[name] = value
        missing = [name for name in names if name not in given]
        if missing:
            raise TypeError(f"SUBMIT also needs {', '.join(missing)}")
        raise Submitted(given)

    def _proxy(self, tool: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            return self._callbacks.call(self.running, tool, args, kwargs)

        call.__name__ = call.__qualname__ = tool
        return call

    @staticmethod
    def _final(value: dict[str, Any]) -> Frame:
        try:
            text = json.dumps(pack(value), separators=(",", ":"))
        except (TypeError, ValueError) as err:
            return {"ok": False, "err": type(err).__name__, "msg": str(err), "tb": f"SUBMIT: {err}"}
        return {"final_file": spill("final", text.encode())} if len(text) > MAX_INLINE else {"final": json.loads(text)}


def _received(sent: Frame) -> Any:
    """A value that the host sent: inline, or as a file of text or JSON that stays for as long as the sandbox lives."""
    if "text" in sent:
        with open(sent["text"], encoding="utf-8", errors="surrogatepass", newline="") as file:
            return file.read()
    if "bytes" in sent:
        with open(sent["bytes"], "rb") as file:
            return file.read()
    if "json" in sent:
        with open(sent["json"], "rb") as file:
            return unpack(json.load(file))
    return unpack(sent["v"])


def _trace_of(err: BaseException) -> str:
    """The traceback as the cell's author sees it: without our own frames."""
    told = traceback.TracebackException.from_exception(err)
    here = os.path.dirname(os.path.abspath(__file__))
    seen = told
    while seen is not None:
        kept = [frame for frame in seen.stack if not frame.filename.startswith(here)]
        seen.stack = traceback.StackSummary.from_list(kept)
        seen = seen.__cause__ or seen.__context__
    return "".join(told.format())


class Guest:
    """Wires terminal, threads and REPL together."""

    def __init__(self) -> None:
        self._terminal = os.dup(0)
        os.set_inheritable(self._terminal, False)
        tty.setraw(self._terminal)
        self._outbox = Outbox(self._terminal)
        self._output = Output(self._outbox.send)
        self._callbacks = Callbacks(self._outbox)
        self._repl = Repl(self._callbacks, self._output)
        self._cells: queue.SimpleQueue[Frame] = queue.SimpleQueue()
        self._seen = 0
        self._redirect()

    def serve(self) -> None:
        os.makedirs(SPILL, exist_ok=True)
        signal.signal(signal.SIGINT, self._interrupted)
        threading.Thread(target=self._read, daemon=True).start()
        ready = {"t": "ready", "pid": os.getpid(), "py": sys.version.split()[0], "proto": PROTOCOL, "cwd": os.getcwd()}
        self._outbox.send(ready)
        while True:
            frame = self._cells.get()
            self._output.begin(frame["c"], int(frame.get("limits", {}).get("chars", 100_000)))
            self._repl.running = frame["c"]
            done = self._repl.run(frame)
            self._repl.running = ""  # from here on an interrupt is for nobody
            for pump in self._pumps:
                pump()
            self._output.end()
            self._outbox.send(done)

    def _interrupted(self, number: int, frame: Any) -> None:
        if self._repl.running:
            raise KeyboardInterrupt("interrupted")

    def _read(self) -> None:
        reader = FrameReader()
        while data := os.read(self._terminal, 65536):
            for frame in reader.feed(data):
                self._take(frame)
        os._exit(0)

    def _take(self, frame: Frame) -> None:
        kind = frame["t"]
        if kind == "exec":
            if int(frame["c"]) > self._seen:  # a host that came back sends again what may have arrived
                self._seen = int(frame["c"])
                self._cells.put(frame)
        elif kind == "ret":
            self._callbacks.resolve(frame)
        elif kind == "ack":
            self._outbox.acknowledge(int(frame["n"]))
        elif kind == "hello":
            self._outbox.resume(int(frame["n"]))
        elif kind == "int" and frame.get("c") == self._repl.running:
            self._callbacks.interrupt()
            # A signal, not interrupt_main: it also wakes a sleep or a lock that the main thread waits in.
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    def _redirect(self) -> None:
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.close(null)
        self._pumps: list[Callable[[], None]] = []
        for name, fd in (("stdout", 1), ("stderr", 2)):
            reading, writing = os.pipe()
            os.dup2(writing, fd)
            os.close(writing)
            self._pumps.append(Pump(self._output, name, reading, fd).settle)
            setattr(sys, name, Stream(self._output, name, fd))
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115 - stays open


if __name__ == "__main__":
    Guest().serve()
