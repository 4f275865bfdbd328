"""Every fault that the local server can be asked for is seen by the real Daytona SDK as Daytona's own trouble."""

import asyncio
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from contract.localdaytona_server import KEY, SECONDS, Server, launch, start, until, with_client
from daytona import (
    AsyncDaytona,
    CreateSandboxFromSnapshotParams,
    Daytona,
    DaytonaNotFoundError,
    DaytonaRateLimitError,
    DaytonaTimeoutError,
    DaytonaValidationError,
    ListSandboxesQuery,
    VolumeMount,
)
from daytona.common.errors import DaytonaConnectionError, DaytonaError, DaytonaUnprocessableEntityError

from fleet_rlm_jupyter.localdaytona.faults import AT_ONCE, FAULTS


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = start(tmp_path_factory.mktemp("faults"), "auto")
    yield server
    assert server.end() == 0


@pytest.fixture
def server(shared: Server) -> Iterator[Server]:
    yield shared
    shared.clear_faults()
    for one in shared.call("GET", "/api/sandbox")[1]["items"]:
        shared.call("DELETE", f"/api/sandbox/{one['id']}")


@pytest.fixture(params=["L3", "L2", "L1"])
def level_server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with tempfile.TemporaryDirectory() as data:
        Path(data).chmod(0o755)  # at L2 and L1 the code runs as another user when the tests run as root
        server = start(Path(data), request.param)
        yield server
        assert server.end() == 0


@pytest.fixture
def client(server: Server) -> Daytona:
    return Daytona(server.config())


def params(**more: Any) -> CreateSandboxFromSnapshotParams:
    return CreateSandboxFromSnapshotParams(**more)


def test_a_slow_start_is_waited_for(server: Server, client: Daytona) -> None:
    server.fault("slow_start", seconds=0.3, times=1)
    before = time.monotonic()
    assert client.create(timeout=SECONDS).process.exec("echo up", timeout=5).result == "up\n"
    assert time.monotonic() - before > 0.3


def test_a_start_that_is_too_slow_leaves_a_sandbox_that_can_be_found(server: Server, client: Daytona) -> None:
    server.fault("slow_start", seconds=2, times=1)
    with pytest.raises(DaytonaTimeoutError) as caught:
        client.create(params(name="late"), timeout=0.5)
    assert caught.value.sandbox_id == client.get("late").id
    until(lambda: client.get("late").state == "started")


def test_a_sandbox_deleted_while_it_starts_stays_deleted(server: Server) -> None:
    server.fault("slow_start", seconds=0.2, times=1)
    status, made = server.call("POST", "/api/sandbox", b"{}")
    assert (status, made["state"]) == (200, "creating")
    assert server.call("DELETE", f"/api/sandbox/{made['id']}")[0] == 200
    server.fault("slow_start", seconds=0.3, times=1)
    Daytona(server.config()).create(timeout=SECONDS)  # until after the first would have started
    assert server.call("GET", f"/api/sandbox/{made['id']}")[0] == 404


def test_a_start_error_is_raised_by_create_and_by_start(server: Server, client: Daytona) -> None:
    server.fault("start_error", seconds=0.1, times=1)
    with pytest.raises(DaytonaError, match="failed to start"):
        client.create(params(name="broken"), timeout=SECONDS)
    # The broken one again: of another the SDK may still hear late that it had started once.
    sandbox = client.get("broken")
    assert sandbox.state == "error"
    server.fault("start_error", seconds=0.1, times=1)
    with pytest.raises(DaytonaError, match="entered error state"):
        sandbox.start(SECONDS)
    assert "failed to start" in (client.get("broken").error_reason or "")
    sandbox.start(SECONDS)
    assert client.get("broken").state == "started"


def test_a_fork_is_refused_with_422(server: Server, client: Daytona) -> None:
    server.fault("fork_422")
    sandbox = client.create(timeout=SECONDS)
    with pytest.raises(DaytonaUnprocessableEntityError, match="not supported"):
        sandbox._experimental_fork()


def test_a_new_volume_is_pending_and_cannot_be_mounted_yet(server: Server, client: Daytona) -> None:
    server.fault("pending_volume", seconds=0.5, times=1)
    volume = client.volume.create("slow-volume")
    assert volume.state == "pending_create"
    mount = VolumeMount(volume_id=volume.id, mount_path="/home/daytona/v")
    with pytest.raises(DaytonaValidationError, match="not in a ready state"):
        client.create(params(volumes=[mount]), timeout=SECONDS)
    until(lambda: client.volume.get("slow-volume").state == "ready")
    client.create(params(volumes=[mount]), timeout=SECONDS).delete(SECONDS)
    client.volume.delete(volume)


STRICT = """
import fcntl, os, shutil, sqlite3
from pathlib import Path
def tried(name, work):
    Path("v/a").write_text("x")
    try: work()
    except Exception as err: print(name, type(err).__name__, getattr(err, "errno", ""), sep="|")
    else: print(name, "done", sep="|")
def write(path, mode, text="x"):
    with open(path, mode) as file: file.write(text)
def lock(how):
    with open("v/locked", "w") as file: how(file, fcntl.LOCK_EX)
def database():
    with sqlite3.connect("v/base.db") as base: base.execute("create table t (x)")
for folder in ("plain", "v"): Path(folder, "sub").mkdir(parents=True)
tried("new", lambda: write("v/new", "w"))
tried("over", lambda: write("v/a", "w", "again"))
tried("read", lambda: Path("v/a").read_text())
tried("append", lambda: write("v/a", "a"))
tried("change", lambda: write("v/a", "r+"))
tried("rename", lambda: os.rename("v/a", "v/b"))
tried("rename by descriptor", lambda: os.rename("a", "b", src_dir_fd=os.open("v", 0), dst_dir_fd=os.open("v", 0)))
tried("link", lambda: os.link("v/a", "v/l"))
tried("symlink", lambda: os.symlink("a", "v/s"))
tried("truncate", lambda: os.truncate("v/a", 1))
tried("times", lambda: os.utime("v/a"))
tried("flock", lambda: lock(fcntl.flock))
tried("lockf", lambda: lock(fcntl.lockf))
tried("sqlite", database)
tried("elsewhere", lambda: (write("plain/a", "a"), os.rename("plain/a", "plain/b"), os.utime("plain/b")))
tried("copy", lambda: shutil.copyfile("plain/b", "v/sub/b"))
tried("delete", lambda: os.unlink("v/a"))
"""


def test_a_strict_volume_knows_whole_files_only(level_server: Server) -> None:
    client, allowed = Daytona(level_server.config()), {"new", "over", "read", "elsewhere", "copy", "delete"}
    volume = client.volume.create("strict")
    wanted = params(volumes=[VolumeMount(volume_id=volume.id, mount_path="/home/daytona/v")])

    def results() -> dict[str, str]:
        sandbox = client.create(wanted, timeout=SECONDS)
        sandbox.fs.upload_file(STRICT.encode(), "strict.py", timeout=SECONDS)
        said = sandbox.process.exec("python3 strict.py 2>&1", timeout=SECONDS).result
        sandbox.fs.upload_file(b"x", "v/up", timeout=SECONDS)
        try:
            sandbox.fs.move_files("v/up", "v/moved")
        except DaytonaError as err:
            said += f"move|{err}\n"
        else:
            said += "move|done\n"
        sandbox.process.exec("rm -rf v/* plain", timeout=5)
        sandbox.delete(SECONDS)
        return dict(line.split("|", 1) for line in said.splitlines())

    loose = results()
    assert set(loose.values()) == {"done"}, loose
    level_server.fault("strict_volume")
    strict = results()
    level_server.clear_faults()
    assert {name for name, how in strict.items() if how == "done"} == allowed, strict
    assert strict["rename"] == "OSError|22"


def test_a_rate_limit_says_by_suffixed_headers_when_to_come_again(server: Server, client: Daytona) -> None:
    server.fault("rate_limit", seconds=7, times=1)
    with pytest.raises(DaytonaRateLimitError) as caught:
        client.create(timeout=SECONDS)
    headers = {name.lower(): value for name, value in caught.value.headers.items()}
    assert headers["retry-after-sandbox-create"] == "7"
    assert headers["x-ratelimit-remaining-sandbox-create"] == "0"
    assert "retry-after" not in headers
    client.create(timeout=SECONDS)


def test_a_rate_limit_holds_only_for_its_kind_of_request(server: Server, client: Daytona) -> None:
    sandbox = client.create(timeout=SECONDS)
    server.fault("rate_limit", on="toolbox", suffix="general")
    assert client.get(sandbox.id).state == "started"
    for _ in range(2):
        with pytest.raises(DaytonaRateLimitError) as caught:
            sandbox.process.exec("true", timeout=5)
        assert "retry-after-general" in {name.lower() for name in caught.value.headers}


def test_a_quota_is_a_400_that_names_what_is_used_up(server: Server, client: Daytona) -> None:
    server.fault("quota", resource="memory", times=1)
    with pytest.raises(DaytonaValidationError, match="Total memory limit exceeded"):
        client.create(timeout=SECONDS)
    server.fault("quota", on="volumes", times=1)
    with pytest.raises(DaytonaValidationError, match="Volume quota exceeded"):
        client.volume.create("one-too-many")
    assert not list(client.list())


def test_a_server_error_is_what_was_asked_for(server: Server, client: Daytona) -> None:
    server.fault("server_error", status=503, on="list", times=2)
    for _ in range(2):
        with pytest.raises(DaytonaError) as caught:
            list(client.list())
        assert caught.value.status_code == 503
    assert list(client.list()) == []


@pytest.mark.parametrize("status", [500, 0])
def test_a_create_that_fails_after_its_success_leaves_a_sandbox(server: Server, status: int) -> None:
    async def work(client: AsyncDaytona) -> None:
        server.fault("failure_after_success", status=status, times=1)
        with pytest.raises(DaytonaError):
            await client.create(params(name="orphan", labels={"run": "r1"}), timeout=SECONDS)
        found = [one async for one in client.list(ListSandboxesQuery(labels={"run": "r1"}))]
        assert [one.name for one in found] == ["orphan"]

    with_client(server, work)


class Shown:
    def __init__(self) -> None:
        self.text = b""

    def __call__(self, data: bytes) -> None:
        self.text += data


def test_a_dropped_socket_leaves_the_terminal_running(server: Server) -> None:
    async def work(client: AsyncDaytona) -> None:
        sandbox = await client.create(timeout=SECONDS)
        first, second = Shown(), Shown()
        pty = await sandbox.process.create_pty_session("t", first, envs={"PS1": ""})
        await pty.send_input("X=7; echo rea''dy\n")
        async with asyncio.timeout(SECONDS):
            while b"ready" not in first.text:
                await asyncio.sleep(0.01)
        server.fault("dropped_socket", times=1)
        result = await asyncio.wait_for(pty.wait(), SECONDS)
        assert result.exit_code is None
        again = await sandbox.process.connect_pty_session("t", second)
        await again.send_input("echo X is $X\n")
        async with asyncio.timeout(SECONDS):
            while b"X is 7" not in second.text:
                await asyncio.sleep(0.01)

    with_client(server, work)


def test_a_socket_is_dropped_after_so_many_bytes(server: Server) -> None:
    async def work(client: AsyncDaytona) -> None:
        sandbox = await client.create(timeout=SECONDS)
        server.fault("dropped_socket", bytes=100_000, times=1)
        shown = Shown()
        pty = await sandbox.process.create_pty_session("t", shown, envs={"PS1": ""})
        await pty.send_input("seq 1 1000000\n")
        await asyncio.wait_for(pty.wait(), SECONDS)
        assert 1000 < len(shown.text) < 1_000_000

    with_client(server, work)


def test_a_slow_reader_is_dropped_as_daytona_does(server: Server) -> None:
    async def work(client: AsyncDaytona) -> None:
        sandbox = await client.create(timeout=SECONDS)
        server.fault("slow_reader", seconds=0.003)
        pty = await sandbox.process.create_pty_session("t", Shown(), envs={"PS1": ""})
        await pty.send_input("yes | head -c 60000000\n")
        await asyncio.wait_for(pty.wait(), SECONDS)
        assert pty._ws.close_code == 1008  # the SDK does not say why a terminal ended

    with_client(server, work)


def test_a_list_lags_behind_what_was_made_and_deleted(server: Server, client: Daytona) -> None:
    server.fault("list_lag", seconds=0.5)
    sandbox = client.create(timeout=SECONDS)
    assert list(client.list()) == []
    assert client.get(sandbox.id).state == "started"
    until(lambda: [one.id for one in client.list()] == [sandbox.id])
    sandbox.delete(SECONDS)
    assert [one.id for one in client.list()] == [sandbox.id]
    with pytest.raises(DaytonaNotFoundError):
        client.get(sandbox.id)
    until(lambda: list(client.list()) == [])


def test_an_archived_sandbox_is_restored_slowly_with_its_files(server: Server, client: Daytona) -> None:
    sandbox = client.create(timeout=SECONDS)
    sandbox.fs.upload_file(b"kept", "note", timeout=SECONDS)
    server.fault("archived_sandbox", sandbox=sandbox.id, seconds=0.3)
    until(lambda: client.get(sandbox.id).state == "archived")  # an event that comes late changes what the SDK shows
    with pytest.raises(DaytonaError, match="not started"):
        sandbox.process.exec("true", timeout=5)
    assert server.call("POST", f"/api/sandbox/{sandbox.id}/start")[1]["state"] == "restoring"
    sandbox.start(SECONDS)
    assert sandbox.fs.download_file("note", 10) == b"kept"


def test_a_sandbox_killed_in_mid_cell_cuts_its_terminal_and_is_in_error(server: Server) -> None:
    async def work(client: AsyncDaytona) -> None:
        sandbox = await client.create(timeout=SECONDS)
        pty = await sandbox.process.create_pty_session("t", Shown())
        await pty.send_input("sleep 1000\n")
        server.fault("killed_sandbox", sandbox=sandbox.id)
        result = await asyncio.wait_for(pty.wait(), SECONDS)
        assert result.exit_code is None
        await sandbox.refresh_data()
        assert sandbox.state == "error"
        assert "killed" in (sandbox.error_reason or "")

    with_client(server, work)


def test_a_server_that_restarts_is_back_on_its_port_with_its_sandboxes(server: Server) -> None:
    async def work(client: AsyncDaytona) -> None:
        sandbox = await client.create(timeout=SECONDS)
        pty = await sandbox.process.create_pty_session("t", Shown())
        server.fault("server_restart", seconds=0.4)
        await asyncio.wait_for(pty.wait(), SECONDS)
        with pytest.raises(ConnectionRefusedError):  # the SDK itself tries again
            socket.create_connection(("127.0.0.1", server.ready["port"]), 1)
        async with asyncio.timeout(SECONDS):
            while True:
                try:
                    assert (await client.get(sandbox.id)).state == "started"
                    break
                except DaytonaConnectionError:
                    await asyncio.sleep(0.05)
        assert (await sandbox.process.exec("echo alive", timeout=5)).result == "alive\n"
        assert [one.id for one in await sandbox.process.list_pty_sessions()] == ["t"]

    with_client(server, work)


def test_faults_can_be_on_from_the_start(tmp_path: Path) -> None:
    server = start(tmp_path, "auto", "--fault", "quota:times=1,resource=disk", "--fault", "fork_422")
    with pytest.raises(DaytonaValidationError, match="Total disk limit exceeded"):
        Daytona(server.config()).create(timeout=SECONDS)
    assert [one["name"] for one in server.call("GET", "/api/faults")[1]["on"]] == ["fork_422"]
    assert server.end() == 0


@pytest.mark.parametrize("text", ["no_such", "quota:seconds=1", "quota:times=x", "quota:on=moon", *AT_ONCE])
def test_a_fault_that_makes_no_sense_is_refused_at_the_start(text: str) -> None:
    process = launch("--fault", text)
    out, _ = process.communicate(timeout=SECONDS)
    assert b"bad_option" in out
    assert process.returncode == 2


def test_faults_need_the_key_and_are_told(server: Server) -> None:
    assert server.call("POST", "/api/faults", b'{"fault": "fork_422"}', key="x" + KEY)[0] == 401
    assert server.call("GET", "/api/faults")[1] == {"on": [], "all": {name: text for name, (text, _) in FAULTS.items()}}
    assert server.call("POST", "/api/faults", b'{"fault": "x"}')[0] == 400
    assert server.call("POST", "/api/faults", b'{"fault": "slow_start", "seconds": -1}')[0] == 400
