"""The toolbox inside a sandbox: commands, files and terminals, seen through the real Daytona SDK."""

import asyncio
import hashlib
import random
from typing import Any

import pytest
from contract.localdaytona_server import SECONDS, Server, until, with_client
from daytona import AsyncDaytona, AsyncSandbox, FileDownloadRequest, FileUpload
from daytona.common.errors import (
    DaytonaConflictError,
    DaytonaError,
    DaytonaFileAccessDeniedError,
    DaytonaFileNotFoundError,
    DaytonaNotFoundError,
    DaytonaProcessExecutionTimeoutError,
    DaytonaValidationError,
)
from daytona.common.pty import PtySize

pytest_plugins = ["contract.localdaytona_fixture"]


def test_a_command_gives_output_and_exit_code(sandbox: Any) -> None:
    done = sandbox.process.exec("echo out; echo err >&2; exit 3", timeout=5)
    assert (done.exit_code, done.result) == (3, "out\nerr\n")


def test_a_command_gets_its_folder_and_variables(sandbox: Any) -> None:
    done = sandbox.process.exec("pwd; echo $X", cwd="/tmp", env={"X": "y z"}, timeout=5)
    assert done.result == "/tmp\ny z\n"


def test_a_folder_that_is_not_there_is_exit_code_minus_one(sandbox: Any) -> None:
    assert sandbox.process.exec("true", cwd="/no/such", timeout=5).exit_code == -1


def test_a_command_past_its_time_is_killed_with_its_children(sandbox: Any) -> None:
    with pytest.raises(DaytonaProcessExecutionTimeoutError):
        sandbox.process.exec("sleep 271828 & sleep 271828", timeout=1)
    running = "ps -eo args 2>/dev/null | grep -c '[s]leep 271828'"
    until(lambda: sandbox.process.exec(running, timeout=5).result == "0\n", 5)


def test_a_process_left_in_the_background_does_not_hold_the_answer(sandbox: Any) -> None:
    assert sandbox.process.exec("sleep 60 & echo $!", timeout=5).exit_code == 0
    sandbox.process.exec("pkill sleep", timeout=5)


def test_an_empty_command_is_refused(sandbox: Any) -> None:
    with pytest.raises(DaytonaValidationError):
        sandbox.process.exec("  ", timeout=5)


def test_code_runs_on_the_python_that_the_server_named(server: Server, sandbox: Any) -> None:
    done = sandbox.process.code_run("import sys; print(sys.executable); sys.exit(4)", timeout=10)
    assert done.exit_code == 4
    found = sandbox.process.exec("python3 -c 'import sys; print(sys.prefix)'", timeout=10).result.strip()
    assert server.ready["python"].startswith(found)


@pytest.mark.parametrize("size", [0, 1, 20_000_000])
def test_a_file_comes_back_as_it_went(sandbox: Any, size: int) -> None:
    data = random.Random(size).randbytes(size)
    sandbox.fs.upload_file(data, "deep/er/big.bin", timeout=SECONDS)
    back = sandbox.fs.download_file("deep/er/big.bin", SECONDS) or b""  # the SDK gives None for an empty file
    assert hashlib.sha256(back).digest() == hashlib.sha256(data).digest()
    assert sandbox.fs.get_file_info("deep/er/big.bin").size == size


def test_an_upload_may_hold_what_looks_like_a_boundary(sandbox: Any) -> None:
    data = b"\r\n--" * 50_000 + b"\r\n----------------------------0\r\n"
    sandbox.fs.upload_file(data, "tricky", timeout=SECONDS)
    assert sandbox.fs.download_file("tricky", SECONDS) == data


def test_files_go_many_at_once_and_their_names_survive(sandbox: Any) -> None:
    names = ["a b.txt", 'quo"te', "ünïcode-名", "back\\slash", "per%cent", "semi;colon"]
    sandbox.fs.upload_files([FileUpload(name.encode(), f"many/{name}") for name in names], SECONDS)
    assert {one.name for one in sandbox.fs.list_files("many")} == set(names)
    wanted = [FileDownloadRequest(source=f"many/{name}") for name in [*names, "absent"]]
    answers = sandbox.fs.download_files(wanted, SECONDS)
    assert [answer.result for answer in answers[:-1]] == [name.encode() for name in names]
    assert "no such file" in answers[-1].error


def test_folders_are_made_listed_moved_and_deleted(sandbox: Any) -> None:
    sandbox.fs.create_folder("house/room", "700")
    sandbox.fs.upload_file(b"x = 1\n", "house/room/a.py", timeout=SECONDS)
    assert sandbox.fs.get_file_info("house/room").permissions == "0700"
    assert [one.name for one in sandbox.fs.list_files("house")] == ["room"]
    assert sandbox.fs.search_files("house", "*.py").files == [f"{sandbox.get_work_dir()}/house/room/a.py"]
    assert sandbox.fs.find_files("house", "x =")[0].line == 1
    assert sandbox.fs.replace_in_files(["house/room/a.py"], "1", "2")[0].success
    sandbox.fs.move_files("house/room/a.py", "house/b.py")
    assert sandbox.fs.download_file("house/b.py", 5) == b"x = 2\n"
    sandbox.fs.set_file_permissions("house/b.py", mode="600")
    assert sandbox.fs.get_file_info("house/b.py").mode == "-rw-------"
    with pytest.raises(DaytonaValidationError):
        sandbox.fs.delete_file("house")
    sandbox.fs.delete_file("house", recursive=True)
    with pytest.raises(DaytonaFileNotFoundError):
        sandbox.fs.list_files("house")


def test_what_is_wrong_with_a_path_has_its_own_error(sandbox: Any) -> None:
    for attempt in (
        lambda: sandbox.fs.get_file_info("absent"),
        lambda: sandbox.fs.download_file("absent", 5),
        lambda: sandbox.fs.delete_file("absent"),
        lambda: sandbox.fs.move_files("absent", "b"),
    ):
        with pytest.raises(DaytonaFileNotFoundError):
            attempt()
    sandbox.fs.create_folder("closed", "000")
    with pytest.raises(DaytonaFileAccessDeniedError):
        sandbox.fs.list_files("closed")
    with pytest.raises(DaytonaError, match="not a regular file"):
        sandbox.fs.download_file("/dev/zero", 5)
    with pytest.raises(DaytonaError):
        sandbox.fs.upload_file(b"x", "/usr/bin/x", timeout=5)


def test_a_full_disk_is_said(server: Server, sandbox: Any) -> None:
    if server.level != "L3":
        pytest.skip("only a private /dev/shm is small enough to be filled")
    with pytest.raises(DaytonaError, match="No space left"):
        sandbox.fs.upload_file(bytes(70 << 20), "/dev/shm/big", timeout=SECONDS)
    sandbox.fs.delete_file("/dev/shm/big")


class Screen:
    """Collects what a terminal shows."""

    def __init__(self) -> None:
        self.text = b""
        self._more = asyncio.Event()

    def __call__(self, data: bytes) -> None:
        self.text += data
        self._more.set()

    async def shows(self, wanted: bytes) -> None:
        async with asyncio.timeout(SECONDS):
            while wanted not in self.text:
                self._more.clear()
                await self._more.wait()


def with_sandbox(server: Server, work: Any) -> None:
    async def main(client: AsyncDaytona) -> None:
        sandbox = await client.create(timeout=SECONDS)
        await work(sandbox)
        await sandbox.delete(SECONDS)

    with_client(server, main)


def test_a_terminal_outlives_its_client(server: Server) -> None:
    async def work(sandbox: AsyncSandbox) -> None:
        first, second = Screen(), Screen()
        pty = await sandbox.process.create_pty_session("t", first, envs={"GREETING": "hel lo", "LONG": "x" * 20_000})
        await pty.send_input("X=41; echo =$GREETING=${#LONG}=; tty\n")
        await first.shows(b"=hel lo=20000=")
        await first.shows(b"/dev/pts/")
        await pty.disconnect()
        again = await sandbox.process.connect_pty_session("t", second)
        await again.send_input("echo $((X+1))$((X+1))\n")
        await second.shows(b"4242")
        await again.send_input("exit 7\n")
        assert (await again.wait()).exit_code == 7

    with_sandbox(server, work)


def test_a_terminal_shows_the_same_to_all_and_can_be_resized_and_killed(server: Server) -> None:
    async def work(sandbox: AsyncSandbox) -> None:
        one, two = Screen(), Screen()
        first = await sandbox.process.create_pty_session("t", one, cwd="/tmp", pty_size=PtySize(rows=30, cols=100))
        second = await sandbox.process.connect_pty_session("t", two)
        await first.send_input("stty size; pwd\n")
        for screen in (one, two):
            await screen.shows(b"30 100")
            await screen.shows(b"/tmp")
        assert (await first.resize(PtySize(rows=10, cols=20))).cols == 20
        await second.send_input("stty size\n")
        await one.shows(b"10 20")
        assert [session.id for session in await sandbox.process.list_pty_sessions()] == ["t"]
        assert (await sandbox.process.get_pty_session_info("t")).active
        with pytest.raises(DaytonaConflictError):
            await sandbox.process.create_pty_session("t", one)
        await first.send_input("sleep 314159 &\n")
        await first.kill()
        assert (await second.wait()).exit_code == 137
        with pytest.raises(DaytonaNotFoundError):
            await sandbox.process.get_pty_session_info("t")
        left = await sandbox.process.exec("ps -eo args | grep -c '[s]leep 314159'", timeout=5)
        assert left.result == "0\n"

    with_sandbox(server, work)


def test_a_terminal_loses_nothing_while_somebody_reads(server: Server) -> None:
    async def work(sandbox: AsyncSandbox) -> None:
        screen = Screen()
        pty = await sandbox.process.create_pty_session("t", screen, envs={"PS1": ""})
        await pty.send_input("stty raw -echo; seq 1 30000; echo the-end\n")
        await screen.shows(b"the-end\n")
        await screen.shows(b"\n30000\n")
        lines = screen.text.split(b"\n")
        at = lines.index(b"1") if b"1" in lines else next(n for n, line in enumerate(lines) if line.endswith(b"1"))
        assert [int(line) for line in lines[at + 1 : at + 30000]] == list(range(2, 30001))

    with_sandbox(server, work)


def test_large_input_reaches_a_program_on_a_terminal(server: Server) -> None:
    async def work(sandbox: AsyncSandbox) -> None:
        screen = Screen()
        pty = await sandbox.process.create_pty_session("t", screen, envs={"PS1": ""})
        await pty.send_input("stty raw -echo; echo rea''dy; head -c 600000 | sha256sum\n")
        await screen.shows(b"ready")
        data = random.Random(1).randbytes(600_000)
        for at in range(0, len(data), 30_000):
            await pty.send_input(data[at : at + 30_000])
        await screen.shows(hashlib.sha256(data).hexdigest().encode())

    with_sandbox(server, work)
