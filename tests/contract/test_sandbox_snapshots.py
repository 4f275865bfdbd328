"""Snapshots of sandboxes: listed and built through the real SDK, where a service builds them and where it does not."""

from __future__ import annotations

import json
import shlex
import sys
from typing import Any

import pytest
from contract.faulty_line import Fault, FaultyLine, answer, refusal
from contract.localdaytona_server import KEY

from fleet_rlm_jupyter import cli
from fleet_rlm_jupyter.domain.errors import BadRequest, BadSettings, SandboxError, SandboxUnavailable
from fleet_rlm_jupyter.domain.ports import Role
from fleet_rlm_jupyter.domain.shown import Size
from fleet_rlm_jupyter.sandbox import snapshots
from fleet_rlm_jupyter.sandbox.snapshots import SandboxSnapshots
from fleet_rlm_jupyter.settings import DaytonaSettings, Settings
from fleet_rlm_jupyter.workbench import Workbench

pytest_plugins = ["contract.remote_fixture"]

BASE = {
    "id": "7", "name": "base", "organizationId": "o", "general": False, "state": "active", "size": 1, "entrypoint": [],
    "cpu": 2, "gpu": 0, "mem": 4, "disk": 10, "errorReason": None, "createdAt": "2026-01-01T00:00:00Z",
    "updatedAt": "2026-01-01T00:00:00Z", "lastUsedAt": None, "imageName": "x", "sandboxClass": "container",
}  # fmt: skip


@pytest.fixture
def bench(line: FaultyLine):
    made = Workbench(Settings(daytona=DaytonaSettings(api_key=KEY, api_url=line.url)))
    yield made
    made.close()


def page(number: int, last: int, name: str) -> bytes:
    return answer({"items": [{**BASE, "name": name}], "total": last, "page": number, "totalPages": last})


def log(text: str) -> bytes:
    head = f"HTTP/1.1 200 X\r\nContent-Type: text/plain\r\nContent-Length: {len(text)}\r\nConnection: close\r\n\r\n"
    return (head + text).encode()


def builds(line: FaultyLine, *ends: dict[str, Any]) -> None:
    """Have the service build: it says where the log is, and then each of `ends` when it is asked how far it is."""
    line.faults += [
        Fault("POST /api/snapshots$", answer({**BASE, "state": "building"})),
        Fault(r"GET /api/snapshots/7/build-logs-url", answer({"url": f"{line.url}/snapshots/7/logs"})),
        Fault(r"GET /api/snapshots/7/logs\?follow=true", log("Step 1/2\nStep 2/2 \x1b[2J\n")),
        *[Fault("GET /api/snapshots/7$", answer({**BASE, **end}), times=9 if end is ends[-1] else 1) for end in ends],
    ]


def test_all_pages_are_listed_by_name(bench: Workbench, line: FaultyLine) -> None:
    line.faults += [
        Fault(r"GET /api/snapshots\?.*page=1", page(1, 2, "b")),
        Fault(r"GET /api/snapshots\?.*page=2", page(2, 2, "a")),
    ]
    assert [(one.name, one.state, one.cpu, one.memory_gb, one.disk_gb) for one in bench.sandbox_snapshots.list()] == [
        ("a", "active", 2, 4, 10), ("b", "active", 2, 4, 10),
    ]  # fmt: skip


def test_a_snapshot_is_built_of_image_packages_and_sizes_while_its_log_is_heard(bench, line: FaultyLine) -> None:
    builds(line, {"state": "building"}, {})
    heard: list[str] = []
    made = bench.sandbox_snapshots.build("base", packages=("numpy>2",), size=Size(2, 4, 10), on_log=heard.append)
    assert (made.name, made.state) == ("base", "active")
    assert "Step 1/2\nStep 2/2" in "\n".join(heard)
    asked = json.loads(next(body for body in line.bodies if b"dockerfileContent" in body))
    assert (asked["name"], asked["cpu"], asked["memory"], asked["disk"]) == ("base", 2, 4, 10)
    dockerfile = asked["buildInfo"]["dockerfileContent"]
    assert dockerfile.startswith("FROM python:3.12-slim\n")
    assert "pip install 'numpy>2'" in dockerfile


def test_one_that_fails_to_build_says_why_and_is_not_asked_for_twice(bench, line: FaultyLine) -> None:
    builds(line, {"state": "build_failed", "errorReason": "no such package"})
    with pytest.raises(SandboxError, match=r"base was not built: .*no such package") as caught:
        bench.sandbox_snapshots.build("base")
    assert "its log says why" in caught.value.hint
    assert line.count("POST /api/snapshots$") == 1


def test_a_name_that_is_taken_is_refused(bench, line: FaultyLine) -> None:
    line.faults.append(Fault("POST /api/snapshots$", refusal(409, "Snapshot already exists")))
    with pytest.raises(BadRequest, match="there is a snapshot base already"):
        bench.sandbox_snapshots.build("base")


def test_the_local_server_lists_its_own_and_says_that_it_builds_none(bench: Workbench, line: FaultyLine) -> None:
    assert [(one.name, one.state) for one in bench.sandbox_snapshots.list()] == [("local", "active")]
    with pytest.raises(SandboxUnavailable, match=r"does not offer that.*makes no snapshots") as caught:
        bench.sandbox_snapshots.build("base")
    assert "DAYTONA_API_KEY" in caught.value.hint
    assert line.count("POST /api/snapshots$") == 1, "asking again would not help"


def test_without_a_key_there_are_none_and_nothing_is_started(monkeypatch) -> None:
    monkeypatch.setattr(snapshots, "DaytonaClient", lambda *_, **__: pytest.fail("a client was made"))
    for act in (SandboxSnapshots(Settings).list, lambda: SandboxSnapshots(Settings).build("x")):
        with pytest.raises(BadSettings, match="local sandboxes are made of no snapshot"):
            act()


def test_the_command_line_lists_and_builds(line: FaultyLine, monkeypatch, capfd) -> None:
    monkeypatch.setenv("FLEET_DAYTONA__API_KEY", KEY)
    monkeypatch.setenv("FLEET_DAYTONA__API_URL", line.url)

    def fleet(words: str) -> tuple[Any, str, str]:
        monkeypatch.setattr(sys, "argv", shlex.split(words))
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capfd.readouterr()
        return ended.value.code, said.out, said.err

    assert fleet("fleet sandboxes snapshots")[1].split()[:2] == ["local", "active"]
    (shown,) = json.loads(fleet("fleet sandboxes snapshots --json")[1])["snapshots"]
    assert shown.keys() == {"name", "state", "image", "cpu", "memory_gb", "disk_gb", "error", "created"}
    builds(line, {})
    code, out, err = fleet("fleet sandboxes build base --image python:3.11 --package polars --memory 4")
    assert (code, out.split()[:2]) == (0, ["base", "active"])
    assert "Step 2/2 \\x1b[2J" in err
    assert "set sandbox.snapshot=base" in err
    body = next(body.decode() for body in line.bodies if b"dockerfileContent" in body)
    assert "FROM python:3.11" in body
    assert "polars" in body
    assert "numpy" not in body
    line.bodies.clear()
    code, out, err = fleet("fleet sandboxes build other")
    assert (code, out) == (1, "")
    assert "does not offer that" in err


def test_the_command_that_is_named_where_a_snapshot_is_missing_builds_it(line, opened, monkeypatch, capfd) -> None:
    line.faults.append(Fault("GET /api/snapshots/base$", refusal(404, "Snapshot not found")))
    with pytest.raises(BadSettings, match="there is no snapshot base") as caught:
        opened(snapshot="base", cpu=2, memory_gb=4, disk_gb=10).open(Role("s-1", "r-1", "rlm", 1)).start()
    command = caught.value.hint.removeprefix("build it: ")
    builds(line, {})
    monkeypatch.setenv("FLEET_DAYTONA__API_KEY", KEY)
    monkeypatch.setenv("FLEET_DAYTONA__API_URL", line.url)
    monkeypatch.setattr(sys, "argv", shlex.split(command))
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    asked = json.loads(next(body for body in line.bodies if b"dockerfileContent" in body))
    assert (asked["name"], asked["cpu"], asked["memory"], asked["disk"]) == ("base", 2, 4, 10)
