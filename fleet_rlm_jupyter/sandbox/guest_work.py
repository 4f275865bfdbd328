"""Processes in the background, files of the working folder, and where things are, for cells. Runs in the guest.

Standard library only. A process is known by its number also to the REPLs that come after, until the sandbox ends.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from typing import Any, NamedTuple

from .guest_volume import HOME, ROOTS, About, home_of_roots

MOST_LOG = 20_000
STOP_SECONDS = 3
_RECORDS = os.path.join(".fleet", "workspaces")  # see workspace_tool
_STAGED = "context"
_PROCESSES = os.path.join(".fleet", "processes")
_WRAPPED = 'sh -c "$1" >"$2/log" 2>&1; echo $? >"$2/code.new"; mv "$2/code.new" "$2/code"'


class Process(NamedTuple):
    is_running: bool
    exit_code: int | None
    output: str


def start_process(command: str) -> int:
    """Start a shell command in the background: its number for `read_process` and `stop_process`."""
    import subprocess

    number, folder = _new_folder()
    none = subprocess.DEVNULL
    words = ["sh", "-c", _WRAPPED, "sh", command, folder]
    process = subprocess.Popen(words, stdin=none, stdout=none, stderr=none, start_new_session=True)
    process.returncode = 0  # nobody waits for it: `_told` reaps it
    with open(os.path.join(folder, "pid"), "w", encoding="ascii") as file:
        file.write(str(process.pid))
    return number


def read_process(number: int, chars: int = 2000) -> Process:
    """How a process in the background is doing: `is_running`, its `exit_code` when it has ended (None where it was
    stopped), and the last characters of its `output`, at most 20,000.
    """
    folder = _folder_of(number)
    is_running = _is_running(folder)  # first: its output is then whole
    with open(os.path.join(folder, "log"), "rb") as file:
        most = min(chars, MOST_LOG) * 4
        file.seek(max(0, os.path.getsize(file.name) - most))
        output = file.read(most).decode(errors="replace")
    code = _read(os.path.join(folder, "code")).strip()
    return Process(is_running, int(code) if code.lstrip("-").isdigit() else None, output[-min(chars, MOST_LOG) :])


def stop_process(number: int) -> Process:
    """End a process in the background with all that it started: by SIGTERM, after 3 seconds by SIGKILL."""
    import signal
    import time

    folder = _folder_of(number)
    for sent in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + STOP_SECONDS
        while _told(folder, sent) and time.monotonic() < deadline:
            time.sleep(0.01)
            sent = 0
    open(os.path.join(folder, "stopped"), "wb").close()
    return read_process(number)


def write_file(path: str, text: Any, append: bool = False) -> str:
    """Write a file anew, or at its end with `append`, making folders above it. Those that last: `save_to_volume`."""
    if not isinstance(text, str | bytes):
        raise TypeError(f"a file has text or bytes, not {type(text).__name__}: pass str(value) or json.dumps(value)")
    real = os.path.realpath(path)
    if any(f"{real}/".startswith(f"{os.path.realpath(os.path.join(HOME, root))}/") for root in ROOTS):
        raise ValueError(f"{path} is below {', '.join(ROOTS)}, where files are whole: use save_to_volume or add_buffer")
    content = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    with About(path):
        os.makedirs(os.path.dirname(real), exist_ok=True)
        with open(path, "ab" if append else "wb") as file:
            file.write(content)
    return f"{path}: {len(content):,} bytes written"


TOOLS_OF_WORK: tuple[Callable[..., Any], ...] = (start_process, read_process, stop_process, write_file)


def places() -> dict[str, str]:
    """REPO_PATH: the repository last asked about, else the working folder. MEMORY_ROOT: the folder with the roots."""
    repository, latest = HOME, 0
    with contextlib.suppress(OSError):
        for entry in os.scandir(os.path.join(HOME, _RECORDS)):
            name, kind = os.path.splitext(entry.name)
            changed = entry.stat().st_mtime_ns
            if kind == ".json" and name != _STAGED and changed > latest:
                repository, latest = os.path.join(HOME, "workspace", name), changed
    return {"REPO_PATH": repository, "MEMORY_ROOT": home_of_roots()}


def _new_folder() -> tuple[int, str]:
    base = os.path.join(HOME, _PROCESSES)
    os.makedirs(base, exist_ok=True)
    number = len(os.listdir(base))
    while True:
        number += 1
        with contextlib.suppress(FileExistsError):
            os.mkdir(folder := os.path.join(base, str(number)))
            open(os.path.join(folder, "log"), "wb").close()
            return number, folder


def _folder_of(number: int) -> str:
    folder = os.path.join(HOME, _PROCESSES, str(number))
    if type(number) is not int or not os.path.isdir(folder):
        raise ValueError(f"there is no process {number!r}: use the number that start_process gave")
    return folder


def _is_running(folder: str) -> bool:
    is_over = any(os.path.exists(os.path.join(folder, name)) for name in ("code", "stopped"))
    return not is_over and _told(folder, 0)


def _told(folder: str, number: int) -> bool:
    """Whether a signal found the process, or any that it started; 0 only looks."""
    with contextlib.suppress(ValueError, ProcessLookupError):
        pid = int(_read(os.path.join(folder, "pid")))
        with contextlib.suppress(ChildProcessError):  # one that an earlier REPL started is not ours to wait for
            os.waitpid(pid, os.WNOHANG)
        os.killpg(pid, number)
        return True
    return False


def _read(path: str) -> str:
    with contextlib.suppress(FileNotFoundError), open(path, encoding="utf-8") as file:
        return file.read()
    return ""
