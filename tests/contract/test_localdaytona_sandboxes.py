"""The control plane of the local server, seen through the real Daytona SDK."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from contract.localdaytona_server import SECONDS, Server, start, until, with_client
from daytona import (
    AsyncDaytona,
    CreateSandboxFromImageParams,
    CreateSandboxFromSnapshotParams,
    Daytona,
    DaytonaAuthenticationError,
    DaytonaConflictError,
    DaytonaNotFoundError,
    DaytonaValidationError,
    ListSandboxesQuery,
    Resources,
    VolumeMount,
)
from daytona.common.errors import DaytonaError, DaytonaUnprocessableEntityError

pytest_plugins = ["contract.localdaytona_fixture"]


def params(**more: Any) -> CreateSandboxFromSnapshotParams:
    return CreateSandboxFromSnapshotParams(**more)


def test_a_sandbox_is_started_when_create_returns_and_gone_after_delete(client: Daytona) -> None:
    sandbox = client.create(params(name="whole-life", env_vars={"A": "1"}, labels={"app": "t"}), timeout=SECONDS)
    assert sandbox.state == "started"
    assert client.get("whole-life").id == sandbox.id
    assert sandbox.labels["app"] == "t"
    sandbox.stop(SECONDS)
    assert client.get(sandbox.id).state == "stopped"
    sandbox.start(SECONDS)
    assert sandbox.process.exec("echo $A", timeout=5).result == "1\n"
    client.delete(sandbox, SECONDS, wait=True)
    with pytest.raises(DaytonaNotFoundError):
        client.get(sandbox.id)


def test_the_home_outlives_a_stop_and_tmp_does_not(client: Daytona) -> None:
    sandbox = client.create(timeout=SECONDS)
    sandbox.process.exec("echo kept > ~/a; echo lost > $TMPDIR/a", timeout=5)
    sandbox.stop(SECONDS)
    sandbox.start(SECONDS)
    assert sandbox.process.exec("cat ~/a $TMPDIR/a 2>/dev/null", timeout=5).result == "kept\n"
    sandbox.delete(SECONDS)


def test_a_home_that_resists_is_deleted_all_the_same(client: Daytona, server: Server) -> None:
    sandbox = client.create(timeout=SECONDS)
    deep = "import os\nfor _ in range(3000): os.mkdir('d'); os.chdir('d')"
    assert sandbox.process.exec(f'python3 -c "{deep}"; mkdir x; touch x/y; chmod 000 x', timeout=20).exit_code == 0
    home = sandbox.process.exec("pwd", timeout=5).result.strip()
    sandbox.delete(SECONDS)
    if server.level == "L1":
        assert not Path(home).exists()


def test_lists_filter_by_label_and_by_page(client: Daytona) -> None:
    made = [client.create(params(labels={"run": "list", "n": str(n)}), timeout=SECONDS) for n in range(3)]
    found = list(client.list(ListSandboxesQuery(labels={"run": "list"}, limit=2)))
    assert {one.id for one in found} == {one.id for one in made}
    assert [one.id for one in client.list(ListSandboxesQuery(labels={"run": "list", "n": "1"}))] == [made[1].id]
    made[0].set_labels({"run": "other"})
    assert made[0].id not in {one.id for one in client.list(ListSandboxesQuery(labels={"run": "list"}))}
    for one in made:
        one.delete(SECONDS)


def test_twenty_sandboxes_start_at_once(server: Server) -> None:
    async def work(client: AsyncDaytona) -> None:
        made = await asyncio.gather(*[client.create(timeout=SECONDS) for _ in range(20)])
        answers = await asyncio.gather(*[one.process.exec("echo $HOME; pwd", timeout=10) for one in made])
        assert all(answer.exit_code == 0 for answer in answers)
        assert len({one.id for one in made}) == 20
        await asyncio.gather(*[one.delete(SECONDS) for one in made])

    with_client(server, work)


def test_a_timer_stops_an_idle_sandbox_and_deletes_an_ephemeral_one(tmp_path) -> None:
    server = start(tmp_path, "auto", "--minute-seconds", "0.1")
    client = Daytona(server.config())
    kept = client.create(params(auto_stop_interval=1), timeout=SECONDS)
    ephemeral = client.create(params(auto_stop_interval=1, ephemeral=True), timeout=SECONDS)
    never = client.create(params(auto_stop_interval=0), timeout=SECONDS)
    until(lambda: client.get(kept.id).state == "stopped")
    until(lambda: ephemeral.id not in {one.id for one in client.list()})
    assert client.get(never.id).state == "started"
    kept.set_auto_archive_interval(1)
    until(lambda: client.get(kept.id).state == "archived")
    kept.set_auto_delete_interval(1)
    until(lambda: kept.id not in {one.id for one in client.list()})
    assert server.end() == 0


def test_activity_and_intervals_are_accepted(client: Daytona, sandbox: Any) -> None:
    sandbox.refresh_activity()
    sandbox.set_autostop_interval(30)
    sandbox.set_auto_delete_interval(-1)
    assert client.get(sandbox.id).auto_stop_interval == 30


def test_a_fork_is_refused_as_for_a_container(sandbox: Any) -> None:
    fork = getattr(sandbox, "fork", None) or sandbox._experimental_fork
    with pytest.raises(DaytonaUnprocessableEntityError, match="not supported"):
        fork()


def test_memory_is_limited_per_process(client: Daytona) -> None:
    wanted = CreateSandboxFromImageParams(image="python:3.11", resources=Resources(memory=1))
    sandbox = client.create(wanted, timeout=SECONDS)
    assert sandbox.memory == 1
    assert "MemoryError" in sandbox.process.exec("python3 -c 'bytearray(2 << 30)'", timeout=10).result
    sandbox.delete(SECONDS)


def test_events_reach_the_sdk(server: Server) -> None:
    async def work(client: AsyncDaytona) -> None:
        sandbox = await client.create(timeout=SECONDS)
        deadline = asyncio.get_running_loop().time() + SECONDS
        dispatcher = client._event_dispatcher
        while not dispatcher.is_connected:
            assert asyncio.get_running_loop().time() < deadline
            await asyncio.sleep(0.01)
        other = await client.get(sandbox.id)
        await other.stop(SECONDS)
        while sandbox.state != "stopped":  # nobody asks: the event says it
            assert asyncio.get_running_loop().time() < deadline
            await asyncio.sleep(0.01)
        await sandbox.delete(SECONDS)

    with_client(server, work)


def test_volumes_outlive_sandboxes_and_subpaths_are_apart(client: Daytona) -> None:
    volume = client.volume.get("memory", create=True)
    assert volume.state == "ready"
    for subpath, text in (("one", "first"), ("two", "second")):
        mount = VolumeMount(volume_id=volume.id, mount_path="/home/daytona/mem", subpath=subpath)
        sandbox = client.create(params(volumes=[mount]), timeout=SECONDS)
        assert sandbox.process.exec("ls ~/mem", timeout=5).result == ""
        sandbox.fs.upload_file(text.encode(), "mem/note", timeout=SECONDS)
        with pytest.raises(DaytonaConflictError):
            client.volume.delete(volume)
        sandbox.delete(SECONDS)
    whole = VolumeMount(volume_id="memory", mount_path="/home/daytona/all")
    sandbox = client.create(params(volumes=[whole]), timeout=SECONDS)
    assert sandbox.process.exec("cat ~/all/one/note ~/all/two/note", timeout=5).result == "firstsecond"
    sandbox.delete(SECONDS)
    assert volume.id in {one.id for one in client.volume.list()}
    client.volume.delete(volume)
    with pytest.raises(DaytonaNotFoundError):
        client.volume.get("memory")


def test_volumes_outlive_the_server(tmp_path) -> None:
    first = start(tmp_path, "auto")
    volume = Daytona(first.config()).volume.create("lasting")
    sandbox = Daytona(first.config()).create(
        params(volumes=[VolumeMount(volume_id=volume.id, mount_path="/home/daytona/v")]), timeout=SECONDS
    )
    sandbox.fs.upload_file(b"still here", "v/note", timeout=SECONDS)
    assert first.end() == 0
    second = start(tmp_path, "auto")
    client = Daytona(second.config())
    mount = VolumeMount(volume_id=client.volume.get("lasting").id, mount_path="/home/daytona/v")
    assert client.create(params(volumes=[mount]), timeout=SECONDS).fs.download_file("v/note", 10) == b"still here"
    assert second.end() == 0


@pytest.mark.parametrize("key", ["wrong-key-0123456789", ""])
def test_nothing_is_told_without_the_key(server: Server, key: str) -> None:
    for path in ("/api/sandbox", "/api/health", "/api/volumes", "/toolbox/x/files", "/anything"):
        status, body = server.call("GET", path, key=key)
        assert (status, body["statusCode"], body["source"]) == (
            401,
            401,
            "DAYTONA_PROXY" if "toolbox" in path else "DAYTONA_API",
        )


def test_the_sdk_says_that_a_key_is_refused(server: Server) -> None:
    with pytest.raises(DaytonaAuthenticationError):
        Daytona(server.config("wrong-key-0123456789")).create(timeout=SECONDS)


def test_a_name_is_given_once(client: Daytona) -> None:
    first = client.create(params(name="twin"), timeout=SECONDS)
    with pytest.raises(DaytonaConflictError):
        client.create(params(name="twin"), timeout=SECONDS)
    first.delete(SECONDS)


def test_an_unknown_volume_is_refused_before_anything_is_made(client: Daytona) -> None:
    before = {one.id for one in client.list()}
    mount = VolumeMount(volume_id="no-such", mount_path="/home/daytona/x")
    with pytest.raises(DaytonaNotFoundError):
        client.create(params(volumes=[mount]), timeout=SECONDS)
    assert {one.id for one in client.list()} == before


@pytest.mark.parametrize("path", ["/", "/etc/x", "/proc", "/usr/local", "relative"])
def test_a_volume_cannot_cover_the_system(client: Daytona, path: str) -> None:
    volume = client.volume.get("covering", create=True)
    with pytest.raises(DaytonaValidationError):
        client.create(params(volumes=[VolumeMount(volume_id=volume.id, mount_path=path)]), timeout=SECONDS)


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[]",
        b'{"labels": 3}',
        b'{"env": {"a=b": "c"}}',
        b'{"env": {"a": 1}}',
        b'{"volumes": 1}',
        b'{"volumes": [1]}',
        b'{"autoStopInterval": "x"}',
        b'{"memory": -1}',
        b'{"name": 7}',
        b"\xff\xfe",
        b"[" * 100_000,
    ],
)
def test_a_bad_body_is_a_400_in_daytonas_form(server: Server, body: bytes) -> None:
    status, answer = server.call("POST", "/api/sandbox", body)
    assert status == 400
    assert set(answer) == {"statusCode", "message", "code", "source", "timestamp", "path", "method"}


@pytest.mark.parametrize("body", [b"{", b"[]", b"null", b'{"command": 1}', b'{"paths": [1]}', b'{"envs": 3}', b"\0"])
@pytest.mark.parametrize(
    "path", ["process/execute", "process/code-run", "process/pty", "files/bulk-download", "files/bulk-upload"]
)
def test_a_bad_body_for_the_toolbox_is_a_400(server: Server, sandbox: Any, path: str, body: bytes) -> None:
    status, answer = server.call("POST", f"/toolbox/{sandbox.id}/{path}", body)
    assert (status, answer["statusCode"], answer["source"]) == (400, 400, "DAYTONA_DAEMON")


def test_a_route_we_do_not_have_says_so(server: Server, sandbox: Any) -> None:
    assert server.call("GET", "/api/secret")[0] == 501
    assert server.call("GET", f"/toolbox/{sandbox.id}/lsp/start")[0] == 501
    assert server.call("GET", f"/toolbox/{sandbox.id}/no-such")[0] == 404
    assert server.call("GET", "/toolbox/no-such/work-dir")[0] == 404


def test_a_stopped_sandbox_says_that_it_is_not_started(client: Daytona) -> None:
    sandbox = client.create(timeout=SECONDS)
    sandbox.stop(SECONDS)
    with pytest.raises(DaytonaError, match="not started"):
        sandbox.process.exec("true", timeout=5)
    sandbox.delete(SECONDS)
