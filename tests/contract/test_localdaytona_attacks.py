"""Attacks on the host that Landlock and the filter must stop; the control at L1 shows that each works without them."""

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from contract.localdaytona_server import SECONDS, Server

pytest_plugins = ["contract.localdaytona_fixture"]

HEAD = "import ctypes, os, signal, socket\nlibc = ctypes.CDLL(None, use_errno=True)\n"
SLEEP = "import os, time; print('up', flush=True); time.sleep(60)"
# Each prints `done` when it works. {pid}: a process of the same user; {tcp}, {udp}: ports; {folder}: its files.
ATTACKS = {
    "environment": "assert b'SECRET' in open('/proc/{pid}/environ', 'rb').read()",
    "memory": "open('/proc/{pid}/mem', 'rb')",
    "files by its root": "open('/proc/{pid}/root{folder}/secret').read()",
    "descriptors": "os.readlink('/proc/{pid}/fd/1')",
    "read": "open('{folder}/secret').read()",
    "list": "os.listdir('{folder}')",
    "through a link": "os.symlink('{folder}', 'out-{pid}'); open('out-{pid}/secret').read()",
    "hard link": "os.link('{folder}/secret', 'hard-{pid}'); open('hard-{pid}').read()",
    "write": "open('{folder}/secret', 'a').write('x')",
    "cut": "os.truncate('{folder}/secret', 1)",
    "make": "open('{folder}/new', 'w')",
    "move away": "os.rename('{folder}/new', '{folder}/other')",
    "delete": "os.unlink('{folder}/gone')",
    "tcp": "socket.create_connection(('127.0.0.1', {tcp}), 5)",
    "udp": "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', {udp}))",
    "socket file": "socket.socket(socket.AF_UNIX).connect('{folder}/socket')",
    "abstract socket": "socket.socket(socket.AF_UNIX).connect('\\0fleet-{pid}')",
    "datagram over a pair": "socket.socketpair(type=socket.SOCK_DGRAM)[0].sendto(b'x', '{folder}/datagrams')",
    "shared memory": "assert libc.shmget(0, 4096, 0o1600) >= 0",
    "limits of others": "import resource; resource.prlimit({pid}, resource.RLIMIT_CORE, (0, 0))",
    "ptrace": "assert libc.ptrace(0x4206, {pid}, 0, 0) == 0",
    "signal": "os.kill({pid}, signal.SIGCONT)",
    "signal by descriptor": "signal.pidfd_send_signal(os.pidfd_open({pid}), signal.SIGCONT)",
}


@pytest.fixture
def victim(server: Server, sandbox: Any) -> Iterator[dict[str, object]]:
    """A program of the very user that code in the sandbox runs as, with files, ports and sockets."""
    user = int(sandbox.process.exec("id -u", timeout=5).result)
    with tempfile.TemporaryDirectory(dir="/tmp") as folder, socket.create_server(("127.0.0.1", 0)) as tcp:
        for name in ("secret", "gone"):
            Path(folder, name).write_text("s3cret")
        drop = {"user": user, "group": user, "extra_groups": []} if os.getuid() == 0 else {}
        process = subprocess.Popen(
            ["/usr/bin/python3" if drop else sys.executable, "-I", "-c", SLEEP],
            env={"SECRET": "1"},
            stdout=subprocess.PIPE,
            **drop,
        )
        assert process.stdout is not None
        process.stdout.readline()
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
            socket.socket(socket.AF_UNIX) as listener,
            socket.socket(socket.AF_UNIX) as abstract,
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagrams,
        ):
            udp.bind(("127.0.0.1", 0))
            datagrams.bind(f"{folder}/datagrams")
            for sock, address in ((listener, f"{folder}/socket"), (abstract, f"\0fleet-{process.pid}")):
                sock.bind(address)
                sock.listen()
            for path in (folder, *Path(folder).iterdir()):
                os.chown(path, user, -1)
            ports = {"tcp": tcp.getsockname()[1], "udp": udp.getsockname()[1]}
            yield {"pid": process.pid, "folder": folder, **ports}
        process.kill()
        process.wait(SECONDS)


def test_what_the_same_user_may_do_a_sandbox_may_not(server: Server, sandbox: Any, victim: dict[str, object]) -> None:
    code = HEAD
    for name, attack in ATTACKS.items():
        line = attack.format(**victim)
        code += f"try:\n    {line}\n    print('done', {name!r}, sep='|')\n"
        code += f"except Exception as err: print(err, {name!r}, sep='|')\n"
    sandbox.fs.upload_file(code.encode(), "attacks.py", timeout=SECONDS)
    answers = sandbox.process.exec("python3 attacks.py 2>&1", timeout=SECONDS).result.splitlines()
    said = {name: how for how, name in (line.rsplit("|", 1) for line in answers)}
    assert list(said) == list(ATTACKS)
    worked = {name for name, how in said.items() if how == "done"}
    if server.level == "L1":
        assert worked == set(ATTACKS), said
    elif server.level == "L2":
        assert worked <= ({"signal", "signal by descriptor"} if "signals" in server.ready["reason"] else set()), said
    else:
        assert not worked & {"environment", "memory", "read", "write", "cut", "tcp", "socket file"}, said
