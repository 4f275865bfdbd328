"""Which folders of the host a sandbox may read, and the names of the levels."""

import sys
from pathlib import Path

import pytest

from fleet_rlm_jupyter.localdaytona import levels
from fleet_rlm_jupyter.localdaytona.folders import reachable_by_all
from fleet_rlm_jupyter.localdaytona.plan import MountedVolume, ProcessLimits, SandboxPlan


def test_the_labels_are_those_of_the_design() -> None:
    assert levels.LABELS == {
        "L3": "Local — isolated (namespaces)",
        "L2": "Local — restricted (Landlock)",
        "L1": "Local — NOT isolated: code runs as you",
    }


def test_the_interpreter_is_readable_and_nothing_that_holds_the_home_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "prefix", "/home/ann/project/.venv")
    monkeypatch.setattr(sys, "exec_prefix", "/home/ann/project/.venv")
    monkeypatch.setattr(sys, "base_prefix", "/home/ann")
    monkeypatch.setattr(sys, "base_exec_prefix", "/")
    paths = levels.interpreter_paths("/home/ann")
    assert "/home/ann/project/.venv" in paths
    assert not {"/", "/home", "/home/ann"} & set(paths)


def test_the_systems_folders_are_not_named_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("prefix", "exec_prefix", "base_prefix", "base_exec_prefix"):
        monkeypatch.setattr(sys, name, "/usr")
    monkeypatch.setattr(sys, "executable", "/usr/bin/python3")
    assert levels.interpreter_paths("/root") == ()


def test_a_plan_survives_its_way_to_the_fork_server() -> None:
    plan = SandboxPlan(
        "id", "L3", "/f", "/s", 7, ("/a",), (MountedVolume("/v", "x", "/home/daytona/m"),), {"A": "b"}, ProcessLimits(5)
    )
    assert SandboxPlan.from_json(plan.to_json()) == plan
    assert plan.home == "/home/daytona"
    assert len(plan.socket) < 104


def test_a_closed_folder_on_the_way_is_seen(tmp_path: Path) -> None:
    for path in (tmp_path, *tmp_path.parents):
        if not path.stat().st_mode & 0o001:
            assert not reachable_by_all(tmp_path / "x")
            break
    assert reachable_by_all(Path("/usr/lib/nothing/here"))
