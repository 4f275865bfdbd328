"""How sandboxes are made of the settings, written down, adopted and swept."""

from __future__ import annotations

import json
from typing import Any

import daytona
import pytest
from contract.faulty_line import Fault, FaultyLine, answer, refusal
from contract.localdaytona_server import Server, live_sandboxes, until

from fleet_rlm_jupyter.domain.errors import BadSettings, SandboxUnavailable
from fleet_rlm_jupyter.domain.ports import Role
from fleet_rlm_jupyter.sandbox import creation
from fleet_rlm_jupyter.sandbox import daytona as provider
from fleet_rlm_jupyter.sandbox.daytona import DaytonaSandboxes
from fleet_rlm_jupyter.settings import SandboxSettings, Settings
from fleet_rlm_jupyter.testing import MemoryAllocations

pytest_plugins = ["contract.remote_fixture"]

ROLE = Role("s-1", "r-1", "rlm", 1)


@pytest.fixture
def journal() -> MemoryAllocations:
    return MemoryAllocations()


# --- the journal ----------------------------------------------------------------------------------------------------


def test_a_sandbox_is_written_down_before_it_is_asked_for(opened, journal, line: FaultyLine) -> None:
    seen: list[dict[str, Any]] = []
    line.on_request = lambda request: seen.append(dict(journal.open)) if request == "POST /api/sandbox" else None
    interpreter = opened(journal).open(ROLE)
    interpreter.start()
    ((entry, allocation),) = seen[0].items()
    assert allocation.labels["session"] == "s-1"
    assert not allocation.sandbox_id
    assert journal.open[entry].sandbox_id == interpreter.sandbox_id
    interpreter.shutdown()
    until(lambda: not journal.open)


def test_a_refused_creation_is_crossed_out(opened, journal, line: FaultyLine) -> None:
    line.faults.append(Fault("POST /api/sandbox$", refusal(400, "Total disk limit exceeded")))
    with pytest.raises(SandboxUnavailable, match="quota"):
        opened(journal).open(ROLE).start()
    assert not journal.open


def test_what_a_dead_process_left_is_swept_at_the_first_sandbox(opened, journal, service: Server) -> None:
    dead = opened(journal)
    dead.open(ROLE).start()
    journal.die()
    other = opened(MemoryAllocations())
    other.open(Role("s-2", "r-2", "rlm", 1)).start()
    assert len(live_sandboxes(service)) == 2
    opened(journal).open(Role("s-3", "r-3", "rlm", 1)).start()
    until(lambda: sorted(one["session"] for one in live_sandboxes(service)) == ["s-2", "s-3"])
    until(lambda: len(journal.open) == 1)


def test_a_sandbox_whose_answer_never_came_is_found_by_its_name(opened, journal, service: Server, line) -> None:
    """As after a crash between the request and its answer: the journal has no id."""
    entry = journal.begin({"app": "fleet-rlm-jupyter", "role": "child"})
    daytona.Daytona(service.config()).create(daytona.CreateSandboxFromSnapshotParams(name=f"fleet-{entry}"))
    journal.die()
    opened(journal).open(ROLE).start()
    until(lambda: [one["session"] for one in live_sandboxes(service)] == ["s-1"])
    assert line.count(f"GET /api/sandbox/fleet-{entry}") == 1
    assert entry in journal.open, "another may yet appear: it is looked for again"


def test_the_sweep_comes_again_by_itself(opened, journal, service: Server, monkeypatch) -> None:
    monkeypatch.setattr(provider, "SWEEP_SECONDS", 0.2)
    entry = journal.begin({"app": "fleet-rlm-jupyter", "role": "child"})
    journal.die()
    opened(journal).open(ROLE).start()  # with the first sweep, which finds nothing yet
    assert service.call("POST", "/api/sandbox", json.dumps({"name": f"fleet-{entry}"}).encode())[0] == 200
    until(lambda: [one.get("session") for one in live_sandboxes(service)] == ["s-1"])


def test_a_sweep_touches_nothing_that_is_not_written_down(opened, journal, service: Server) -> None:
    client = daytona.Daytona(service.config())
    labels = {"app": "fleet-rlm-jupyter", "instance": "somebody-else", "session": "s-1", "role": "child"}
    stranger = client.create(daytona.CreateSandboxFromSnapshotParams(labels=labels))
    ours = opened(journal)
    ours.open(ROLE).start()
    ours.close()
    assert [one["instance"] for one in live_sandboxes(service)] == ["somebody-else"]
    stranger.delete()


def test_a_list_that_lags_behind_hides_nothing_and_resurrects_nothing(opened, line: FaultyLine, service) -> None:
    """The service's index shows deleted sandboxes and misses new ones: names and ids decide."""
    sandboxes = opened()
    sandboxes.open(ROLE).start()
    line.faults.append(Fault(r"GET /api/sandbox\?", answer({"items": [], "nextCursor": None}), times=9))
    sandboxes.close()
    assert live_sandboxes(service) == []


def test_a_creation_whose_answer_was_lost_is_adopted(opened, service: Server, line: FaultyLine) -> None:
    """The request arrives, the answer does not: one request in all, and the sandbox is used."""
    params: dict[str, str] = {}
    make = daytona.Daytona(service.config()).create

    def arrive(request: str) -> None:
        if request == "POST /api/sandbox":
            name = f"fleet-{next(iter(journal.open))}"
            params["id"] = make(daytona.CreateSandboxFromSnapshotParams(name=name)).id

    journal = MemoryAllocations()
    line.on_request = arrive
    line.faults.append(Fault("POST /api/sandbox$", refusal(502)))
    interpreter = opened(journal).open(ROLE)
    assert interpreter.execute("1 + 1") == "2"
    assert interpreter.sandbox_id == params["id"]
    assert line.count("POST /api/sandbox$") == 1


def test_a_sweep_looks_again_for_what_may_have_been_made(opened, service: Server, line: FaultyLine) -> None:
    journal = MemoryAllocations()
    sandboxes = opened(journal)
    line.faults.append(Fault("POST /api/sandbox$", refusal(500)))
    with pytest.raises(SandboxUnavailable):
        sandboxes.open(ROLE).start()
    (entry,) = journal.open
    daytona.Daytona(service.config()).create(daytona.CreateSandboxFromSnapshotParams(name=f"fleet-{entry}"))
    sandboxes._creation.sweep()
    until(lambda: live_sandboxes(service) == [])


# --- settings ---------------------------------------------------------------------------------------------------------


def asked_for(line: FaultyLine, sandboxes: DaytonaSandboxes) -> dict[str, Any]:
    """The body of the request that makes a sandbox."""
    line.faults.append(Fault("POST /api/sandbox$", refusal(400, "seen enough")))
    with pytest.raises(SandboxUnavailable, match="seen enough"):
        sandboxes.open(ROLE).start()
    return json.loads(line.bodies[-1])


def test_every_setting_of_a_sandbox_reaches_the_service(opened, line: FaultyLine) -> None:
    body = asked_for(
        line,
        opened(image="python:3.12-slim", cpu=2, memory_gb=4, disk_gb=8, env={"A": "1"}, auto_stop_minutes=7),
    )
    assert (body["cpu"], body["memory"], body["disk"]) == (2, 4, 8)
    assert body["env"] == {"A": "1"}
    assert "python:3.12-slim" in json.dumps(body["buildInfo"])
    assert (body["autoStopInterval"], body["autoDeleteInterval"]) == (7, 0)
    assert body["networkBlockAll"] is True


def test_the_network_is_closed_open_or_open_to_a_list(opened, line: FaultyLine) -> None:
    assert asked_for(line, opened())["networkBlockAll"] is True
    assert asked_for(line, opened(network=True))["networkBlockAll"] is False
    body = asked_for(line, opened(allow_list=("10.0.0.0/8", "192.0.2.1/32")))
    assert body["networkBlockAll"] is False
    assert body["networkAllowList"] == "10.0.0.0/8,192.0.2.1/32"


def test_packages_are_installed_and_the_network_is_closed_behind_them(opened, line: FaultyLine) -> None:
    line.faults += [
        Fault("POST .*/process/execute", answer({"exitCode": 0, "result": ""})),
        Fault("POST /api/sandbox/.*/network-settings", refusal(418, "closing was asked for")),
    ]
    with pytest.raises(SandboxUnavailable, match="closing was asked for"):
        opened(packages=("tinypkg==1.0",)).open(ROLE).start()
    bodies = [json.loads(body) for body in line.bodies if body]
    assert [body["networkBlockAll"] for body in bodies if "labels" in body] == [False]
    assert ["tinypkg==1.0" in body["command"] for body in bodies if "command" in body] == [True]
    assert bodies[-1]["networkBlockAll"] is True


def test_packages_that_cannot_be_installed_end_the_sandbox_and_are_told(opened, line: FaultyLine, service) -> None:
    line.faults.append(Fault("POST .*/process/execute", answer({"exitCode": 1, "result": "No matching distribution"})))
    with pytest.raises(SandboxUnavailable, match="No matching distribution") as caught:
        opened(packages=("no-such-package",)).open(ROLE).start()
    assert "sandbox.packages" in caught.value.hint
    until(lambda: live_sandboxes(service) == [])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"packages": ("numpy",)}, "install them into this Python"),
        ({"allow_list": ("10.0.0.0/8",)}, "unset sandbox.allow_list"),
        ({"snapshot": "x"}, "unset sandbox.snapshot"),
        ({"image": "x"}, "unset sandbox.image"),
        ({"cpu": 2}, "unset sandbox.cpu"),
    ],
    ids=str,
)
def test_what_the_local_server_cannot_do_is_refused_with_the_next_step(settings: dict[str, Any], said: str) -> None:
    sandboxes = DaytonaSandboxes(Settings(sandbox=SandboxSettings(**settings)))
    with pytest.raises(BadSettings) as caught:
        sandboxes.open(ROLE).start()
    assert said in caught.value.hint
    sandboxes.close()


def test_environment_and_memory_are_the_local_servers_too() -> None:
    sandboxes = DaytonaSandboxes(Settings(sandbox=SandboxSettings(env={"GREETING": "hi"}, memory_gb=1)))
    try:
        interpreter = sandboxes.open(ROLE)
        assert interpreter.execute("import os\nos.environ['GREETING']") == "hi"
        assert interpreter.execute("try: bytearray(1 << 31)\nexcept MemoryError: print('no')") == "no"
    finally:
        sandboxes.close()


@pytest.mark.parametrize(
    "settings",
    [{"snapshot": "a", "image": "b"}, {"cpu": 2}, {"memory_gb": 2}],
    ids=["both", "cpu", "memory"],
)
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, Any], opened) -> None:
    with pytest.raises(BadSettings):
        opened(**settings).open(ROLE).start()


SNAPSHOT = {
    "id": "1", "name": "big", "organizationId": "o", "general": False, "state": "active", "size": 1, "entrypoint": [],
    "cpu": 2, "gpu": 0, "mem": 4, "disk": 10, "errorReason": None, "createdAt": "2026-01-01T00:00:00Z",
    "updatedAt": "2026-01-01T00:00:00Z", "lastUsedAt": None, "imageName": "x", "sandboxClass": "container",
}  # fmt: skip


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (refusal(404, "Snapshot not found"), "there is no snapshot big"),
        (answer({**SNAPSHOT, "state": "inactive"}), "is inactive"),
        (answer({**SNAPSHOT, "cpu": 1}), "too small: cpu 1 < 2"),
    ],
    ids=["missing", "inactive", "small"],
)
def test_a_snapshot_that_will_not_do_is_refused_with_the_command_that_builds_it(
    found: bytes, said: str, opened, line: FaultyLine
) -> None:
    line.faults.append(Fault("GET /api/snapshots/big", found, times=3))
    with pytest.raises(BadSettings, match=said) as caught:
        opened(snapshot="big", cpu=2, memory_gb=4, disk_gb=10).open(ROLE).start()
    name = "big" if "no snapshot" in said else "big-2"
    assert f"fleet sandboxes build {name} --cpu 2 --memory 4 --disk 10" in caught.value.hint
    assert line.count("POST /api/sandbox$") == 0


def test_a_snapshot_that_is_large_enough_is_used(opened, line: FaultyLine) -> None:
    line.faults.append(Fault("GET /api/snapshots/big", answer(SNAPSHOT)))
    body = asked_for(line, opened(snapshot="big", cpu=2, memory_gb=4, disk_gb=10))
    assert body["snapshot"] == "big"
    assert "cpu" not in body


def test_a_timed_out_creation_is_looked_for_by_its_name(opened, line: FaultyLine, service, monkeypatch) -> None:
    monkeypatch.setattr(creation, "CREATE_SECONDS", 1)
    monkeypatch.setattr(creation, "CALL_SECONDS", 5)
    line.faults.append(Fault("POST /api/sandbox$", None))
    with pytest.raises(SandboxUnavailable, match="in time"):
        opened().open(ROLE).start()
    assert line.count("GET /api/sandbox/fleet-a-") == 1
