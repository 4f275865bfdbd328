"""What code in a sandbox cannot do, each with a control that shows the attack works where nothing isolates."""

import os
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from contract.localdaytona_server import KEY, SECONDS, Server
from daytona import CreateSandboxFromSnapshotParams, Daytona, VolumeMount

pytest_plugins = ["contract.localdaytona_fixture"]


REFUSED = {"L3": "ConnectionRefusedError", "L2": "Address family not supported"}
DENIED = {"L3": "FileNotFoundError", "L2": "PermissionError"}


def python(sandbox: Any, code: str) -> str:
    """What this code prints in the sandbox, the traceback's last line included."""
    sandbox.fs.upload_file(code.encode(), "attack.py", timeout=SECONDS)
    return sandbox.process.exec("python3 attack.py 2>&1", timeout=SECONDS).result.strip()


@pytest.fixture
def secret() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        path = Path(folder) / "secret"
        path.write_text("s3cret")
        path.chmod(0o666)
        yield path


def test_code_is_never_root_and_cannot_become_it(sandbox: Any) -> None:
    answer = python(
        sandbox,
        "import os\nprint(os.getuid(), os.geteuid())\n"
        "try: os.setuid(0)\nexcept OSError as err: print('refused', err.errno)\n"
        "print([l.split()[1] for l in open('/proc/self/status') if l.startswith(('NoNewPrivs', 'CapEff', 'CapPrm'))])",
    )
    ids, refused, status = answer.splitlines()
    assert "0" not in ids.split()
    assert refused in ("refused 1", "refused 22")  # 22: there is no root here that one could become
    assert status == "['0000000000000000', '0000000000000000', '1']"


def test_a_file_of_the_host_is_out_of_reach(server: Server, sandbox: Any, secret: Path) -> None:
    answer = python(sandbox, f"print(open({str(secret)!r}).read())")
    assert answer.endswith("s3cret") if server.level == "L1" else DENIED[server.level] in answer


def test_a_file_of_the_host_cannot_be_changed(server: Server, sandbox: Any, secret: Path) -> None:
    python(sandbox, f"open({str(secret)!r}, 'w').write('changed')")
    assert secret.read_text() == ("changed" if server.level == "L1" else "s3cret")


def test_the_processes_of_the_host_are_out_of_sight(server: Server, sandbox: Any) -> None:
    count = int(sandbox.process.exec("ls /proc | grep -c '^[0-9]'", timeout=5).result)
    seen = python(sandbox, f"import os; print(os.path.exists('/proc/{server.process.pid}/cmdline'))")
    if server.level == "L1":
        assert seen == "True"
    else:
        assert count < 10 or server.level == "L2"  # Landlock cannot hide names, only what is in the files
        environ = python(sandbox, f"print(open('/proc/{server.process.pid}/environ').read())")
        assert "FileNotFoundError" in environ or "PermissionError" in environ


def test_a_listener_of_the_host_cannot_be_reached(server: Server, sandbox: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        answer = python(sandbox, f"import socket; print(socket.create_connection(('127.0.0.1', {port}), 5))")
        assert "raddr" in answer if server.level == "L1" else REFUSED[server.level] in answer
    api = server.ready["port"]
    if server.level != "L1":
        assert REFUSED[server.level] in python(
            sandbox, f"import socket; socket.create_connection(('127.0.0.1', {api}), 5)"
        )


def test_there_is_no_way_to_the_network(server: Server, sandbox: Any) -> None:
    if server.level != "L3":
        pytest.skip("only L3 has a network of its own; at L2 there are no sockets")
    code = "import socket\nprint(socket.if_nameindex())\nsocket.create_connection(('192.0.2.1', 80), 5)"
    answer = python(sandbox, code)
    assert answer.startswith("[(1, 'lo')]")
    assert "Network is unreachable" in answer


def test_the_key_is_nowhere_in_a_sandbox(server: Server, sandbox: Any) -> None:
    code = (
        "import glob\nfound = []\n"
        "for path in glob.glob('/proc/[0-9]*/environ') + glob.glob('/proc/[0-9]*/cmdline') + glob.glob('/etc/*'):\n"
        "    try: data = open(path, 'rb').read()\n"
        "    except OSError: continue\n"
        f"    if {KEY[:8].encode()!r} + {KEY[8:].encode()!r} in data: found.append(path)\n"
        "print(found)"
    )
    assert python(sandbox, code) == "[]"
    assert KEY not in sandbox.process.exec("env; set", timeout=5).result


def test_variables_of_the_host_do_not_come_along(sandbox: Any) -> None:
    names = {line.split("=")[0] for line in sandbox.process.exec("env", timeout=5).result.splitlines()}
    assert names <= {
        "PATH",
        "HOME",
        "USER",
        "LOGNAME",
        "SHELL",
        "LANG",
        "TERM",
        "TMPDIR",
        "PWD",
        "OLDPWD",
        "SHLVL",
        "_",
        "PYTHONDONTWRITEBYTECODE",
    }


def test_the_toolbox_cannot_be_read_or_killed_from_inside(server: Server, sandbox: Any) -> None:
    if server.level != "L3":
        pytest.skip("elsewhere a sandbox's own processes share one user with its toolbox, and may end it")
    code = (
        "import os\n"
        "for path in ('/proc/1/environ', '/proc/1/mem', '/proc/1/maps'):\n"
        "    try: open(path, 'rb').read(1); print('read', path)\n"
        "    except OSError: pass\n"
        "os.kill(1, 9)\nprint('alive')"
    )
    assert python(sandbox, code) == "alive"
    assert sandbox.process.exec("true", timeout=5).exit_code == 0


SYSTEM_CALLS = {
    "unshare a user namespace": "libc.unshare(0x10000000)",
    "unshare a mount namespace": "libc.unshare(0x20000)",
    "clone into a user namespace": "libc.syscall(56 if x86 else 220, 0x10000000 | 17, 0, 0, 0, 0)",
    "clone3": "libc.syscall(435, 0, 0)",
    "setns": "libc.setns(os.open('/proc/self/ns/net', 0), 0)",
    "mount": "libc.mount(b'tmpfs', b'/home/daytona', b'tmpfs', 0, None)",
    "umount": "libc.umount2(b'/tmp', 2)",
    "open_tree": "libc.syscall(428, -100, b'/', 1)",
    "chroot": "libc.chroot(b'/tmp')",
    "pivot_root": "libc.syscall(155 if x86 else 41, b'.', b'.')",
    "ptrace": "libc.ptrace(0, 0, 0, 0)",
    "bpf": "libc.syscall(321 if x86 else 280, 0, 0, 0)",
    "perf": "libc.syscall(298 if x86 else 241, 0, 0, 0, 0, 0)",
    "keyctl": "libc.syscall(250 if x86 else 219, 0, -3, 0)",
    "add_key": "libc.syscall(248 if x86 else 217, b'user', b'x', b'y', 1, -3)",
    "io_uring": "libc.syscall(425, 1, 0)",
    "userfaultfd": "libc.syscall(323 if x86 else 282, 0)",
    "process_vm_readv": "libc.syscall(310 if x86 else 270, 1, 0, 0, 0, 0, 0)",
    "open_by_handle_at": "libc.syscall(304 if x86 else 265, 3, 0, 0)",
    "a vsock": "libc.socket(40, 1, 0)",
    "a packet socket": "libc.socket(17, 3, 0)",
    "a netfilter socket": "libc.socket(16, 3, 12)",
    "type into a terminal": "libc.ioctl(0, 0x5412, b'x')",
}


def test_the_kernel_refuses_what_a_sandbox_has_no_need_of(server: Server, sandbox: Any) -> None:
    if server.level == "L1":
        pytest.skip("at L1 there is no filter")
    lines = [
        f"ctypes.set_errno(0); print({name!r}, {call}, ctypes.get_errno(), sep='|')"
        for name, call in SYSTEM_CALLS.items()
    ]
    head = "import ctypes, os, platform\nlibc = ctypes.CDLL(None, use_errno=True)\nx86 = platform.machine() == 'x86_64'"
    answers = [line.split("|") for line in python(sandbox, "\n".join([head, *lines])).splitlines()]
    assert [answer[0] for answer in answers] == list(SYSTEM_CALLS)
    # 1 EPERM, 38 ENOSYS, 97 EAFNOSUPPORT: refused by the filter, not for a bad argument
    assert {answer[2] for answer in answers} <= {"1", "38", "97"}, answers
    assert all(answer[1] == "-1" for answer in answers), answers


def test_the_system_is_read_only(server: Server, sandbox: Any) -> None:
    if server.level == "L1":
        pytest.skip("at L1 only the user's own rights protect the system")
    prefix = Path(server.ready["python"]).parent
    for folder in (
        "/",
        "/usr",
        "/usr/bin",
        "/etc",
        "/dev",
        "/opt",
        str(prefix),
        str(prefix.parent),
        "/proc/sys/kernel",
    ):
        answer = sandbox.process.exec(f"touch {folder}/x && echo written", timeout=5).result
        assert "written" not in answer, folder


def test_the_hosts_interpreter_and_its_packages_are_there(server: Server, sandbox: Any) -> None:
    if server.level == "L1":
        pytest.skip("at L1 it depends on who may read the interpreter")
    if server.ready["python"] != sys.executable:
        pytest.skip(server.ready["reason"])
    package = "aiohttp" if aiohttp.__file__.startswith(sys.prefix) else "json"
    assert python(sandbox, f"import {package}, sys; print(sys.executable)").startswith(server.ready["python"])


def test_sandboxes_do_not_see_each_other(server: Server, client: Daytona, sandbox: Any) -> None:
    if server.level == "L1":
        pytest.skip("at L1 they run as one user")
    other = client.create(timeout=SECONDS)
    other.fs.upload_file(b"mine", "note", timeout=SECONDS)
    if server.level == "L2":
        home = other.get_work_dir()
        for path in (f"{home}/note", home, f"{Path(home).parent}/tmp"):
            code = f"import os\nprint((os.listdir if os.path.isdir({path!r}) else open)({path!r}))"
            assert "PermissionError" in python(sandbox, code), path
        other.delete(SECONDS)
        return
    other.fs.upload_file(b"mine", "/tmp/note", timeout=SECONDS)
    code = "import os; print(os.path.exists('/home/daytona/note'), os.path.exists('/tmp/note'), os.listdir('/home'))"
    assert python(sandbox, code) == "False False ['daytona']"
    other.delete(SECONDS)


def test_a_link_left_behind_leads_nowhere_when_a_sandbox_starts_again(
    server: Server, client: Daytona, secret: Path
) -> None:
    """Home and volumes hold what earlier code wrote: neither may bring the host's files into the next start."""
    if server.level == "L1":
        pytest.skip("at L1 nothing keeps code from the host's files")
    volume = client.volume.get("links", create=True)
    mounts = [
        VolumeMount(volume_id=volume.id, mount_path="/home/daytona/a/v"),
        VolumeMount(volume_id=volume.id, mount_path="/home/daytona/b"),
    ]
    sandbox = client.create(CreateSandboxFromSnapshotParams(volumes=mounts[:1]), timeout=SECONDS)
    sandbox.process.exec(f"ln -s {secret.parent} ~/a/v/out; mv ~/a ~/moved; ln -s / ~/a; ls ~/a/v", timeout=5)
    sandbox.process.exec("rm -rf ~/a; ln -s /.old ~/a", timeout=5)
    sandbox.stop(SECONDS)
    try:
        sandbox.start(SECONDS)
    except Exception:
        pass  # it may refuse to start; what counts is what can be read
    else:
        assert "s3cret" not in sandbox.process.exec("cat ~/a/v/out/secret ~/moved/v/out/secret 2>&1", timeout=5).result
    sandbox.delete(SECONDS)
    inside = VolumeMount(volume_id=volume.id, mount_path="/home/daytona/b", subpath="out")
    with pytest.raises(Exception, match="did not start"):
        client.create(CreateSandboxFromSnapshotParams(volumes=[inside]), timeout=SECONDS)


def test_a_fork_bomb_stays_inside(server: Server, client: Daytona) -> None:
    if server.level == "L1" or (server.level == "L2" and os.getuid() != 0):
        pytest.skip("at L1 the kernel would count the user's own processes")
    sandbox = client.create(timeout=SECONDS)
    code = (
        "import os, time\nn = 0\ntry:\n    while n < 2000:\n"
        "        if os.fork() == 0: time.sleep(60); os._exit(0)\n        n += 1\n"
        "except OSError as err: print('stopped', err.errno)"
    )
    assert python(sandbox, code) == "stopped 11"
    sandbox.delete(SECONDS)
    assert client.create(timeout=SECONDS).process.exec("true", timeout=5).exit_code == 0
