"""`fleet ask` as a process: what is left behind when it is stopped, hung up on or killed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent
SOAK = pytest.mark.soak
RUNNING = "code runs in the sandbox"


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """Of a short name: where it is long the local server takes /tmp, and what it left there would not be seen."""
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="ask") as folder:
        yield Path(folder)


def environment(tmp_path: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("FLEET_", "DAYTONA_", "DSPY_"))}
    return {**kept, "FLEET_FIND_LOCAL_MODELS": "false", "TMPDIR": str(tmp_path / "tmp"), "XDG_DATA_HOME": str(tmp_path)}


def start(tmp_path: Path, *more: str, lines: int = 120_000, **options) -> subprocess.Popen[str]:
    """`fleet ask` over a log that is long enough to be at work for a while, unless it has fewer `lines`."""
    log = tmp_path / "long.log"
    log.write_text("".join(f"level={'error' if i % 7 == 0 else 'info'} service=s{i % 5} n={i}\n" for i in range(lines)))
    (tmp_path / "tmp").mkdir(exist_ok=True)
    return subprocess.Popen(
        [BIN / "fleet", "ask", "Which service has the most errors?", "--file", log, *more],
        text=True,
        env=environment(tmp_path),
        cwd=tmp_path,
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
    )


def wait_until_it_hears(process: subprocess.Popen[str]) -> None:
    """Until `fleet` has its own handlers: before, on a busy machine for seconds, a signal is for Python alone."""
    bit = 1 << (signal.SIGTERM - 1)
    while process.poll() is None:
        status = Path(f"/proc/{process.pid}/status").read_text()
        if int(status.partition("SigCgt:")[2].split()[0], 16) & bit:
            return
        os.sched_yield()
    pytest.fail("it ended before it heard anything")


def wait_for(process: subprocess.Popen[str], text: str) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        if text in line:
            return
    pytest.fail(f"{text!r} was never said")


def ours(tmp_path: Path) -> list[str]:
    """Command lines of living processes that work for that folder's `fleet`, by their environment or arguments."""
    mark = str(tmp_path).encode()
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit() or int(folder.name) == os.getpid():
            continue
        try:
            command = (folder / "cmdline").read_bytes()
            said = (folder / "environ").read_bytes() + command
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if mark in said and state != "Z":
            found.append(command.decode())
    return found


def assert_nothing_is_left(tmp_path: Path) -> None:
    deadline = time.monotonic() + 15
    left: list[object] = ["not looked yet"]
    while left and time.monotonic() < deadline:
        left = [*ours(tmp_path), *(tmp_path / "tmp").iterdir()]
        if left:
            os.sched_yield()
    assert not left


def test_an_answer_leaves_nothing_behind(tmp_path):
    process = start(tmp_path, "--json", lines=5_000)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    said = json.loads(out)
    assert said["status"] == "done"
    assert said["usage"]["tokens_in"] is None, "recipes use no tokens, and none are made up"
    assert "not a language model" in said["model"]
    assert {"recipe", "slots", "evidence", "run_id", "sandbox", "answer", "error"} <= set(said)
    assert_nothing_is_left(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, pytest.param(signal.SIGHUP, marks=SOAK)])
def test_a_stop_ends_it_with_130_and_leaves_nothing_behind(tmp_path, number):
    process = start(tmp_path)
    wait_for(process, RUNNING)
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "cancelled" in out
    assert "Traceback" not in out + err
    assert_nothing_is_left(tmp_path)


def test_a_stop_before_there_is_a_run_is_told_too(tmp_path):
    (tmp_path / "tmp").mkdir()
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    process = start(tmp_path, "--json", "--file", pipe)
    with pipe.open("wb"):  # it opens when the other side reads, and then it reads for ever
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert json.loads(out)["status"] == "cancelled"
    assert err.strip() == "stopped"
    assert_nothing_is_left(tmp_path)


@SOAK
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_any_of_twenty_moments_is_a_good_one_to_stop(tmp_path, number):
    for moment in range(20):
        process = start(tmp_path, "--json")
        wait_until_it_hears(process)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=moment * 0.1)
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
        assert process.returncode == (-9 if number == signal.SIGKILL else 130)
        assert number == signal.SIGKILL or json.loads(out)["status"] == "cancelled"
        assert "Traceback" not in err
        assert_nothing_is_left(tmp_path)


@pytest.mark.parametrize(
    "moment", [pytest.param("model:", marks=SOAK), pytest.param("step 1", marks=SOAK), "is ready", RUNNING]
)
def test_a_kill_at_any_moment_leaves_nothing_behind(tmp_path, moment):
    process = start(tmp_path)
    wait_for(process, moment)
    assert list((tmp_path / "tmp").iterdir()) or moment == "model:", "it works where we look"
    process.kill()
    process.communicate(timeout=20)
    assert_nothing_is_left(tmp_path)


def test_a_closed_terminal_leaves_nothing_behind(tmp_path):
    master, slave = os.openpty()
    process = start(tmp_path, start_new_session=True, stdin=slave)
    os.close(slave)
    wait_for(process, RUNNING)
    process.send_signal(signal.SIGHUP)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    process.stderr.close()
    os.close(master)
    assert process.wait(timeout=20) in (1, 130)
    assert_nothing_is_left(tmp_path)


def test_a_terminal_keeps_what_was_read_and_not_every_step(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "picture.png").write_bytes(b"\x89PNG\0")
    (folder / "some.log").write_text("level=error service=a\n")
    master, slave = os.openpty()
    process = start(tmp_path, "--context", folder, lines=5_000, stderr=slave)
    os.close(slave)
    out, _ = process.communicate(timeout=60)
    seen = b""
    with contextlib.suppress(OSError):  # EIO: the other side is closed
        while piece := os.read(master, 65536):
            seen += piece
    os.close(master)
    assert process.returncode == 0, out
    # What stays is what no later text overwrites: a line that ends, and is not erased before that.
    kept = [line.rpartition(b"\x1b[2K")[2] for line in seen.split(b"\n")]
    assert any(b"left out 1 not readable as text (folder/picture.png)" in line for line in kept)
    assert any(b"model from the default" in line for line in kept)
    assert b"the model plans" in seen
    assert not any(b"the model plans" in line for line in kept)


def test_the_reader_of_the_output_may_go_away(tmp_path):
    process = start(tmp_path, lines=5_000)
    assert process.stdout is not None
    process.stdout.close()
    assert process.wait(timeout=60) != -signal.SIGPIPE
    assert process.stderr is not None
    assert "Traceback" not in process.stderr.read()
    process.stderr.close()
    assert_nothing_is_left(tmp_path)
