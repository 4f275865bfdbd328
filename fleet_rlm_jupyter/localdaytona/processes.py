"""Starts and reaps the processes of one sandbox; runs inside it, as its process 1 at level L3."""

import asyncio
import contextlib
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping

from fleet_rlm_jupyter.localdaytona import linux, warm
from fleet_rlm_jupyter.localdaytona.plan import SandboxPlan
from fleet_rlm_jupyter.localdaytona.processtable import members, rows
from fleet_rlm_jupyter.localdaytona.wire import ApiError

_SHELLS = ("/bin/zsh", "/bin/bash", "/bin/sh")


class SandboxProcesses:
    """All children of the toolbox. The toolbox also adopts orphans, so it must wait for any child."""

    def __init__(self, plan: SandboxPlan, confine: Callable[[], None] | None = None) -> None:
        self._plan = plan
        self._confine = confine
        self.home = plan.home
        self.tmp = plan.tmp
        self._exits: dict[int, asyncio.Future[int]] = {}
        self._popens: dict[int, subprocess.Popen[bytes]] = {}
        self.shell = next(path for path in _SHELLS if os.access(path, os.X_OK))
        self.env = {
            "PATH": plan.path,
            "HOME": plan.home,
            "USER": "daytona",
            "LOGNAME": "daytona",
            "SHELL": self.shell,
            "LANG": "C.UTF-8",
            "TERM": "xterm-256color",
            "TMPDIR": plan.tmp,
            "PYTHONDONTWRITEBYTECODE": "1",
            **plan.env,
        }

    def watch(self) -> None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, self._reap)

    def start(
        self,
        argv: list[str],
        cwd: str,
        extra_env: Mapping[str, str],
        stdin: int,
        stdout: int,
        terminal: bool = False,
        more: tuple[int, ...] = (),
    ) -> tuple[int, asyncio.Future[int]]:
        """Start a process in a session of its own; returns its id and its exit code to come.

        The first of `more` is for errors, which else go where output goes; the others are inherited. The exit code is
        the shell's: 128 + n after signal n. Raises OSError when it cannot start.
        """
        prepare = self._preparation(terminal)
        popen = subprocess.Popen(
            argv,
            stdin=stdin,
            stdout=stdout,
            stderr=more[0] if more else stdout,
            pass_fds=more[1:],
            cwd=cwd,
            env={**self.env, **extra_env},
            start_new_session=not terminal,
            preexec_fn=prepare,
        )
        ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._popens[popen.pid] = popen
        self._exits[popen.pid] = ended
        return popen.pid, ended

    @property
    def has_warm_python(self) -> bool:
        """Whether `fork_python` gives the Python that `python3` is in a shell."""
        return bool(self._plan.python_path)

    def fork_python(
        self, module: str, cwd: str, extra_env: Mapping[str, str], terminal: int
    ) -> tuple[int, asyncio.Future[int]]:
        """Run a Python module on a terminal, forked from this process; what comes back is as of `start`."""
        confine = self._preparation(terminal=False)

        def prepare() -> None:
            os.login_tty(os.dup(terminal))
            if sys.platform == "linux":
                linux.set_dumpable(True)  # as an exec would, or /proc/self were closed to it
            if confine is not None:
                confine()
            os.closerange(3, 1 << 20)

        pid = warm.fork(module, {**self.env, **extra_env}, cwd, self._plan.python_path, prepare)
        ended = self._exits[pid] = asyncio.get_running_loop().create_future()
        return pid, ended

    def kill_session(self, session: int) -> None:
        """Kill every process of the session that `start` made; a shell puts its jobs in groups of their own."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(session, signal.SIGKILL)
        for pid in members(lambda process: process.session == session):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)

    def kill_all(self) -> None:
        """Kill whatever descends from this process; used where no process namespace does it."""
        killed = {os.getpid()}
        for session in list(self._exits):
            self.kill_session(session)
        while found := [row.pid for row in rows() if row.parent in killed and row.pid not in killed]:
            for pid in found:
                killed.add(pid)
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)

    def resolve(self, path: object) -> str:
        """An absolute path; a relative one starts at the work dir."""
        if path is None or path == "":
            return self.home
        if not isinstance(path, str) or "\0" in path:
            raise ApiError(400, "INVALID_FILE_PATH", "a path must be a string without NUL")
        if path == "~" or path.startswith("~/"):
            path = self.home + path[1:]
        return os.path.normpath(os.path.join(self.home, path))

    def _preparation(self, terminal: bool) -> Callable[[], None] | None:
        memory = self._plan.limits.memory_mb << 20
        if not terminal and not memory and self._confine is None:
            return None

        def prepare() -> None:
            if terminal:
                os.login_tty(os.dup(0))
            if memory:
                resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
            if self._confine is not None:
                self._confine()

        return prepare

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            code = os.waitstatus_to_exitcode(status)
            popen = self._popens.pop(pid, None)
            if popen is not None:
                popen.returncode = code
            ended = self._exits.pop(pid, None)
            if ended is not None and not ended.done():
                ended.set_result(code if code >= 0 else 128 - code)


def is_env(name: object, value: object) -> bool:
    """Whether a process can be given this variable."""
    if not isinstance(name, str) or not isinstance(value, str):
        return False
    return bool(name) and "=" not in name and "\0" not in name + value
