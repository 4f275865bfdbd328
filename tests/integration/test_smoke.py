"""`fleet smoke`: every phase, what a phase that fails says, and that nothing stays behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from contract.localdaytona_server import KEY, Server, start

from fleet_rlm_jupyter import cli
from fleet_rlm_jupyter.domain.errors import BadSettings
from fleet_rlm_jupyter.domain.ports import Interpreter, OnOutput, Role
from fleet_rlm_jupyter.settings import SandboxSettings, Settings, WorkspaceSettings
from fleet_rlm_jupyter.testing import UnisolatedSandboxes
from fleet_rlm_jupyter.verbs.smoke import OF_A_REPOSITORY, PHASES, SESSION
from fleet_rlm_jupyter.workbench import Workbench

PLAIN = [name for name in PHASES if name not in OF_A_REPOSITORY]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with tempfile.TemporaryDirectory() as data:
        os.chmod(data, 0o755)
        made = start(Path(data), "auto")
        yield made
        assert made.end() == 0


@pytest.fixture
def remote(server, tmp_path, monkeypatch, capfd):
    """Runs `fleet smoke --json` against a server as against Daytona; returns (exit code, what it said)."""
    monkeypatch.chdir(tmp_path)

    def run(*more: str, key: str = KEY, url: str = server.url) -> tuple[int, dict]:
        given = ["--set", f"daytona.api_key={key}", "--set", f"daytona.api_url={url}"]
        monkeypatch.setattr(sys, "argv", ["fleet", "smoke", "--json", *given, *more])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code, json.loads(capfd.readouterr().out)

    yield run
    server.clear_faults()


def statuses(said: dict) -> dict[str, str]:
    return {phase["name"]: phase["status"] for phase in said["phases"]}


def test_every_phase_passes_with_its_seconds_and_the_sandbox_is_gone(remote, server):
    code, said = remote()
    assert code == 0
    assert said["ok"]
    assert statuses(said) == dict.fromkeys(PLAIN, "passed")
    assert all(phase["seconds"] >= 0 and phase["error"] is None for phase in said["phases"])
    assert said["seconds"] > 0
    assert server.call("GET", "/api/sandbox")[1]["items"] == []


@pytest.fixture
def upstream(tmp_path):
    folder = tmp_path / "tool"

    def git(*arguments: str) -> str:
        person = ("-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "init.defaultBranch=main")
        done = subprocess.run(["git", *person, *arguments], cwd=folder, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    folder.mkdir()
    git("init", "--quiet")
    for name in ("one", "two"):
        (folder / name).write_text(name)
        git("add", "--all")
        git("commit", "--quiet", "--message", name)
    git("tag", "v1", "HEAD~1")
    git("branch", "feature/with/slashes")
    return folder, git("rev-parse", "HEAD"), git("rev-parse", "HEAD~1")


def test_a_repository_is_fetched_and_its_files_are_looked_for_in_the_sandbox(remote, server, upstream):
    folder, last, first = upstream
    for ref, commit, files in (("feature/with/slashes", last, 2), ("v1", first, 1), (last, last, 2)):
        code, said = remote("--repo", f"file://{folder}", "--ref", ref)
        assert code == 0, said
        assert statuses(said) == dict.fromkeys(PHASES, "passed")
        phases = {phase["name"]: phase for phase in said["phases"]}
        assert f"{ref} is commit {commit[:12]}, {files} files" in phases["clone"]["text"]
        assert phases["clone"]["seconds"] > 0
        assert phases["workspace"]["text"] == f"{files} files are in workspace/tool of the sandbox"
    assert server.call("GET", "/api/sandbox")[1]["items"] == []


def test_a_repository_that_cannot_be_fetched_fails_its_phase_before_a_sandbox_is_made(upstream, tmp_path):
    for url, ref, says in (
        (f"file://{upstream[0]}", "nowhere", "its branches are"),
        (f"file://{tmp_path}/gone", None, "check the URL"),
        ("file:///etc", None, "workspace.roots"),
    ):
        home = UnisolatedSandboxes()
        bench = Workbench(Settings(workspace=WorkspaceSettings(roots=(str(tmp_path),))), home)
        phases = {phase.name: phase for phase in bench.smoke(url, ref)}
        assert phases["clone"].error is not None
        assert phases["clone"].error.code == "bad_request"
        assert says in phases["clone"].error.hint
        others = {name: phase.status for name, phase in phases.items() if name != "clone"}
        assert others == {"config": "passed", **dict.fromkeys(list(PHASES)[2:], "skipped")}
        assert home.most_live == 0


def test_files_that_are_not_in_the_sandbox_fail_their_phase_and_it_is_given_back(upstream, tmp_path):
    home = UnisolatedSandboxes()  # these put no repository anywhere
    bench = Workbench(Settings(workspace=WorkspaceSettings(roots=(str(tmp_path),))), home)
    phases = {phase.name: phase for phase in bench.smoke(f"file://{upstream[0]}")}
    assert phases["workspace"].error is not None
    assert "said '0' instead of '2'" in phases["workspace"].error.text
    assert phases["clean-up"].status == "passed"
    assert home.live == 0


class Misconfigured(UnisolatedSandboxes):
    """Sandboxes that cannot be had as they are set up."""

    @property
    def isolation(self):
        raise BadSettings("there is no level L7", "choose another")


def test_a_configuration_that_cannot_be_fails_the_first_phase_and_nothing_is_made():
    home = Misconfigured()
    phases = {phase.name: phase for phase in Workbench(Settings(), home).smoke()}
    assert phases["config"].error is not None
    assert (phases["config"].error.code, phases["config"].error.hint) == ("bad_settings", "choose another")
    assert {phase.status for name, phase in phases.items() if name != "config"} == {"skipped"}
    assert home.most_live == 0


def test_a_ref_without_a_repository_is_bad_input(remote):
    code, said = remote("--ref", "main")
    assert code == 2
    assert "without --repo" in said["error"]["text"]


def test_without_a_key_it_tries_the_local_server_and_prints_a_line_a_phase(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["fleet", "smoke"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    lines = capfd.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines] == [["✓", name] for name in PLAIN]
    assert "Local — " in lines[0]


REFUSED = {
    "key": (lambda run, server: run(key="another-key-of-mine"), "bad_settings", "DAYTONA_API_KEY"),
    "quota": (lambda run, server: server.fault("quota") and run(), "sandbox_unavailable", "lower budget.sandboxes"),
    "address": (lambda run, server: run(url="http://127.0.0.1:9/api"), "sandbox_unavailable", "DAYTONA_API_URL"),
}


@pytest.mark.parametrize(("trial", "code", "hint"), REFUSED.values(), ids=REFUSED)
def test_a_phase_that_fails_says_what_to_do_and_the_rest_is_not_tried(remote, server, trial: Callable, code, hint):
    exit_code, said = trial(remote, server)
    assert exit_code == 1
    assert not said["ok"]
    assert statuses(said) == {"config": "passed", "create": "failed", **dict.fromkeys(PLAIN[2:], "skipped")}
    error = said["phases"][1]["error"]
    assert error["code"] == code
    assert hint in error["hint"]


class Forgetful(UnisolatedSandboxes):
    """Sandboxes whose REPL starts anew before each cell that begins with `start_of_cell`."""

    def __init__(self, start_of_cell: str) -> None:
        super().__init__()
        self._start_of_cell = start_of_cell

    def open(self, role: Role, on_output: OnOutput | None = None) -> Interpreter:
        made = super().open(role, on_output)
        execute = made.execute

        def forgetful(code, variables=None):
            if code.startswith(self._start_of_cell):
                return execute("print('somebody else')")
            return execute(code, variables)

        made.execute = forgetful
        return made


@pytest.mark.parametrize(("cell", "failed"), [("print(kept)", "state"), ("print(smoke", "callback")])
def test_a_wrong_result_fails_its_phase_and_the_sandbox_is_given_back_all_the_same(cell, failed):
    home = Forgetful(cell)
    phases = {phase.name: phase for phase in Workbench(Settings(), home).smoke()}
    assert phases[failed].status == "failed"
    assert phases[failed].error is not None
    assert phases[failed].error.code == "smoke_failed"
    assert phases[failed].error.hint == PHASES[failed]
    assert phases["clean-up"].status == "passed"
    assert home.live == 0


class Immortal(UnisolatedSandboxes):
    """A service that says that it deletes and does not."""

    def is_gone(self, sandbox_id: str, seconds: float) -> bool:
        return False


def test_a_sandbox_that_the_service_still_has_fails_the_clean_up():
    phases = {phase.name: phase for phase in Workbench(Settings(), Immortal()).smoke()}
    assert phases["clean-up"].status == "failed"
    assert "is still there" in phases["clean-up"].text
    assert "by hand" in phases["clean-up"].error.hint


def test_the_file_on_the_volume_is_cleaned_up():
    home = UnisolatedSandboxes()
    phases = {phase.name: phase for phase in Workbench(Settings(), home).smoke()}
    assert "was written, read and deleted" in phases["volume"].text
    assert [entry.path for entry in home.files(SESSION).tree("buffers").entries] == []


def test_where_no_volume_is_wanted_none_is_made():
    home = UnisolatedSandboxes()
    settings = Settings(sandbox=SandboxSettings(volume="none"))
    phases = {phase.name: phase for phase in Workbench(settings, home).smoke()}
    assert (phases["volume"].status, phases["volume"].text) == ("passed", "none is wanted (sandbox.volume)")
    assert home.files(SESSION).tree().entries == []


def test_whoever_stops_in_the_middle_leaves_no_sandbox():
    home = UnisolatedSandboxes()
    phases = Workbench(Settings(), home).smoke()
    assert [next(phases).name for _ in range(3)] == ["config", "create", "state"]
    assert home.live == 1
    phases.close()
    assert home.live == 0
