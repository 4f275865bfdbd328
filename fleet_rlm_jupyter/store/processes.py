"""Whether the process that works on a run still lives; a process id alone is soon somebody else's."""

from __future__ import annotations

import os
import socket
from pathlib import Path


def here() -> str:
    """This process: host, boot, namespace, process id, and when it started."""
    return f"{_place()} {os.getpid()} {_started(os.getpid())}"


def is_gone(owner: str) -> bool:
    """Whether that process is surely gone: one of another host or namespace cannot be seen from here."""
    place, _, process = owner.partition(" ")
    number, _, started = process.partition(" ")
    host, boot, namespace = place.split("|")
    our_host, our_boot, our_namespace = _place().split("|")
    if host != our_host or not number.isdigit():
        return False
    if boot != our_boot:
        return True
    return namespace == our_namespace and (not _lives(int(number)) or _started(int(number)) != started)


def _place() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        boot = namespace = ""
    return f"{socket.gethostname()}|{boot}|{namespace}"


def _lives(number: int) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _started(number: int) -> str:
    try:
        stat = Path(f"/proc/{number}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return stat.rpartition(")")[2].split()[19]
