"""Frozen inputs of questions: kept on demand, asked again, evaluated on; for a Workbench here and for a remote one."""

from __future__ import annotations

import hashlib
import time

import dspy
import pytest

from fleet_rlm_jupyter.domain.errors import BadRequest, KeyReused, NoSuchRun
from fleet_rlm_jupyter.domain.events import Limits
from fleet_rlm_jupyter.domain.program import Trial
from fleet_rlm_jupyter.domain.question import Question
from fleet_rlm_jupyter.settings import Settings, StoreSettings
from fleet_rlm_jupyter.store.database import Database
from fleet_rlm_jupyter.store.tables import SNAPSHOTS
from fleet_rlm_jupyter.testing import ScriptedEngine, UnisolatedSandboxes, scripted_models
from fleet_rlm_jupyter.workbench import Workbench

pytest_plugins = ["contract.workbenches_fixture"]

ANSWER = "[[ ## answer ## ]]\n42\n\n[[ ## completed ## ]]"
KEY = "sk-" + "abcdefgh" * 4


def reply(prompt):
    return ANSWER


def ask(bench, text="how many?", limits=None, **more):
    given = {"context": "some text", "mode": "direct", "snapshot": True, **more}
    run = bench.ask(Question(text, **given), limits)
    assert run.result(60).status == "done"
    return run


def test_what_was_asked_and_told_is_kept_where_that_is_wanted_and_only_there(bench, seen):
    session_id = bench.sessions.create().session_id
    ask(bench, "first?", session_id=session_id, snapshot=False)
    assert bench.snapshots.list() == []
    note = bench.memory.add("Totals are in thousands.")
    run = ask(bench, f"second? {KEY}", Limits(calls=7), session_id=session_id)
    (kept,) = bench.snapshots.list()
    assert kept == bench.snapshots.get(run.run_id)
    assert (kept.run_id, kept.session_id, kept.program, kept.mode) == (run.run_id, session_id, "ask", "direct")
    assert kept.context.sha256 == hashlib.sha256(b"some text").hexdigest()
    assert (kept.limits.calls, kept.model) == (7, "scripted model")
    assert "Q: first?\nA: 42" in kept.history
    assert kept.recall.items == [note]
    assert set(kept.settings) >= {"model", "sandbox.children"}
    assert KEY not in kept.model_dump_json()
    for verb in (seen("somebody else").snapshots.get, seen("somebody else").snapshots.delete):
        with pytest.raises(NoSuchRun):
            verb(run.run_id)
    bench.snapshots.delete(run.run_id)
    with pytest.raises(NoSuchRun):
        bench.snapshots.delete(run.run_id)
    with pytest.raises(NoSuchRun):
        bench.repeat(run.run_id)


def test_the_same_is_asked_and_told_again_whatever_has_changed(bench, engine):
    session_id = bench.sessions.create().session_id
    ask(bench, "first?", session_id=session_id, snapshot=False)
    note = bench.memory.add("Totals are in thousands.")
    run = ask(bench, "second?", Limits(calls=7), session_id=session_id, context={"b": "2", "a": "ü"})
    prompt = engine.prompts[-1]
    bench.memory.delete(note.memory_id)
    bench.memory.add("Totals are in millions.")
    ask(bench, "third?", session_id=session_id, snapshot=False)
    again = bench.repeat(run.run_id)
    ended = again.result(60)
    assert (ended.status, ended.answer) == ("done", "42")
    assert again.run_id != run.run_id
    assert engine.prompts[-1] == prompt
    assert again.tree().started.limits.calls == 7
    assert len(bench.snapshots.list()) == 1


def test_a_key_that_was_used_keeps_one_snapshot(bench):
    first = ask(bench, key="k")
    assert ask(bench, key="k").run_id == first.run_id
    with pytest.raises(KeyReused):
        ask(bench, "another?", key="k")
    assert [kept.run_id for kept in bench.snapshots.list()] == [first.run_id]


def test_what_cannot_be_frozen_is_refused(bench, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x").write_text("x", encoding="utf-8")
    with pytest.raises(BadRequest, match="a snapshot freezes a context"):
        bench.ask(Question("how many?", context_paths=["x"], snapshot=True))


@pytest.mark.parametrize("size", [10, 2_000_000], ids=["in the row", "by its digest"])
def test_judged_snapshots_are_rows_that_a_program_is_evaluated_on(bench, size):
    context = "x" * size
    run, other = ask(bench, "how many?", context=context), ask(bench, "and why?")
    with pytest.raises(BadRequest, match="give feedback"):
        bench.datasets.from_snapshots("asked")
    bench.runs.feedback(run.run_id, 1)
    made = bench.datasets.from_snapshots("asked", [run.run_id, other.run_id])
    assert (made.rows, made.fields) == (1, ["context", "question", "answer"])
    bench.programs.save("reader", dspy.Predict("context, question -> answer"))
    (split,) = made.splits
    tried = bench.optimize("reader", "asked", Trial(optimizer="none", split=split))
    assert tried.result(60).status == "done"
    scores = [event.fact.score for event in bench.follow(tried.run_id) if event.fact.type == "score.reported"]
    assert scores == [1.0]
    (row,) = bench.datasets.sample("asked")
    assert (row.fields["context"] == context) == (size == 10)


# --- what is kept ------------------------------------------------------------------------------------------------


@pytest.fixture
def make(tmp_path):
    made = []

    def workbench(script=lambda prompt: ANSWER, **store) -> Workbench:
        settings = Settings(store=StoreSettings(url=f"sqlite:///{tmp_path}/fleet.db", **store))
        made.append(Workbench(settings, UnisolatedSandboxes(), scripted_models(ScriptedEngine(script))))
        return made[-1]

    yield workbench
    for bench in made:
        bench.close()


def test_a_setting_keeps_every_question_that_can_be(make):
    bench = make(snapshots=True)
    run = ask(bench, snapshot=False)
    assert [kept.run_id for kept in bench.snapshots.list()] == [run.run_id]


def test_retention_forgets_neither_the_run_nor_the_context_of_a_snapshot(make):
    bench = make()
    kept = ask(bench, context="pinned")
    ask(bench, context="not pinned", snapshot=False)
    sha256 = bench.snapshots.get(kept.run_id).context.sha256
    bench.contexts.put(other := hashlib.sha256(b"other").hexdigest(), [b"other"])
    bench.close()
    time.sleep(0.05)
    bench = make(retention_days=1e-7)
    assert [run.run_id for run in bench.runs.list()] == [kept.run_id]
    assert (bench.contexts.has(sha256), bench.contexts.has(other)) == (True, False)
    assert bench.runs.prune(time.time()) == 0
    assert bench.repeat(kept.run_id).result(60).answer == "42"
    for run in bench.runs.list():
        if run.run_id == kept.run_id:
            bench.snapshots.delete(run.run_id)
    bench.close()
    time.sleep(0.05)
    bench = make(retention_days=1e-7)
    assert bench.runs.list() == []
    assert not bench.contexts.has(sha256)


def test_what_is_no_name_of_a_context_stays_as_it_is_and_one_that_is_gone_is_said(make):
    bench = make()
    rows = [
        {"context": {"fleet_context": "mine"}, "n": 1},
        {"context": {"fleet_context": {"sha256": "0" * 64, "kind": "text", "bytes": 1}}, "n": 2},
    ]
    bench.datasets.create("own", rows[:1])
    assert bench.datasets.rows("own")[0].fields["context"] == {"fleet_context": "mine"}
    bench.datasets.create("gone", rows[1:])
    with pytest.raises(BadRequest, match="is not here"):
        bench.datasets.rows("gone")
    assert len(bench.datasets.sample("gone")) == 1


def test_a_snapshot_is_one_row_with_its_digest(make, tmp_path):
    bench = make()
    run = ask(bench)
    database = Database(f"sqlite:///{tmp_path}/fleet.db")
    with database.reading() as connection:
        (row,) = connection.execute(SNAPSHOTS.select()).mappings()
    database.close()
    assert (row["run_id"], row["owner"], len(row["sha256"])) == (run.run_id, "local", 64)
