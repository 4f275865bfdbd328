"""Attacks on the host that a level must stop; the control at L1 shows that each works where nothing does."""

import contextlib
import os
import pty
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from contract.localdaytona_server import SECONDS, Server
from daytona import CodeRunParams, SessionExecuteRequest
from daytona.common.errors import DaytonaError

from fleet_rlm_jupyter.localdaytona import levels

pytest_plugins = ["contract.localdaytona_fixture"]

HEAD = """
import ctypes, os, resource, signal, socket
libc = ctypes.CDLL(None, use_errno=True)
libc.shmat.restype = ctypes.c_long
def inside(work):  # in a process of its own, since it changes what this one sees
    pid = os.fork()
    if pid == 0:
        os._exit(0 if work() else 1)
    assert os.waitpid(pid, 0)[1] == 0
"""
VICTIM = """
import ctypes, os, sys, time
folder, libc = sys.argv[1], ctypes.CDLL(None)
os.chdir(folder)
gone = os.open(folder + "/deleted", os.O_RDONLY)
os.unlink(folder + "/deleted")
with open(f"/dev/shm/fleet-{os.getpid()}", "w") as file: file.write("s3cret")
print(gone, libc.shmget(0, 4096, 0o1600), flush=True)
time.sleep(600)
"""
# Each prints `done` when it works. {pid}: a process of the same user, with its home {folder}, ports and sockets.
ATTACKS = {
    "environment": "assert b'SECRET' in open('/proc/{pid}/environ', 'rb').read()",
    "command line": "assert b'time.sleep' in open('/proc/{pid}/cmdline', 'rb').read()",
    "memory": "open('/proc/{pid}/mem', 'rb')",
    "files by its root": "open('/proc/{pid}/root{folder}/secret').read()",
    "files by its working folder": "open('/proc/{pid}/cwd/secret').read()",
    "names of descriptors": "os.readlink('/proc/{pid}/fd/1')",
    "a deleted file by its descriptor": "open('/proc/{pid}/fd/{gone}').read()",
    "read": "open('{folder}/secret').read()",
    "read a key": "open('{folder}/.ssh/id_ed25519').read()",
    "read a notebook": "open('{folder}/notebooks/work.ipynb').read()",
    "list": "os.listdir('{folder}')",
    "see that a file is there": "os.stat('{folder}/secret')",
    "through a link": "os.symlink('{folder}', 'out-{pid}'); open('out-{pid}/secret').read()",
    "hard link": "os.link('{folder}/secret', 'hard-{pid}'); open('hard-{pid}').read()",
    "write": "open('{folder}/secret', 'a').write('x')",
    "cut": "os.truncate('{folder}/secret', 1)",
    "make": "open('{folder}/new', 'w')",
    "move away": "os.rename('{folder}/new', '{folder}/other')",
    "delete": "os.unlink('{folder}/gone')",
    "permissions": "os.chmod('{folder}/secret', 0o640)",
    "times": "os.utime('{folder}/secret', (1, 1))",
    "write where all may": "open('/var/tmp/fleet-{pid}', 'w').write('x')",
    "files in shared memory": "open('/dev/shm/fleet-{pid}').read()",
    "shared memory": "assert libc.shmat({segment}, None, 0) != -1",
    "tcp": "socket.create_connection(('127.0.0.1', {tcp}), 5)",
    "udp": "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', {udp}))",
    "the server's port": "socket.create_connection(('127.0.0.1', {api}), 5)",
    "socket file": "socket.socket(socket.AF_UNIX).connect('{folder}/socket')",
    "abstract socket": "socket.socket(socket.AF_UNIX).connect('\\0fleet-{pid}')",
    "datagram over a pair": "socket.socketpair(type=socket.SOCK_DGRAM)[0].sendto(b'x', '{folder}/datagrams')",
    "terminal": "os.write(os.open('{terminal}', os.O_WRONLY | os.O_NOCTTY), b'x')",
    "limits of others": "resource.prlimit({pid}, resource.RLIMIT_CORE, (0, 0))",
    "priority of others": "os.setpriority(os.PRIO_PROCESS, {pid}, 1)",
    "ptrace": "assert libc.ptrace(0x4206, {pid}, 0, 0) == 0",
    "signal": "os.kill({pid}, signal.SIGCONT)",
    "signal by descriptor": "signal.pidfd_send_signal(os.pidfd_open({pid}), signal.SIGCONT)",
    "mount": "inside(lambda: libc.unshare(0x10020000) == 0 and libc.mount(b'none', b'/tmp', b'tmpfs', 0, None) == 0)",
}
# What a level does not stop, though L1's neighbors do; docs/explanation/isolation.md says the same.
NOT_STOPPED: dict[str, set[str]] = {
    "L1": set(ATTACKS),
    "L2": {"command line", "see that a file is there", "permissions", "times", "priority of others"},
    "L3": set(),
}


@pytest.fixture
def victim(server: Server, sandbox: Any) -> Iterator[dict[str, object]]:
    """A program of the very user that code in the sandbox runs as, with files, ports and sockets."""
    user = int(sandbox.process.exec("id -u", timeout=5).result)
    if server.level == "L3" and os.getuid() == 0:  # inside, the user has another number
        user = levels.owner() or user
    with tempfile.TemporaryDirectory(dir="/tmp") as folder, contextlib.ExitStack() as stack:
        for name in ("secret", "gone", "deleted", ".ssh/id_ed25519", "notebooks/work.ipynb"):
            Path(folder, name).parent.mkdir(exist_ok=True)
            Path(folder, name).write_text("s3cret")
        tcp = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        udp, datagrams = (
            stack.enter_context(socket.socket(family, socket.SOCK_DGRAM)) for family in (socket.AF_INET, socket.AF_UNIX)
        )
        listener, abstract = (stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(2))
        udp.bind(("127.0.0.1", 0))
        udp.setblocking(False)
        datagrams.bind(f"{folder}/datagrams")
        master, slave = pty.openpty()
        stack.callback(os.close, master)
        stack.callback(os.close, slave)
        terminal = os.ttyname(slave)
        for path in (folder, terminal, *Path(folder).rglob("*")):
            os.chown(path, user, -1)
        process = _start_victim(user, folder)
        stack.callback(process.wait, SECONDS)
        stack.callback(process.kill)
        assert process.stdout is not None
        gone, segment = process.stdout.readline().split()
        stack.callback(os.unlink, f"/dev/shm/fleet-{process.pid}")
        for sock, address in ((listener, f"{folder}/socket"), (abstract, f"\0fleet-{process.pid}")):
            sock.bind(address)
            sock.listen()
        os.chown(f"{folder}/socket", user, -1)
        yield {
            "pid": process.pid,
            "folder": folder,
            "gone": int(gone),
            "segment": int(segment),
            "terminal": terminal,
            "tcp": tcp.getsockname()[1],
            "udp": udp.getsockname()[1],
            "udp socket": udp,
            "api": server.ready["port"],
        }


def _start_victim(user: int, folder: str) -> "subprocess.Popen[bytes]":
    drop: dict[str, Any] = {"user": user, "group": user, "extra_groups": []} if os.getuid() == 0 else {}
    return subprocess.Popen(
        ["/usr/bin/python3" if drop else sys.executable, "-I", "-c", VICTIM, folder],
        env={"SECRET": "1"},
        stdout=subprocess.PIPE,
        **drop,
    )


def test_what_the_same_user_may_do_a_sandbox_may_not(server: Server, sandbox: Any, victim: dict[str, Any]) -> None:
    code = HEAD
    for name, attack in ATTACKS.items():
        line = attack.format(**victim)
        code += f"try:\n    {line}\n    print('done', {name!r}, sep='|')\n"
        code += f"except Exception as err: print(repr(err), {name!r}, sep='|')\n"
    sandbox.fs.upload_file(code.encode(), "attacks.py", timeout=SECONDS)
    answers = sandbox.process.exec("python3 attacks.py 2>&1", timeout=SECONDS).result.splitlines()
    said = {name: how for how, name in (line.rsplit("|", 1) for line in answers)}
    assert list(said) == list(ATTACKS)
    worked = {name for name, how in said.items() if how == "done"}
    if "udp" in worked and not _received(victim["udp socket"]):
        worked.remove("udp")  # it went nowhere
    expected = set(NOT_STOPPED[server.level])
    if server.level == "L2" and "signals" in server.ready["reason"]:
        expected |= {"signal", "signal by descriptor"}
    assert worked == expected, {name: how for name, how in said.items() if (how == "done") != (name in expected)}


# In which words the level says what it does not stop.
SAID = {
    "command line": "command lines of other processes",
    "see that a file is there": "whether a file exists, can be seen",
    "permissions": "permissions and times of files",
    "times": "permissions and times of files",
    "priority of others": "can be made slower",
}


def test_what_a_level_does_not_stop_is_told_with_it(server: Server) -> None:
    told = f"{server.ready['label']}; {server.ready['reason']}"
    if server.level == "L1":
        assert "NOT isolated: code runs as you" in told
        return
    for attack, words in SAID.items():
        assert (words in told) == (attack in NOT_STOPPED[server.level]), attack
    assert NOT_STOPPED["L2"] | NOT_STOPPED["L3"] == set(SAID)


def _received(udp: socket.socket) -> bool:
    try:
        return udp.recv(10) == b"x"
    except BlockingIOError:
        return False


FILE_API: dict[str, Callable[[Any, dict[str, Any]], object]] = {
    "environment": lambda fs, v: fs.download_file(f"/proc/{v['pid']}/environ", 5),
    "read": lambda fs, v: fs.download_file(f"{v['folder']}/secret", 5),
    "read through a link": lambda fs, v: fs.download_file("way-out/secret", 5),
    "read by a process's root": lambda fs, v: fs.download_file(f"/proc/{v['pid']}/root{v['folder']}/secret", 5),
    "list": lambda fs, v: fs.list_files(v["folder"])[0],
    "search": lambda fs, v: fs.search_files(v["folder"], "*").files[0],
    "find": lambda fs, v: fs.find_files(v["folder"], "s3cret")[0],
    "upload": lambda fs, v: fs.upload_file(b"x", f"{v['folder']}/up", timeout=5),
    "upload through a link": lambda fs, v: fs.upload_file(b"x", "way-out/up2", timeout=5),
    "replace": lambda fs, v: _succeeds(fs.replace_in_files([f"{v['folder']}/secret"], "3", "4")[0]),
    "make a folder": lambda fs, v: fs.create_folder(f"{v['folder']}/made", "755"),
    "move in": lambda fs, v: fs.move_files("mine", f"{v['folder']}/moved"),
    "move out": lambda fs, v: fs.move_files(f"{v['folder']}/.ssh", "stolen"),
    "delete": lambda fs, v: fs.delete_file(f"{v['folder']}/gone"),
}


# At L3 the same path leads to a folder of the sandbox's own: these worked only if the host has what they made.
MADE = {"upload": "up", "upload through a link": "up2", "make a folder": "made", "move in": "moved"}


def _succeeds(result: Any) -> None:
    assert result.success


def test_the_file_api_reaches_no_further_than_code_does(server: Server, sandbox: Any, victim: dict[str, Any]) -> None:
    sandbox.fs.upload_file(b"x", "mine", timeout=SECONDS)
    sandbox.process.exec(f"ln -sfn {victim['folder']} way-out; rm -rf stolen", timeout=5)
    worked: set[str] = set()
    for name, attack in FILE_API.items():
        try:
            attack(sandbox.fs, victim)
        except (DaytonaError, AssertionError, IndexError):
            continue
        if name not in MADE or Path(victim["folder"], MADE[name]).exists():
            worked.add(name)
    assert worked == (set(FILE_API) if server.level == "L1" else set())


READ_OUTSIDE = "import sys; print(open(sys.argv[1]).read())"


def test_every_way_to_run_code_is_held_in(server: Server, sandbox: Any, victim: dict[str, Any]) -> None:
    """Whatever starts a process must restrict it: commands, code, sessions, contexts, git's own helpers, terminals."""
    path = f"{victim['folder']}/secret"
    said = {
        "exec": sandbox.process.exec(f"cat {path} 2>&1", timeout=10).result,
        "code": sandbox.process.code_run(READ_OUTSIDE, CodeRunParams(argv=[path]), timeout=10).result,
        "context": sandbox.code_interpreter.run_code(f"print(open({path!r}).read())").stdout,
    }
    sandbox.process.create_session("attack")
    wanted = SessionExecuteRequest(command=f"cat {path}")
    said["session"] = sandbox.process.execute_session_command("attack", wanted, 10).stdout
    sandbox.process.delete_session("attack")
    sandbox.git.init("attack-repo")
    sandbox.process.exec(f"git -C attack-repo config core.fsmonitor 'cat {path} > leak; false'", timeout=5)
    with contextlib.suppress(DaytonaError):
        sandbox.git.status("attack-repo")
    said["git"] = sandbox.process.exec("cat attack-repo/leak", timeout=5).result
    terminal = sandbox.process.create_pty_session("attack")
    terminal.send_input(f"cat {path}; exit\n")
    shown = bytearray()
    terminal.wait(lambda data: shown.extend(data))
    said["terminal"] = shown.decode().split("exit", 1)[1]
    sandbox.fs.upload_file(f"print(open({path!r}).read())".encode(), "outside.py", timeout=5)
    warm = sandbox.process.create_pty_session("attack", envs={"LOCALDAYTONA_WARM_MODULE": "outside", "PS1": ""})
    warm.send_input("exec python3 -m outside\n")
    shown = bytearray()
    warm.wait(lambda data: shown.extend(data))
    said["warm python"] = shown.decode()
    sandbox.process.exec("rm -rf attack-repo", timeout=5)
    assert {name for name, text in said.items() if "s3cret" in text} == (set(said) if server.level == "L1" else set())


def test_without_the_key_the_server_tells_a_sandbox_nothing(server: Server, sandbox: Any) -> None:
    code = (
        "import urllib.request as r, urllib.error as e\n"
        f"try: print(r.urlopen('http://127.0.0.1:{server.ready['port']}/api/sandbox', timeout=5).read())\n"
        "except e.HTTPError as err: print(err.code)\n"
        "except OSError as err: print('no way')"
    )
    answer = sandbox.process.code_run(code, timeout=20).result.strip()
    assert answer == ("401" if server.level == "L1" else "no way")
