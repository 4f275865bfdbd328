"""Runs are kept by the Workbench: seen when committed, read again by another one, and never held up by a bad store."""

from __future__ import annotations

import ctypes
import sqlite3
import stat
import subprocess
import sys
import threading
import time

import pytest
import sqlalchemy as sa

from fleet_rlm_jupyter.domain.calls import fold
from fleet_rlm_jupyter.domain.errors import NoSuchRun
from fleet_rlm_jupyter.domain.events import Limits
from fleet_rlm_jupyter.settings import Settings, data_folder
from fleet_rlm_jupyter.store.database import Database
from fleet_rlm_jupyter.testing import ScriptedEngine, UnisolatedSandboxes, code, scripted_models
from fleet_rlm_jupyter.workbench import Question, Workbench

ANSWER = "[[ ## answer ## ]]\n42\n\n[[ ## completed ## ]]"


@pytest.fixture
def make(tmp_path):
    made = []

    def workbench(script=lambda prompt: ANSWER, path=None, **store) -> Workbench:
        settings = Settings.model_validate(
            {"budget": Limits(), "store": {"url": f"sqlite:///{path or tmp_path / 'kept' / 'fleet.db'}", **store}}
        )
        engine = script if isinstance(script, ScriptedEngine) else ScriptedEngine(script)
        made.append(Workbench(settings, UnisolatedSandboxes(), scripted_models(engine)))
        return made[-1]

    yield workbench
    for bench in made:
        bench.close()


def test_a_run_is_read_again_by_another_workbench(make):
    first = make()
    live = first.ask(Question("how many?", context="there are 42"))
    run = live.result(30)
    assert run.answer == "42"
    assert run.not_kept == ""
    second = make()
    events = list(second.follow(run.run_id))
    assert events == list(live.trace.events)
    assert list(second.follow(run.run_id, since=3)) == events[3:]
    assert second.runs.record(run.run_id) == run
    assert fold(events) == second.runs.tree(run.run_id)
    assert [item.run_id for item in second.runs.list("MANY")] == [run.run_id]
    assert second.sessions.transcript(run.session_id).turns == first.session().turns
    assert first.session().turns[0].run == run


def test_the_first_workbench_reads_a_run_that_has_ended_from_the_store(make):
    bench = make()
    live = bench.ask(Question("how many?", context="there are 42"))
    live.result(30)
    assert list(bench.follow(live.run_id)) == list(live.trace.events)
    bench.cancel(live.run_id)  # harmless
    with pytest.raises(NoSuchRun, match="no run r-unknown"):
        bench.follow("r-unknown")
    with pytest.raises(NoSuchRun):
        bench.cancel("r-unknown")


def test_an_event_is_committed_before_it_is_seen(make, tmp_path):
    bench = make()
    bench.runs.list()  # opens
    other = sqlite3.connect(tmp_path / "kept" / "fleet.db", check_same_thread=False)
    seen = []

    def look(event) -> None:
        newest = "SELECT max(seq) FROM events WHERE run_id = ?"
        seen.append(other.execute(newest, (event.run_id,)).fetchone()[0] >= event.seq)

    bench.ask(Question("how many?", context="there are 42"), watcher=look).result(30)
    assert len(seen) > 3
    assert all(seen)
    other.close()


def test_a_turn_is_written_in_one_transaction_with_its_runs_end(make, tmp_path):
    bench = make()
    bench.runs.list()
    other = sqlite3.connect(tmp_path / "kept" / "fleet.db", check_same_thread=False)
    both = "SELECT (SELECT count(*) FROM turns), (SELECT count(*) FROM events WHERE line LIKE '%run.ended%')"
    seen = set()
    bench.ask(Question("how many?", context="42"), watcher=lambda _: seen.add(other.execute(both).fetchone())).result(
        30
    )
    assert (1, 1) in seen
    assert seen <= {(0, 0), (1, 1)}
    other.close()


def test_the_file_and_its_folder_are_for_their_owner_only(make, tmp_path):
    make().runs.list()
    folder = tmp_path / "kept"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}


def test_tests_never_touch_the_users_own_data():
    assert "fleet-tests-" in str(data_folder())


def corrupt(path):
    path.write_bytes(b"no database at all" * 500)


def a_folder(path):
    path.mkdir()


def without_tables(path):
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA page_size=512")
    connection.execute("CREATE TABLE alembic_version (version_num TEXT)")
    connection.execute("INSERT INTO alembic_version VALUES ('0002')")
    connection.commit()
    connection.close()


def damaged(path):
    """A store whose first page is whole and whose others are not."""
    Database(f"sqlite:///{path}").close()
    pages = path.read_bytes()
    path.write_bytes(pages[:4096] + b"\xff" * (len(pages) - 4096))


@pytest.mark.parametrize("spoil", [corrupt, damaged, a_folder, without_tables])
def test_a_bad_store_does_not_stop_a_run_and_is_said(make, tmp_path, spoil):
    path = tmp_path / "bad.db"
    spoil(path)
    bench = make(path=path)
    seen = []
    live = bench.ask(Question("how many?", context="there are 42"), watcher=seen.append)
    run = live.result(30)
    assert (run.status, run.answer) == ("done", "42")
    assert "bad.db" in run.not_kept
    assert seen == list(live.trace.events) == list(bench.follow(live.run_id))
    assert bench.session().turns[0].run == run


ASK_ANYHOW = """
import os, sys
from fleet_rlm_jupyter.settings import Settings
from fleet_rlm_jupyter.testing import ScriptedEngine, UnisolatedSandboxes, scripted_models
from fleet_rlm_jupyter.workbench import Question, Workbench
assert not os.access(sys.argv[1], os.W_OK, effective_ids=True)
settings = Settings.model_validate({"store": {"url": f"sqlite:///{sys.argv[1]}"}})
models = scripted_models(ScriptedEngine(lambda prompt: sys.argv[2]))
run = Workbench(settings, UnisolatedSandboxes(), models).ask(Question("how many?", context="42")).result(30)
print(run.answer, run.not_kept, sep="|")
"""


def as_one_whom_permissions_bind() -> None:
    """Root, too, may then write only where it is permitted: PR_CAPBSET_DROP of CAP_DAC_OVERRIDE and _READ_SEARCH."""
    for capability in (1, 2):
        ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)


@pytest.mark.parametrize(("folder", "file"), [(0o500, 0o400), (0o700, 0o400)], ids=["all of it", "the file"])
def test_a_read_only_store_does_not_stop_a_run_and_is_said(make, tmp_path, folder, file):
    make().runs.list()
    path = tmp_path / "kept" / "fleet.db"
    path.chmod(file)
    path.parent.chmod(folder)
    before = path.read_bytes()
    command = [sys.executable, "-c", ASK_ANYHOW, str(path), ANSWER]
    said = subprocess.check_output(command, preexec_fn=as_one_whom_permissions_bind, text=True, timeout=60)
    path.parent.chmod(0o700)
    answer, not_kept = said.strip().split("|")
    assert answer == "42"
    assert "fleet.db cannot be used: [Errno 13] Permission denied" in not_kept
    assert path.read_bytes() == before


def test_a_store_that_becomes_read_only_does_not_stop_a_run_and_is_said(make):
    bench = make()
    bench.runs.list()

    def refuse(connection, *_) -> None:
        connection.exec_driver_sql("PRAGMA query_only=ON")

    engine = bench._house.store().database().engine
    sa.event.listen(engine, "begin", refuse)
    run = bench.ask(Question("how many?", context="42")).result(30)
    sa.event.remove(engine, "begin", refuse)
    assert run.answer == "42"
    assert "attempt to write a readonly database" in run.not_kept


def test_a_store_that_is_full_does_not_stop_a_run_and_is_said(make):
    bench = make()
    bench.runs.list()

    def no_room(connection, *_) -> None:
        connection.exec_driver_sql("PRAGMA max_page_count=1")

    engine = bench._house.store().database().engine
    sa.event.listen(engine, "begin", no_room)
    run = bench.ask(Question("how many?", context="42" * 20_000, mode="direct")).result(30)
    assert run.answer == "42"
    assert "full" in run.not_kept


def test_a_locked_store_costs_a_run_two_seconds_and_its_record(make, tmp_path):
    bench = make()
    bench.runs.list()
    other = sqlite3.connect(tmp_path / "kept" / "fleet.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    run = bench.ask(Question("how many?", context="42")).result(30)
    assert run.answer == "42"
    assert "locked" in run.not_kept
    other.execute("ROLLBACK")
    other.close()
    assert bench.ask(Question("how many?", context="42")).result(30).not_kept == ""


def test_a_store_that_is_replaced_in_mid_run_is_said_and_the_next_run_goes_to_the_new_one(make, tmp_path):
    path, gate, said = tmp_path / "kept" / "fleet.db", threading.Event(), threading.Event()

    def script(prompt: str) -> str:
        if "iteration ## ]]\n1/" in prompt:
            gate.wait(20)
            return code("1 + 1")
        said.wait(20 if "variables_info" in prompt else 0)
        return code("SUBMIT(answer='42')") if "variables_info" in prompt else ANSWER

    bench = make(script)
    live = bench.ask(
        Question("how many?", context="42", mode="rlm_only"),
        watcher=lambda event: said.set() if event.fact.type == "log" else None,
    )
    assert next(live.trace.follow(timeout=20)).fact.type == "run.started"
    for name in path.parent.iterdir():
        name.unlink()
    gate.set()
    run = live.result(30)
    assert run.answer == "42"
    assert run.not_kept
    assert [event.fact.type for event in live.trace.events].count("log") == 1, "said once, in the run"
    again = bench.ask(Question("how many?", context="42")).result(30)
    assert again.not_kept == ""
    assert [kept.run_id for kept in bench.runs.list()] == [again.run_id]


def test_old_runs_are_forgotten_when_the_store_opens(make, tmp_path):
    bench = make()
    old = bench.ask(Question("how many?", context="42")).result(30)
    new = bench.ask(Question("how many?", context="42")).result(30)
    with sqlite3.connect(tmp_path / "kept" / "fleet.db") as other:
        other.execute("UPDATE runs SET ended_at = ? WHERE run_id = ?", (time.time() - 3 * 86_400, old.run_id))
    assert len(make().runs.list()) == 2, "kept for ever by default"
    kept = make(retention_days=2)
    assert [run.run_id for run in kept.runs.list()] == [new.run_id]
    assert [turn.run.run_id for turn in kept.sessions.transcript(new.session_id).turns] == [new.run_id]


def test_a_key_in_question_code_output_and_answer_is_masked_in_every_event_and_row(make, tmp_path, monkeypatch):
    monkeypatch.setenv("SOME_SERVICE_TOKEN", "plum-tree-7519-token")
    secret = "plum-tree-7519-token"
    source = f"for part in ('plum-tree', '-7519-', 'token'):\n    print(part, end='')\nx = '{secret}'"
    replies = [code(source), code(f"SUBMIT(answer='it is {secret}')")]
    bench = make(replies)
    live = bench.ask(Question(f"is {secret} in it?", context=secret, mode="rlm_only"))
    run = live.result(60)
    bench.close()
    assert run.answer == "it is **********"
    kept = b"".join(path.read_bytes() for path in (tmp_path / "kept").iterdir())
    assert secret.encode() not in kept
    assert secret not in "".join(event.encode() for event in live.trace.events)
