"""The fork server: imports the toolbox once, forks each sandbox, and cleans up when the server is gone."""

import contextlib
import gc
import json
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from fleet_rlm_jupyter.localdaytona import cgroups, isolation, linux, warm
from fleet_rlm_jupyter.localdaytona.folders import remove_tree
from fleet_rlm_jupyter.localdaytona.plan import SandboxPlan, socket_path
from fleet_rlm_jupyter.localdaytona.processtable import members

_GRACE_SECONDS = 1.0


@dataclass
class RunningSandbox:
    """A sandbox that runs: the socket to its toolbox, and the process to kill.

    Not its plan: code in other sandboxes may read what this process knows at their start.
    """

    identifier: str
    level: str
    link: socket.socket
    pid: int = 0
    received: bytes = b""


class Zygote:
    """Reads requests from the server, one JSON object per line, and answers with what happened."""

    def __init__(self, control: socket.socket, base: str, python_path: tuple[str, ...]) -> None:
        self._control = control
        self._python_path = python_path
        self._base = base
        self._children: dict[str, RunningSandbox] = {}
        self._forked: dict[int, Callable[[int], None]] = {}
        self._selector = selectors.DefaultSelector()
        self._doomed: dict[int, float] = {}
        self._groups: dict[str, tuple[str, ...]] = {}
        self._received = b""
        self._open = True

    def serve(self) -> None:
        """Work until the server closes its end, however it died; then leave no process and no folder."""
        wake_reader, wake_writer = socket.socketpair()
        for end in (wake_reader, wake_writer):
            end.setblocking(False)
        signal.set_wakeup_fd(wake_writer.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # the server decides, then closes
            signal.signal(ignored, signal.SIG_IGN)
        self._selector.register(wake_reader, selectors.EVENT_READ, lambda: self._on_child(wake_reader))
        self._selector.register(self._control, selectors.EVENT_READ, self._on_request)
        warm.preload()
        gc.collect()
        gc.freeze()
        while self._open:
            for key, _ in self._selector.select(0.1 if self._doomed else None):
                key.data()
            self._kill_doomed()
        self._clean_up()

    def _on_request(self) -> None:
        try:
            data = self._control.recv(1 << 20)
        except OSError:
            data = b""
        if not data:
            self._open = False
            return
        *lines, self._received = (self._received + data).split(b"\n")
        for line in lines:
            request = json.loads(line)
            match request["op"]:
                case "start":
                    self._start(SandboxPlan.from_json(json.dumps(request["plan"])))
                case "kill":
                    self._kill(request["id"])
                case "remove":
                    self._remove(request["id"], request["path"])
                case other:
                    raise ValueError(f"no such request: {other}")

    def _start(self, plan: SandboxPlan) -> None:
        self._groups[plan.sandbox_id] = plan.groups
        if plan.has_our_python:
            plan = replace(plan, python_path=self._python_path)
        try:
            listener = _listen(plan.socket)
            ours, theirs = socket.socketpair()
            pid = os.fork()
        except OSError as err:
            self._say(plan.sandbox_id, "failed", error=str(err))
            return
        if pid == 0:
            _run_child(lambda: isolation.become(plan, listener, theirs), theirs, keep=(listener, theirs))
        listener.close()
        theirs.close()
        self._forked[pid] = lambda status: None
        child = RunningSandbox(plan.sandbox_id, plan.level, ours, pid)
        self._children[plan.sandbox_id] = child
        self._selector.register(ours, selectors.EVENT_READ, lambda: self._on_link(child))

    def _on_link(self, child: RunningSandbox) -> None:
        try:
            data = child.link.recv(65536)
        except OSError:
            data = b""
        if not data:
            self._forget(child)
            return
        *lines, child.received = (child.received + data).split(b"\n")
        for line in lines:
            said = json.loads(line)
            if "pid" in said:
                child.pid = said["pid"]
                self._forked.setdefault(child.pid, lambda status: None)
            elif "error" in said:
                self._say(child.identifier, "failed", error=said["error"])
            else:
                self._say(child.identifier, "ready", pid=child.pid, python=said.get("python", False))

    def _forget(self, child: RunningSandbox) -> None:
        self._selector.unregister(child.link)
        child.link.close()
        self._children.pop(child.identifier, None)
        self._say(child.identifier, "exit")

    def _kill(self, identifier: str) -> None:
        child = self._children.get(identifier)
        if child is None:
            self._say(identifier, "exit")
        elif child.level == "L3":
            _kill(child.pid)
        else:
            child.link.shutdown(socket.SHUT_WR)  # the toolbox kills its own, then ends
            self._doomed[child.pid] = time.monotonic() + _GRACE_SECONDS

    def _remove(self, identifier: str, path: str) -> None:
        if not path.startswith(f"{self._base}/") or not os.path.lexists(path):
            self._say(identifier, "removed")
            return
        groups = self._groups.pop(identifier, ()) if path == f"{self._base}/{identifier}" else ()
        pid = os.fork()
        if pid == 0:
            _run_child(lambda: _remove_sandbox(path, groups), None, keep=())
        self._forked[pid] = lambda status: self._say(identifier, "removed")

    def _on_child(self, wake: socket.socket) -> None:
        try:
            while wake.recv(4096):
                pass
        except BlockingIOError:
            pass
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            self._forked.pop(pid, lambda status: None)(status)
        if not any(child.level == "L3" for child in self._children.values()):
            # At L3 nothing can be left behind, and the sandbox's own process arrives here by adoption.
            for pid in members(lambda row: row.parent == os.getpid() and row.state != "Z"):
                if pid not in self._forked:
                    _kill(pid)

    def _kill_doomed(self) -> None:
        for pid, deadline in list(self._doomed.items()):
            if pid not in self._forked:
                del self._doomed[pid]
            elif time.monotonic() > deadline:
                _kill(pid)

    def _say(self, identifier: str, event: str, **more: object) -> None:
        try:
            self._control.sendall(json.dumps({"id": identifier, "event": event, **more}).encode() + b"\n")
        except OSError:
            self._open = False

    def _clean_up(self) -> None:
        for child in self._children.values():
            if child.level == "L3":
                _kill(child.pid)
            child.link.close()
        signal.signal(signal.SIGALRM, lambda *_: self._kill_rest())
        signal.setitimer(signal.ITIMER_REAL, _GRACE_SECONDS, 0.2)
        while True:
            try:
                os.waitpid(-1, 0)
            except ChildProcessError:
                break
        signal.setitimer(signal.ITIMER_REAL, 0)
        for groups in self._groups.values():
            cgroups.remove(groups)
        remove_tree(self._base)

    def _kill_rest(self) -> None:
        for pid in members(lambda row: row.parent == os.getpid()):
            _kill(pid)


def _remove_sandbox(folder: str, groups: tuple[str, ...]) -> None:
    cgroups.remove(groups)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(socket_path(folder))
    remove_tree(folder)


def _listen(path: str) -> socket.socket:
    if os.path.lexists(path):
        os.unlink(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(path)
    os.chmod(path, 0o600)
    listener.listen(128)
    listener.setblocking(False)
    return listener


def _run_child(work: Callable[[], None], link: socket.socket | None, keep: tuple[socket.socket, ...]) -> None:
    """Do `work` in this forked process and end it; never returns to the fork server's loop."""
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        kept = sorted(sock.fileno() for sock in keep)
        for low, high in zip([2, *kept], [*kept, 1 << 20], strict=True):
            os.closerange(low + 1, high)
        work()
        code = 0
    except OSError as err:
        if link is not None:
            link.send(json.dumps({"error": str(err)}).encode() + b"\n")
    finally:
        os._exit(code)


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def main(control_fd: int, base: str, python_path: list[str]) -> None:
    if sys.platform == "linux":
        linux.adopt_orphans()
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    Zygote(socket.socket(fileno=control_fd), base, tuple(python_path)).serve()
