"""The server as a process: how it starts, what it says when it cannot, and what is left after kill -9."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from contract.localdaytona_server import KEY, SECONDS, launch, start, until
from daytona import Daytona, DaytonaConfig

from fleet_rlm_jupyter.localdaytona import cli

CLEAN_SECONDS = 5

PARENT = """
import json, subprocess, sys, threading
def start():
    global server
    server = subprocess.Popen([sys.executable, "-m", "fleet_rlm_jupyter.localdaytona", "--die-with-parent",
        "--allow-unisolated", "--level", sys.argv[1]], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    print(server.stdout.readline().decode(), end="", flush=True)
thread = threading.Thread(target=start)  # the thread that starts it may end long before the process does
thread.start()
thread.join()
sys.stdin.read()
"""


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A folder for temporary files of one server, so that others do not disturb the count of what is left."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        os.chmod(folder, 0o711)
        yield Path(folder)


def processes_with(text: str) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
        except OSError:
            continue
        if text in line and "pytest" not in line:
            found.append(line)
    return found


def refusal(*options: str, env: dict[str, str] | None = None) -> tuple[int, dict[str, Any], str]:
    process = launch(*options, env=env)
    out, err = process.communicate(timeout=SECONDS)
    return process.returncode, json.loads(out)["error"], err.decode()


@pytest.mark.parametrize("level", ["L3", "L2", "L1"])
@pytest.mark.parametrize("victim", ["parent", "server"])
def test_nothing_is_left_five_seconds_after_kill_minus_nine(level: str, victim: str, temporary: Path) -> None:
    marker = f"sleep 8{os.getpid()}{len(level + victim)}"
    env = {**os.environ, "TMPDIR": str(temporary), "FLEET_LOCALDAYTONA_KEY": KEY}
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, level], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env
    )
    ready = json.loads(parent.stdout.readline())
    if "error" in ready:
        pytest.skip(f"{level} is not offered here")
    client = Daytona(DaytonaConfig(api_key=KEY, api_url=ready["url"], target="local"))
    sandbox = client.create(timeout=SECONDS)
    sandbox.process.exec(f"{marker} & (setsid {marker} &) ; chmod 000 ~ ; true", timeout=5)
    assert len(processes_with(marker)) >= 2
    (base,) = temporary.iterdir()
    os.kill(parent.pid if victim == "parent" else ready["pid"], signal.SIGKILL)
    until(lambda: not processes_with(marker), CLEAN_SECONDS)
    until(lambda: not processes_with(str(temporary)), CLEAN_SECONDS)
    until(lambda: not list(temporary.iterdir()), CLEAN_SECONDS)
    until(lambda: not list(Path("/sys/fs/cgroup").rglob(f"{base.name}.*")), CLEAN_SECONDS)
    until(lambda: not Path(f"/proc/{ready['pid']}/fd").exists() or victim == "server", CLEAN_SECONDS)
    parent.kill()
    parent.wait(SECONDS)


@pytest.mark.parametrize("level", ["L3", "L2", "L1"])
def test_the_server_ends_with_its_fork_server_and_leaves_nothing(level: str, temporary: Path) -> None:
    marker = f"sleep 9{os.getpid()}{len(level)}"
    with tempfile.TemporaryDirectory() as data:
        server = start(Path(data), level, env={"TMPDIR": str(temporary)})
        sandbox = Daytona(server.config()).create(timeout=SECONDS)
        sandbox.process.exec(f"{marker} & (setsid {marker} &) ; true", timeout=5)
        command = ["ps", "--ppid", str(server.process.pid), "-o", "pid="]
        fork_server = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]
        os.kill(int(fork_server), signal.SIGKILL)
        assert server.process.wait(SECONDS) == 1
        until(lambda: not processes_with(marker), CLEAN_SECONDS)
        assert not list(temporary.iterdir())


def test_two_servers_side_by_side_do_not_touch_each_other(temporary: Path, tmp_path: Path) -> None:
    env = {"TMPDIR": str(temporary)}
    one, two = (start(tmp_path / name, "auto", env=env) for name in ("one", "two"))
    ours, theirs = Daytona(one.config()), Daytona(two.config())
    sandbox = theirs.create(timeout=SECONDS)
    theirs.volume.create("theirs")
    assert [item.id for item in ours.list()] == []
    assert ours.volume.list() == []
    assert ours.create(timeout=SECONDS).process.exec("true", timeout=5).exit_code == 0
    one.process.kill()
    until(lambda: len(list(temporary.iterdir())) == 1, CLEAN_SECONDS)
    third = start(tmp_path / "three", "auto", env=env)  # sweeps what is left of the first, and nothing else
    assert sandbox.process.exec("echo lives", timeout=5).result == "lives\n"
    assert (third.end(), two.end()) == (0, 0)
    one.process.wait(SECONDS)
    assert not list(temporary.iterdir())


def test_a_folder_that_came_to_etc_after_the_start_keeps_no_sandbox_from_starting(
    temporary: Path, tmp_path: Path
) -> None:
    server = start(tmp_path / "one", "auto", env={"TMPDIR": str(temporary)})
    folders = [path for path in temporary.glob("*/shared/etc/*") if path.is_dir() and not any(path.iterdir())]
    folders[0].rmdir()  # as if it had not been there
    sandbox = Daytona(server.config()).create(timeout=SECONDS)
    assert sandbox.process.exec("true", timeout=5).exit_code == 0
    assert server.end() == 0


def test_the_next_server_sweeps_what_a_killed_fork_server_left(temporary: Path, tmp_path: Path) -> None:
    left = temporary / "fleet-localdaytona-left"
    (left / "x" / "home").mkdir(parents=True)
    (left / "lock").touch()
    process = launch("--level", "auto", "--allow-unisolated", env={"TMPDIR": str(temporary)})
    process.stdout.readline()
    assert not left.exists()
    others = [path for path in temporary.iterdir() if path != left]
    assert len(others) == 1
    process.stdin.close()
    assert process.wait(SECONDS) == 0
    assert not list(temporary.iterdir())


def test_ctrl_c_ends_it_quietly(temporary: Path) -> None:
    process = launch("--level", "auto", "--allow-unisolated", env={"TMPDIR": str(temporary)})
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=SECONDS)
    assert (process.returncode, err) == (0, b"")
    assert not list(temporary.iterdir())


def test_a_port_in_use_is_said(temporary: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        code, error, err = refusal("--port", port, env={"TMPDIR": str(temporary)})
    assert (code, error["code"]) == (2, "port_in_use")
    assert err == f"localdaytona: {error['text']}; {error['hint']}\n"
    assert not list(temporary.iterdir())


@pytest.mark.parametrize(
    ("options", "env", "code"),
    [
        (["--port", "99999"], {}, "bad_option"),
        (["--port", "x"], {}, "bad_option"),
        (["--no-such-option"], {}, "bad_option"),
        (["--memory-mb", "-1"], {}, "bad_option"),
        ([], {"FLEET_LOCALDAYTONA_KEY": ""}, "no_key"),
        (["--key", "short"], {}, "no_key"),
        (["--level", "L1"], {}, "not_isolated"),
        (["--data", "/dev/null/x"], {}, "bad_folder"),
    ],
)
def test_what_is_wrong_is_one_line_with_the_next_step(options: list[str], env: dict[str, str], code: str) -> None:
    returned, error, err = refusal(*options, env=env)
    assert (returned, error["code"]) == (2, code)
    assert error["hint"]
    assert err.count("\n") == 1
    assert "Traceback" not in err


STRICT_CONTAINER = """
import ctypes, os, struct, sys
from fleet_rlm_jupyter.localdaytona import bpf, linux, seccomp
linux.forbid_new_privileges()
seccomp.install()  # like a container's filter, it denies unshare and mount
if sys.argv[1] == "no-landlock":
    steps = [(0x20, 0, 0, 0), (0x15, 0, 1, 444), (0x06, 0, 0, 0x00050001), (0x06, 0, 0, 0x7FFF0000)]
    code = b"".join(struct.pack("HBBI", *step) for step in steps)
    linux.call("prctl", 22, ctypes.c_ulong(2), ctypes.byref(bpf.Filter(len(steps), code)), 0, 0)
os.execv(sys.executable, [sys.executable, "-m", "fleet_rlm_jupyter.localdaytona", *sys.argv[2:]])
"""


def in_a_strict_container(kind: str, *options: str) -> tuple[dict[str, Any], "subprocess.Popen[bytes]"]:
    process = subprocess.Popen(
        [sys.executable, "-c", STRICT_CONTAINER, kind, "--die-with-parent", *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "FLEET_LOCALDAYTONA_KEY": KEY},
    )
    return json.loads(process.stdout.readline()), process


def works_and_ends(ready: dict[str, Any], process: "subprocess.Popen[bytes]") -> None:
    client = Daytona(DaytonaConfig(api_key=KEY, api_url=ready["url"], target="local"))
    assert client.create(timeout=SECONDS).process.exec("echo yes", timeout=5).result == "yes\n"
    process.stdin.close()
    assert process.wait(SECONDS) == 0


def test_where_namespaces_are_refused_landlock_is_taken() -> None:
    ready, process = in_a_strict_container("landlock")
    if "error" in ready:
        pytest.skip("this kernel has no Landlock")
    assert (ready["level"], ready["label"]) == ("L2", "Local — restricted (Landlock)")
    assert "L3: [Errno 1] Operation not permitted" in ready["reason"]
    works_and_ends(ready, process)


def test_where_landlock_is_refused_too_it_says_so_and_starts_only_if_allowed() -> None:
    said, process = in_a_strict_container("no-landlock")
    assert said["error"]["code"] == "not_isolated"
    assert said["error"]["text"].count("Operation not permitted") == 2
    assert "--allow-unisolated" in said["error"]["hint"]
    assert process.wait(SECONDS) == 2
    ready, process = in_a_strict_container("no-landlock", "--allow-unisolated")
    assert (ready["level"], ready["label"]) == ("L1", "Local — NOT isolated: code runs as you")
    assert "L2: [Errno 1] Operation not permitted" in ready["reason"]
    works_and_ends(ready, process)


def test_a_folder_without_permission_is_said() -> None:
    if os.getuid() == 0:
        pytest.skip("root may write anywhere")
    code, error, _ = refusal("--data", "/root/x")
    assert (code, error["code"]) == (2, "no_permission")


def test_the_key_is_not_seen_by_others_when_it_comes_by_the_environment(temporary: Path) -> None:
    server = start(temporary, "auto")
    children = subprocess.run(
        ["ps", "--ppid", str(server.process.pid), "-o", "pid="], capture_output=True, text=True, check=True
    ).stdout.split()
    assert children
    for pid in [*children, str(server.process.pid)]:
        assert KEY.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()
    for pid in children:
        assert KEY.encode() not in Path(f"/proc/{pid}/environ").read_bytes()
    assert server.end() == 0


def test_the_ready_line_says_where_and_how(temporary: Path) -> None:
    server = start(temporary, "auto")
    assert server.url == f"http://127.0.0.1:{server.ready['port']}/api"
    assert set(server.ready) == {"port", "url", "level", "label", "reason", "limits", "python", "pid"}
    assert server.ready["label"].startswith("Local — ")
    assert server.end() == 0


def test_main_returns_the_exit_code(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FLEET_LOCALDAYTONA_KEY", raising=False)
    assert cli.main(["--port", "0"]) == 2
    out, err = capfd.readouterr()
    assert json.loads(out)["error"]["code"] == "no_key"
    assert err.startswith("localdaytona: ")
