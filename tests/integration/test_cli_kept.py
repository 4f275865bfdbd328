"""`fleet runs`, `replay` and `sessions`: what was kept, read again by another process."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest

from fleet_rlm_jupyter import cli_kept
from fleet_rlm_jupyter.domain.events import Event, Log, RunEnded
from fleet_rlm_jupyter.settings import Settings
from fleet_rlm_jupyter.store.archive import Archive
from fleet_rlm_jupyter.store.database import Database
from fleet_rlm_jupyter.store.journal import Acceptance
from fleet_rlm_jupyter.testing import ScriptedEngine, UnisolatedSandboxes, code, scripted_models
from fleet_rlm_jupyter.workbench import Question, Workbench


@pytest.fixture
def url(tmp_path, monkeypatch):
    made = f"sqlite:///{tmp_path}/fleet.db"
    monkeypatch.setenv("FLEET_STORE__URL", made)
    return made


@pytest.fixture
def kept(url):
    """A session with one turn, and the run of it."""
    engine = ScriptedEngine([code("print('looking')"), code("SUBMIT(answer='forty-two')")])
    bench = Workbench(Settings.model_validate({"store": {"url": url}}), UnisolatedSandboxes(), scripted_models(engine))
    session_id = bench.sessions.create("numbers").session_id
    live = bench.ask(Question("How many \x1b[31mthings?", context="x", mode="rlm_only", session_id=session_id))
    live.result(60)
    bench.close()
    return live


def test_runs_are_listed_searched_and_shown(fleet, kept):
    code_, out, _ = fleet("runs", "list")
    assert code_ == 0
    assert kept.run_id in out
    assert "\x1b" not in out
    assert kept.run_id in fleet("runs", "list", "--search", "MANY")[1]
    nothing = fleet("runs", "list", "--search", "never asked")
    assert nothing[:2] == (0, "")
    assert "nothing is kept" in nothing[2]
    code_, out, err = fleet("runs", "show", kept.run_id[:8])
    assert not err, err
    assert code_ == 0
    assert "forty-two" in out
    assert "RLM depth 1" in out
    said = json.loads(fleet("runs", "show", kept.run_id, "--json")[1])
    assert (said["answer"], said["status"]) == ("forty-two", "done")
    assert [run["run_id"] for run in json.loads(fleet("runs", "list", "--json")[1])["runs"]] == [kept.run_id]


def test_a_run_is_replayed_and_exported_line_by_line(fleet, kept, tmp_path):
    code_, out, _ = fleet("replay", kept.run_id)
    assert code_ == 0
    assert out.index("model:") < out.index("code runs in the sandbox") < out.index("forty-two") < out.index("✓ done")
    lines = [event.encode() for event in kept.trace.events]
    assert fleet("replay", kept.run_id, "--json")[1].splitlines() == lines
    assert fleet("runs", "export", kept.run_id)[1].splitlines() == lines
    assert fleet("runs", "export", kept.run_id, "-o", "run.jsonl")[0] == 0
    assert (tmp_path / "run.jsonl").read_text(encoding="utf-8").splitlines() == lines
    assert fleet("runs", "export", kept.run_id, "-o", "no/such/folder.jsonl")[0] == 2


def test_replay_keeps_the_pace_and_waits_five_seconds_at_most():
    events = [Event(seq=n, at=at, session_id="s", run_id="r", call_id=None, fact=Log(level="info", text="x"))
              for n, at in enumerate((100.0, 101.0, 101.0, 400.0, 399.0))]  # fmt: skip
    pauses = []
    assert list(cli_kept._paced(events, 2.0, pauses.append)) == events
    assert pauses == [0.5, 0.0, 5.0, 0.0]
    assert list(cli_kept._paced(events, None, pauses.append)) == events
    assert len(pauses) == 4


@pytest.mark.parametrize("command", [("runs", "show"), ("runs", "export"), ("replay",)])
@pytest.mark.parametrize("run_id", ["r-unknown", "%", ""])
def test_an_unknown_run_is_one_clear_line(fleet, url, command, run_id):
    code_, out, err = fleet(*command, run_id)
    assert (code_, out) == (2, "")
    assert err.splitlines() == [f"error: there is no run {run_id}".rstrip(" ") if run_id else "error: there is no run ",
                                "next:  `fleet runs list` or %fleet runs names those that are kept"]  # fmt: skip


def test_a_store_that_is_none_is_said(fleet, tmp_path, monkeypatch):
    (tmp_path / "bad.db").write_bytes(b"no database at all" * 100)
    monkeypatch.setenv("FLEET_STORE__URL", f"sqlite:///{tmp_path}/bad.db")
    code_, out, err = fleet("runs", "list")
    assert (code_, out) == (1, "")
    assert "bad.db cannot be used" in err


def test_old_runs_and_sessions_are_pruned(fleet, kept):
    assert fleet("runs", "prune", "--days", "1")[1] == "0 runs forgotten\n"
    assert fleet("sessions", "prune", "--days", "1")[1] == "0 sessions forgotten\n"
    assert fleet("runs", "prune", "--days", "0")[1] == "1 run forgotten\n"
    assert fleet("replay", kept.run_id)[0] == 2
    assert fleet("sessions", "prune", "--days", "0")[1] == "1 session forgotten\n"
    assert fleet("sessions", "list")[1] == ""


def test_a_session_is_deleted_by_the_beginning_of_its_id_and_it_is_said_what_stays(fleet, kept):
    told = f"{kept.session_id} forgotten; it had no sandbox; its files stay on the volume fleet-rlm in "
    assert fleet("sessions", "delete", kept.session_id[:9])[1] == f"{told}sessions/{kept.session_id}\n"
    assert fleet("sessions", "list")[1] == ""
    assert fleet("replay", kept.run_id)[0] == 2
    code_, _, err = fleet("sessions", "delete", kept.session_id, "--json")
    assert code_ == 2
    assert "no session" in err


def test_sessions_are_listed_shown_exported_and_imported(fleet, kept):
    assert "numbers" in fleet("sessions", "list", "--search", "NUMB")[1]
    assert json.loads(fleet("sessions", "list", "--json")[1])["sessions"][0]["turns"] == 1
    _, out, _ = fleet("sessions", "show", kept.session_id[:6])
    assert "forty-two" in out
    assert "1 turns (1 done)" in out
    assert json.loads(fleet("sessions", "show", kept.session_id, "--json")[1])["stats"]["turns"] == 1
    assert fleet("sessions", "export", kept.session_id, "--output", "s.json")[0] == 0
    code_, made, _ = fleet("sessions", "import", "s.json")
    assert code_ == 0
    assert "forty-two" in fleet("sessions", "show", made.strip())[1]
    assert fleet("sessions", "show", "s-unknown")[0] == 2
    assert fleet("sessions", "import", "missing.json")[0] == 2


def test_the_commands_import_neither_dspy_nor_the_sdk_nor_start_anything(kept):
    script = (
        "import sys\nfrom fleet_rlm_jupyter import cli\nsys.argv = ['fleet', *sys.argv[1:]]\ntry:\n    cli.main()\n"
        "finally:\n    print({'dspy', 'daytona', 'alembic'} & sys.modules.keys(), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "replay", kept.run_id], capture_output=True, text=True, timeout=60, check=False
    )
    assert "forty-two" in done.stdout
    assert done.stderr.strip() == "set()"


def test_a_run_bigger_than_memory_is_replayed(url, tmp_path):
    """100 MB of events pass through a process that never holds much of them."""
    archive = Archive(database := Database(url))
    archive.accept(Acceptance("r-big", "s-1", "q", time.time()))
    for begin in range(0, 50_000, 5000):
        facts = [Log(level="info", text="x" * 2000)] * 5000
        archive.append(
            [Event(seq=begin + n, at=1.0, session_id="s-1", run_id="r-big", call_id=None, fact=fact)
             for n, fact in enumerate(facts)], {}
        )  # fmt: skip
    archive.append(
        [Event(seq=50_000, at=2.0, session_id="s-1", run_id="r-big", call_id=None, fact=RunEnded(status="done"))], {}
    )
    database.close()
    script = (
        "import sys\nfrom fleet_rlm_jupyter import cli\nsys.argv = ['fleet', 'replay', 'r-big', '--json']\n"
        "try:\n    cli.main()\nfinally:\n"
        "    status = open('/proc/self/status').read()\n"
        "    print(int(status.split('VmHWM:')[1].split()[0]) // 1024, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=100, check=True)
    assert len(done.stdout.splitlines()) == 50_001
    assert int(done.stderr) < 120, "MB at most, of 100 MB that were read"


@pytest.mark.parametrize("words", [(), ("runs",), ("sessions",), ("datasets",)])
def test_a_group_of_commands_alone_says_what_there_is_and_is_no_error(fleet, words):
    code, out, err = fleet(*words)
    assert (code, err) == (0, "")
    assert out.startswith("Usage: fleet")
    assert "Commands:" in out


def test_a_session_is_gone_on_with_in_a_terminal(fleet, kept):
    code_, out, err = fleet("sessions", "resume", kept.session_id[:9], "--json")
    assert (code_, err) == (0, "")
    found = json.loads(out)
    assert (found["session"]["session_id"], found["session"]["turns"]) == (kept.session_id, 1)
    assert "1 turn that a model is told of" in fleet("sessions", "resume", kept.session_id)[1]
    lost = fleet("sessions", "resume", "s-nobody")
    assert lost[0] == 2
    assert "nor a manifest of it" in lost[2]
    asked = ("ask", "How many lines are there?", "--model", "offline/recipes", "--json")
    assert json.loads(fleet(*asked, "--session", kept.session_id)[1])["status"] == "done"
    assert "2 turns" in fleet("sessions", "show", kept.session_id)[1]
    assert fleet(*asked, "--session", "s-nobody")[0] == 2
