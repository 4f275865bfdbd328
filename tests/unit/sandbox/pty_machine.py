"""A guest on a terminal of this machine: the same frames, files and signals as in a sandbox, without a server."""

from __future__ import annotations

import contextlib
import os
import pty
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from fleet_rlm_jupyter.domain.errors import SandboxError
from fleet_rlm_jupyter.sandbox.interpreter import SandboxInterpreter
from fleet_rlm_jupyter.sandbox.kernel_link import KernelLink, guest_archive
from fleet_rlm_jupyter.sandbox.machine import GUEST
from fleet_rlm_jupyter.settings import SandboxSettings

SECONDS = 20


class PtyMachine:
    """`Machine` and `Opened` over `pty.openpty`. `cut` and `mend` break the line and bring it back."""

    sandbox_id = "pty"

    def __init__(self) -> None:
        self.home = tempfile.mkdtemp(prefix="fleet-guest-")
        Path(self.home, ".fleet").mkdir()
        guest = Path(self.home, GUEST)
        guest.write_bytes(guest_archive())
        self.link = KernelLink(self)
        self.uploads: list[str] = []
        self.artifacts: list[str] = []
        self.is_full = False
        self._is_cut = False
        self._is_open = True
        self._sending = threading.Lock()
        self._master, slave = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-u", "-m", "fleet_guest.guest"],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            cwd=self.home,
            start_new_session=True,
            env={"PYTHONPATH": str(guest), "PATH": os.defpath, "HOME": self.home},
        )
        os.close(slave)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.link.wait_ready(SECONDS)

    def send(self, data: bytes) -> None:
        with self._sending, contextlib.suppress(OSError):  # EIO: the guest is gone
            while data and not self._is_cut:
                data = data[os.write(self._master, data) :]

    def signal(self, pid: int, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)

    def put(self, path: str, data: bytes) -> None:
        if self.is_full:
            raise SandboxError("the sandbox's disk is full", "pass a smaller context")
        self.uploads.append(path)
        Path(path).write_bytes(data)

    def get(self, path: str, most: int) -> bytes:
        return Path(path).read_bytes()

    def wrote(self, paths: list[str]) -> None:
        self.artifacts += paths

    def cut(self) -> None:
        self._is_cut = True

    def mend(self) -> None:
        self._is_cut = False
        self.link.reconnected()

    def close(self) -> None:
        if not self._is_open:
            return
        self._is_open = False
        self.link.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(SECONDS)
        self._reader.join(SECONDS)
        with self._sending:
            self._is_cut = True  # a call may still be answered on a thread of its own
            os.close(self._master)
        shutil.rmtree(self.home, ignore_errors=True)

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self._master, 32768)
            except OSError:  # EIO: the guest is gone
                break
            if not data:
                break
            if not self._is_cut:
                self.link.feed(data)
        self.link.lost(f"exit code {self.process.wait(SECONDS)}")


def local_interpreter(settings: SandboxSettings | None = None, on_output=None) -> SandboxInterpreter:
    """The interpreter over a PtyMachine."""
    return SandboxInterpreter(PtyMachine, settings or SandboxSettings(), on_output)
