"""The manifest of a session on its volume: written after turns, never over another's, read where the store lost it."""

from __future__ import annotations

import hashlib
import json
import threading
from types import SimpleNamespace

import pytest

from fleet_rlm_jupyter.domain.errors import NoSuchSession, SandboxUnavailable
from fleet_rlm_jupyter.domain.events import SandboxChanged
from fleet_rlm_jupyter.domain.manifest import SessionManifest, heads
from fleet_rlm_jupyter.sandbox.daytona import DaytonaSandboxes
from fleet_rlm_jupyter.settings import SandboxSettings, Settings, StoreSettings
from fleet_rlm_jupyter.testing import ScriptedEngine, UnisolatedSandboxes, code, scripted_models
from fleet_rlm_jupyter.workbench import Question, Workbench

FOLDER = "meta/session"


class VolumeHome(UnisolatedSandboxes):
    """Sandboxes that say of themselves that they leave the session's volume behind, as a kept one does."""

    def open(self, role, on_output=None, on_fact=None):
        def told(fact):
            if isinstance(fact, SandboxChanged):
                state = "detached" if fact.state == "deleted" else fact.state
                fact = fact.model_copy(update={"volume": "v", "state": state})
            if on_fact is not None:
                on_fact(fact)

        return super().open(role, on_output, told)


@pytest.fixture
def home():
    made = VolumeHome()
    yield made
    made.close()


@pytest.fixture
def make(tmp_path, home):
    """A Workbench with the store of that name, on the same volumes."""
    made = []

    def workbench(store="one", sandboxes=home) -> Workbench:
        settings = Settings(store=StoreSettings(url=f"sqlite:///{tmp_path}/{store}.db"))
        engine = ScriptedEngine(lambda prompt: code("SUBMIT(answer='42')"))
        made.append(Workbench(settings, sandboxes, scripted_models(engine)))
        return made[-1]

    yield workbench
    for bench in made:
        bench.close()


def turn(bench, session_id, text="how many?", context="x"):
    """A turn, and all that is written after it."""
    run = bench.ask(Question(text, context=context, mode="rlm_only", session_id=session_id)).result(60)
    assert run.status == "done"
    manifests = bench._house.manifests
    with manifests._changed:
        assert manifests._changed.wait_for(lambda: not manifests._due, 30)
    return run


def written(files):
    return sorted(entry.path for entry in files.tree(FOLDER).entries)


def read(files, path):
    return SessionManifest.model_validate_json(files.read(path))


def test_a_turn_that_used_the_volume_leaves_a_manifest_of_its_session_there(make):
    bench = make()
    session_id = bench.sessions.create("numbers").session_id
    first = turn(bench, session_id, context="some text")
    second = turn(bench, session_id, context={"b": "2", "a": "ü"})
    files = bench.files(session_id)
    paths = written(files)
    assert [path[len(FOLDER) + 1 :][:8] for path in paths] == ["00000001", "00000002"]
    found = read(files, paths[-1])
    assert (found.schema_version, found.rev, found.session_id, found.title, found.turns) == (
        1, 2, session_id, "numbers", 2,
    )  # fmt: skip
    assert found.runs == [first.run_id, second.run_id]
    texts = ["some text", json.dumps({"a": "ü", "b": "2"})]
    assert [one.sha256 for one in found.contexts] == [hashlib.sha256(text.encode()).hexdigest() for text in texts]
    assert "local" not in files.read(paths[-1]).decode()
    turn(bench, session_id)
    assert [path[len(FOLDER) + 1 :][:8] for path in written(files)] == ["00000002", "00000003"]


def test_where_no_volume_is_used_none_is_made_and_nothing_is_written(make):
    plain = UnisolatedSandboxes()
    bench = make(sandboxes=plain)
    session_id = bench.sessions.create().session_id
    turn(bench, session_id)
    assert bench.files(session_id).tree().entries == []
    bench.ask(Question("plain?", mode="direct", session_id=session_id)).result(60)
    assert bench.files(session_id).tree().entries == []
    plain.close()


def test_a_session_that_the_store_has_lost_is_recognized_by_its_volume(make):
    bench = make()
    session_id = bench.sessions.create("numbers").session_id
    run = turn(bench, session_id)
    bench.files(session_id).write("memory/notes.txt", b"x")
    known = bench.resume(session_id)
    assert (known.is_restored, known.session.turns, known.manifest.rev, known.files, known.conflict) == (
        False, 1, 1, 1, "",
    )  # fmt: skip
    other = make("another")
    with pytest.raises(NoSuchSession):
        other.sessions.get(session_id)
    found = other.resume(session_id)
    assert (found.is_restored, found.session.title, found.session.turns) == (True, "numbers", 0)
    assert found.manifest.runs == [run.run_id]
    assert other.sessions.get(session_id).title == "numbers"
    assert not other.resume(session_id).is_restored
    assert other.files(session_id).read("memory/notes.txt") == b"x"


def test_a_session_of_somebody_else_is_not_recognized(make):
    bench = make()
    session_id = bench.sessions.create().session_id
    turn(bench, session_id)
    for there in (bench, make("another")):
        with pytest.raises(NoSuchSession, match="nor a manifest"):
            there.seen_by("somebody else").resume(session_id)
    with pytest.raises(NoSuchSession):
        make("another").resume("s-nobody")


def test_what_another_store_wrote_is_never_written_over_and_costs_no_answer(make, caplog):
    bench, other = make(), make("another")
    session_id = bench.sessions.create("numbers").session_id
    turn(bench, session_id)
    other.resume(session_id)
    turn(other, session_id)
    files = bench.files(session_id)
    assert "manifest_conflict" in caplog.text
    before = {path: files.read(path) for path in written(files)}
    assert len(before) == 1
    assert "another store" in other.resume(session_id).conflict
    turn(bench, session_id)
    assert read(files, written(files)[-1]).rev == 2
    assert all(files.read(path) == data for path, data in before.items())
    assert bench.resume(session_id).conflict == ""
    for path in written(files):
        files.delete(path)
    turn(other, session_id)
    assert other.resume(session_id).conflict == ""
    assert read(files, written(files)[0]).turns == 2


def test_two_who_write_one_revision_at_once_keep_both_and_the_next_turn_brings_them_together(make):
    bench, other = make(), make()
    session_id = bench.sessions.create().session_id
    turn(bench, session_id)
    files = bench.files(session_id)
    both = threading.Barrier(2)

    class Late:
        """Whoever writes waits until both have looked."""

        def __getattr__(self, name):
            return getattr(files, name)

        def write(self, path, data):
            both.wait(10)
            files.write(path, data)

    run = bench.ask(Question("and now?", session_id=session_id, mode="direct"))
    run.result(60)
    problems = []
    for there in (bench, other):
        there._house.manifests._known.clear()
    live = SimpleNamespace(session_id=session_id, owner="local")
    threads = [
        threading.Thread(target=lambda m=there._house.manifests: problems.append(m._added(live, Late(), {})))
        for there in (bench, other)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(problems) == 2
    assert len(heads(written(files))) == 2
    assert "at the same time" in make().resume(session_id).conflict
    turn(bench, session_id)
    (newest,) = heads(written(files))
    assert (read(files, newest).rev, read(files, newest).turns) == (3, 3)
    assert bench.resume(session_id).conflict == ""


def test_what_is_no_manifest_is_told_and_left_alone(make):
    bench = make()
    session_id = bench.sessions.create().session_id
    files = bench.files(session_id)
    forged = f"{FOLDER}/00000007-w{'0' * 16}.json"
    files.write(f"{FOLDER}/notes.txt", b"mine")
    files.write(forged, b'{"rev": 7, "session_id": "s-else"}')
    turn(bench, session_id)
    assert f"{forged} is no manifest" in bench.resume(session_id).conflict
    assert files.read(forged).startswith(b'{"rev": 7')
    files.delete(forged)
    turn(bench, session_id)
    assert bench.resume(session_id).manifest.rev == 1
    assert files.read(f"{FOLDER}/notes.txt") == b"mine"


def test_code_of_a_run_that_writes_there_too_harms_nothing(make):
    bench = make()
    session_id = bench.sessions.create().session_id
    turn(bench, session_id)
    files = bench.files(session_id)
    (path,) = written(files)
    last = files.read(path).replace(b'"rev":1', b'"rev":99999999')
    for forged, data in ((f"{FOLDER}/00000005{path[-23:]}", last), (f"{FOLDER}/99999999{path[-23:]}", last)):
        files.write(forged, data)
        turn(bench, session_id)
        assert forged in bench.resume(session_id).conflict
        files.delete(forged)
    turn(bench, session_id)
    assert (bench.resume(session_id).conflict, bench.resume(session_id).manifest.turns) == ("", 4)


def test_a_volume_that_cannot_be_written_costs_no_answer_and_is_said(make, home, monkeypatch):
    bench = make()
    session_id = bench.sessions.create().session_id

    def refuse(session_id):
        raise SandboxUnavailable("the service is down", "ask again")

    monkeypatch.setattr(home, "files", refuse)
    turn(bench, session_id)
    found = bench.resume(session_id)
    assert found.session.turns == 1
    assert "the service is down" in found.conflict


def test_the_answer_does_not_wait_for_the_manifest_and_the_end_of_the_workbench_does(make, home, monkeypatch):
    bench = make()
    session_id = bench.sessions.create().session_id
    files, is_let = home.files, threading.Event()

    def slow(session_id):
        assert is_let.wait(30)
        return files(session_id)

    monkeypatch.setattr(home, "files", slow)
    bench.ask(Question("how many?", context="x", mode="rlm_only", session_id=session_id)).result(30)
    threading.Timer(0.2, is_let.set).start()
    bench.close()
    assert len(written(files(session_id))) == 1


def test_a_real_volume_has_the_manifest_and_the_artifacts_of_its_session(make):
    home = DaytonaSandboxes(Settings(sandbox=SandboxSettings(allow_unisolated=True)))
    try:
        bench = make(sandboxes=home)
        bench.models().planner.engine._policy = lambda prompt: code(
            "save_to_volume('artifacts/table.csv', 'a,b', replace=True)\nSUBMIT(answer='42')"
        )
        session_id = bench.sessions.create("tables").session_id
        run = turn(bench, session_id)
        found = bench.resume(session_id)
        assert (found.session.turns, found.manifest.rev, found.files, found.conflict) == (1, 1, 1, "")
        assert [(one.path, one.sha256, one.run_id) for one in found.manifest.artifacts] == [
            ("artifacts/table.csv", hashlib.sha256(b"a,b").hexdigest(), run.run_id)
        ]
        assert found.sandbox_id
        turn(bench, session_id)
        assert make("another", sandboxes=home).resume(session_id).is_restored
    finally:
        home.close()
