"""The REPL inside the sandbox: runs cells, calls back to the host, speaks frames on its terminal.

Uploaded with the modules that it imports, started as `python3 -u -m fleet_guest.guest` on a PTY; standard library only.
The main thread runs cells, one thread reads frames, two pump what subprocesses print.
"""

from __future__ import annotations

import ast
import builtins
import linecache
import os
import queue
import signal
import sys
import threading
import traceback
import tty
import types
from collections.abc import Callable
from typing import Any

from .artifacts import Artifacts
from .codec import MAX_INLINE, PROTOCOL, Frame, FrameReader, dumps, loads, pack, unpack
from .guest_line import SPILL, Callbacks, Outbox, spill
from .guest_tools import TOOLS
from .guest_work import places
from .output import Brake, Output, redirect
from .tables import TABLE_KINDS, decoded, encoded, libraries, renewed

MOST_MESSAGE, MOST_TRACE = 4000, 40_000


class Submitted(SystemExit):
    """SUBMIT was called: nothing of the cell runs any more. A thread that raises it ends without a word."""


class Repl:
    """The namespace of the cells and how one of them runs."""

    def __init__(self, callbacks: Callbacks, brake: Brake) -> None:
        # A real module, so that what cells define can be pickled and its annotations resolved.
        main = sys.modules["__main__"] = types.ModuleType("__main__")
        self.namespace: dict[str, Any] = main.__dict__
        # Below what cells define, inputs and host functions: each of these may have the same name.
        builtins.__dict__.update({tool.__name__: tool for tool in TOOLS})
        self._callbacks = callbacks
        self._brake = brake
        self._values: dict[str, Any] = {}
        self._fields: list[dict[str, Any]] | None = None
        self._submitted: dict[str, Any] | None = None
        self._tools: dict[str, Callable[..., Any]] = {}
        self._count = 0
        self._final_path = ""
        self._last: Any = None

    def run(self, frame: Frame) -> Frame:
        """Run one cell; the `done` frame. `unbound` in it says that its inputs could not be taken in."""
        self._count += 1
        name = f"<cell {self._count}>"
        done: Frame = {"t": "done", "c": frame["c"], "ok": True}
        self._submitted = None
        is_prepared = False
        try:
            try:
                with self._brake:
                    self._brake.begin(frame["c"])
                    self._prepare(frame)
                    is_prepared = True
                if "pull" in frame:
                    done.update(self._pulled(frame["pull"]))
                else:
                    self._execute(frame["code"], name)
            finally:
                self._brake.end()
        except Submitted:
            pass
        except BaseException as err:
            self._brake.end()
            kind = "SyntaxError" if isinstance(err, SyntaxError) and err.filename == name else type(err).__name__
            done.update(ok=False, err=kind, msg=_message_of(err), tb=_trace_of(err))
        if self._submitted is not None:
            done = {"t": "done", "c": frame["c"], "ok": True, **self._final(self._submitted)}
        if not is_prepared:
            done["unbound"] = True
        return done

    def _prepare(self, frame: Frame) -> None:
        if self._final_path:
            os.unlink(self._final_path)
            self._final_path = ""
        for key in frame.get("rm", ()):
            self._values.pop(key, None)
        for key, sent in frame.get("put", {}).items():
            self._values[key] = _received(sent)
        for variable, key in frame.get("set", {}).items():
            # Anew for each cell: what a cell did to an input is not seen by the next, as DSPy's semantics want it.
            self.namespace[variable] = renewed(self._values[key])
        builtins.__dict__.update(places())
        self._fields = frame.get("fields")
        wanted = set(frame["tools"])
        for tool in self._tools.keys() - wanted:
            if self.namespace.get(tool) is self._tools.pop(tool):
                del self.namespace[tool]
        for tool in wanted - self._tools.keys():
            self._tools[tool] = self._proxy(tool)
        self.namespace.update(self._tools, SUBMIT=self._submit)

    def _execute(self, code: str, name: str) -> None:
        linecache.cache[name] = (len(code), None, code.splitlines(keepends=True), name)
        tree = ast.parse(code, name)
        last = tree.body[-1] if tree.body else None
        self._last = None
        if isinstance(last, ast.Expr):
            tree.body.pop()
        # Without dont_inherit the cell's annotations would be texts, as they are in this file.
        exec(compile(tree, name, "exec", dont_inherit=True), self.namespace)
        if isinstance(last, ast.Expr):
            code_of_last = compile(ast.Expression(last.value), name, "eval", dont_inherit=True)
            value = self._last = eval(code_of_last, self.namespace)
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
        packed = pack(given)  # what cannot travel is an error of this line
        dumps(packed)
        self._submitted = packed
        raise Submitted

    def _proxy(self, tool: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            return self._callbacks.call(tool, args, kwargs)

        call.__name__ = call.__qualname__ = tool
        return call

    def _pulled(self, name: str) -> Frame:
        """A variable for the host, "_" for what the last cell ended with: as a file, with the kind of its content."""
        if name != "_" and name not in self.namespace:
            raise NameError(f"there is no variable {name}")
        value = self._last if name == "_" else self.namespace[name]
        kind, data = encoded(value, frozenset(libraries())) or ("json", b"")
        if kind == "arrow":  # made by code that nobody trusts, and Arrow is a large library: a plainer way out
            kind, data = encoded(value, frozenset({"numpy", "pandas"})) or ("json", b"")
        self._final_path = spill("final", data or dumps(pack(value)))
        return {"value": self._final_path, "kind": kind}

    def _final(self, packed: dict[str, Any]) -> Frame:
        data = dumps(packed)
        if len(data) <= MAX_INLINE:
            return {"final": packed}
        try:
            self._final_path = spill("final", data)
        except OSError as err:
            return {"ok": False, "err": "OSError", "msg": str(err), "tb": f"SUBMIT: {err}"}
        return {"final_file": self._final_path}


def _received(sent: Frame) -> Any:
    """A value that the host sent: inline, or as a file of text, bytes, JSON or a table."""
    for kind in ("text", "bytes", "json", *TABLE_KINDS):
        if kind in sent:
            with open(sent[kind], "rb") as file:
                data = file.read()
            os.unlink(sent[kind])
            if kind == "text":
                return data.decode("utf-8", "surrogatepass")
            if kind in TABLE_KINDS:
                return decoded(kind, data)
            return data if kind == "bytes" else loads(data)
    return unpack(sent["v"])


def _message_of(err: BaseException) -> str:
    try:
        return str(err)[:MOST_MESSAGE]
    except Exception as other:
        return f"(its message cannot be shown: {type(other).__name__})"


def _trace_of(err: BaseException) -> str:
    """The traceback as the cell's author sees it: without our own frames, head and tail where it is long."""
    told = traceback.TracebackException.from_exception(err, compact=True)
    here = os.path.dirname(_trace_of.__code__.co_filename)
    seen: traceback.TracebackException | None = told
    while seen is not None:
        kept = [frame for frame in seen.stack if not frame.filename.startswith(here)]
        seen.stack = traceback.StackSummary.from_list(kept)
        seen = seen.__cause__ or seen.__context__
    text = "".join(told.format())
    if len(text) > MOST_TRACE:
        text = (
            f"{text[: MOST_TRACE // 2]}\n… {len(text) - MOST_TRACE:,} characters left out …\n{text[-MOST_TRACE // 2 :]}"
        )
    return text


class Guest:
    """Wires terminal, threads and REPL together."""

    def __init__(self) -> None:
        self._terminal = os.dup(0)
        os.set_inheritable(self._terminal, False)
        tty.setraw(self._terminal)
        self._brake = Brake()
        self._outbox = Outbox(self._terminal, self._brake)
        self._output = Output(self._outbox.send, self._brake)
        self._callbacks = Callbacks(self._outbox, self._brake)
        self._repl = Repl(self._callbacks, self._brake)
        self._cells: queue.SimpleQueue[Frame] = queue.SimpleQueue()
        self._seen = 0
        self._pid = os.getpid()
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.close(null)
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115 - stays open
        self._settle = redirect(self._output, self._brake)

    def serve(self) -> None:
        os.makedirs(SPILL, exist_ok=True)
        self._artifacts = Artifacts()
        signal.signal(signal.SIGINT, self._brake.on_signal)
        threading.Thread(target=self._read, daemon=True).start()
        ready: Frame = {"t": "ready", "pid": os.getpid(), "py": sys.version.split()[0], "proto": PROTOCOL}
        ready["has"] = libraries()
        self._outbox.send(ready)
        while True:
            frame = self._cells.get()
            signal.signal(signal.SIGINT, self._brake.on_signal)  # the last cell may have set its own
            if sys.stdin.closed:  # exit() does that
                sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115 - stays open
            self._output.begin(frame["c"], int(frame.get("limits", {}).get("chars", 100_000)))
            done = self._repl.run(frame)
            if os.getpid() != self._pid:  # the cell forked, and this is the other process
                sys.stdout.flush()
                os._exit(0 if done["ok"] else 1)
            self._settle()
            self._output.end()
            if wrote := self._artifacts.changed():
                done["wrote"] = wrote
            self._outbox.send(done)

    def _read(self) -> None:
        reader = FrameReader()
        try:
            while data := os.read(self._terminal, 65536):
                for frame in reader.feed(data):
                    self._take(frame)
        finally:  # the terminal is gone, or this thread can go on no more: nobody would hear of the cell
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
        elif kind == "int":
            if frame["c"] == self._brake.cell:
                self._callbacks.interrupt()
            self._brake.doom(frame["c"])


if __name__ == "__main__":
    Guest().serve()
