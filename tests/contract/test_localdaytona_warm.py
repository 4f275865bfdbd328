"""A program forked from the warm Python finds what `python3` would have given it, and nothing of the server's."""

import contextlib
import json
import uuid
from typing import Any

from daytona import DaytonaConnectionError

pytest_plugins = ["contract.localdaytona_fixture"]

LOOK = """
import json, os, signal, sys, threading
import asyncio, multiprocessing, subprocess
async def waits():
    await asyncio.sleep(0)
    return "awaited"
print("<<" + json.dumps({
    "path": sys.path, "executable": sys.executable, "prefix": sys.prefix, "version": sys.version, "argv": len(sys.argv),
    "environ": {k: v for k, v in os.environ.items() if k not in (
        "LOCALDAYTONA_WARM_MODULE", "SHLVL", "_", "PWD", "OLDPWD", "COLUMNS", "LINES")},
    "cwd": os.getcwd(), "fds": [os.ttyname(n) == os.ttyname(0) for n in range(3)],
    "open": sorted(n for n in map(int, os.listdir("/proc/self/fd")) if n > 4),
    "interrupt": signal.getsignal(signal.SIGINT) is signal.default_int_handler,
    "child": str(signal.getsignal(signal.SIGCHLD)), "pipe": str(signal.getsignal(signal.SIGPIPE)),
    "main": threading.current_thread() is threading.main_thread(), "threads": threading.active_count(),
    "async": asyncio.run(waits()), "status": os.access("/proc/self/environ", os.R_OK),
    "sub": subprocess.check_output([sys.executable, "-c", "print(1)"], text=True),
    "session": os.getsid(0) == os.getpid(), "tty": os.tcgetpgrp(0) == os.getpgrp(),
}) + ">>", flush=True)
"""


def run(sandbox: Any, module: str, **envs: str) -> tuple[int | None, bytes]:
    """The exit code of `module`, run on a terminal, and what it said."""
    said = bytearray()
    handle = sandbox.process.create_pty_session(
        id=uuid.uuid4().hex, envs={"PS1": "", "TERM": "dumb", "PYTHONPATH": f"{sandbox.get_work_dir()}/lib", **envs}
    )
    # Where a forked program reads the terminal, this is noise; and one that is over already takes nothing.
    with contextlib.suppress(DaytonaConnectionError):
        handle.send_input(f"exec python3 -u -m {module}\n")
    result = handle.wait(said.extend)
    return result.exit_code, bytes(said)


def look(sandbox: Any, **envs: str) -> dict[str, Any]:
    text = run(sandbox, "looking", **envs)[1].decode()
    return json.loads(text[text.index("<<") + 2 : text.index(">>")].replace("\r\n", ""))


def test_it_looks_as_if_python_had_been_started(sandbox):
    sandbox.fs.upload_file(LOOK.encode(), "lib/looking.py")
    started = look(sandbox)
    forked = look(sandbox, LOCALDAYTONA_WARM_MODULE="looking")
    assert forked == started
    assert forked["open"] == []


def test_what_it_finds_missing_is_said_and_its_exit_code_is_told(sandbox):
    exit_code, said = run(sandbox, "no_such_module", LOCALDAYTONA_WARM_MODULE="no_such_module")
    assert exit_code == 1
    assert b"no_such_module" in said.replace(b"-m no_such_module", b"")  # where a shell echoes it


def test_nothing_of_other_sandboxes_is_in_its_memory(client):
    other = client.create(timeout=30)
    third = client.create(timeout=30)
    search = """
import gc
seen = [thing for thing in gc.get_objects() if type(thing).__name__ == "SandboxPlan"]
print("<<%d>>" % len(seen), [thing.sandbox_id for thing in seen])
"""
    third.fs.upload_file(search.encode(), "lib/searching.py")
    _, said = run(third, "searching", LOCALDAYTONA_WARM_MODULE="searching")
    assert b"<<" in said
    assert other.id.encode() not in said
    for made in (other, third):
        made.delete(30)
