"""Runs that are kept: in a real file, after kill -9, and when the file is bad."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from fleet_rlm_jupyter.domain.calls import fold
from fleet_rlm_jupyter.domain.errors import BadRequest, NoSuchRun, StoreFailed
from fleet_rlm_jupyter.domain.events import CallEnded, CallStarted, Event, Log, RunEnded
from fleet_rlm_jupyter.store.archive import Archive
from fleet_rlm_jupyter.store.database import Database
from fleet_rlm_jupyter.store.journal import Acceptance
from fleet_rlm_jupyter.store.runs import StoredRuns
from fleet_rlm_jupyter.store.tables import METADATA, RUNS


@pytest.fixture
def database(tmp_path):
    opened = Database(url(tmp_path / "deep" / "fleet.db"))
    yield opened
    opened.close()


def url(path):
    return f"sqlite:///{path}"


def accepted(run_id="r-1", at=1.0, owner="local"):
    return Acceptance(run_id, "s-1", "why?", at, owner)


def event(seq, fact, call_id=None, run_id="r-1"):
    return Event(seq=seq, at=100.0 + seq, session_id="s-1", run_id=run_id, call_id=call_id, fact=fact)


STARTED = CallStarted(parent_id=None, kind="rlm", name="x", depth=1)


def test_many_stores_are_made_at_once_by_threads_of_one_process(tmp_path):
    """Alembic keeps what it works on in globals of its modules."""
    together = threading.Barrier(8)

    def make(number):
        together.wait(30)
        Database(f"sqlite:///{tmp_path}/{number}.db").close()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(make, range(8)))


def test_a_migrated_store_is_what_the_tables_say(database):
    with database.reading() as connection:
        assert compare_metadata(MigrationContext.configure(connection), METADATA) == []
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
    Database(database.engine.url.render_as_string()).close()


def test_a_kept_run_folds_to_the_tree_of_the_live_one(database):
    archive = Archive(database)
    archive.accept(accepted(at=100.0))
    runs = StoredRuns(database, "local")
    events = [
        event(0, STARTED, "a"),
        event(1, CallEnded(outputs="7"), "a"),
        event(2, RunEnded(status="done", answer="7")),
    ]
    archive.append(events, {})
    assert list(runs.events("r-1")) == events
    assert fold(runs.events("r-1")) == fold(events)
    assert list(runs.lines("r-1", since=2)) == [events[2].encode()]
    kept = runs.find("r-")
    assert (kept.status, kept.ended_at, kept.question) == ("done", 102.0, "why?")
    assert runs.list("WHY") == runs.list() == [kept]
    assert runs.list("%") == runs.list(before=100.0) == []
    assert archive.mark_interrupted() == []
    assert archive.prune(before=1000.0) == 1
    with pytest.raises(NoSuchRun):
        list(runs.lines("r-1"))


def test_an_unknown_or_ambiguous_run_is_said(database):
    runs = StoredRuns(database, "local")
    for run_id in ("r-1", "r-12"):
        Archive(database).accept(accepted(run_id))
    with pytest.raises(NoSuchRun, match="no run r-9"):
        runs.find("r-9")
    with pytest.raises(BadRequest, match="more than one"):
        runs.find("r-")


def test_a_long_run_is_read_in_pages(database):
    archive = Archive(database)
    archive.accept(accepted())
    archive.append([event(seq, Log(level="info", text="x")) for seq in range(3500)], {})
    assert [item.seq for item in StoredRuns(database, "local").events("r-1", since=10)] == list(range(10, 3500))


WRITER = """
import sys, time
from fleet_rlm_jupyter.domain.events import CallStarted, Event, Log
from fleet_rlm_jupyter.store.archive import Archive
from fleet_rlm_jupyter.store.database import Database
from fleet_rlm_jupyter.store.journal import Acceptance
archive = Archive(Database(sys.argv[1]))
archive.accept(Acceptance(sys.argv[2], "s-1", "q", 1.0))
for seq in range(10**9):
    fact = Log(level="info", text="x" * 200) if seq else CallStarted(parent_id=None, kind="rlm", name="x", depth=1)
    archive.append([Event(seq=seq, at=seq, session_id="s-1", run_id=sys.argv[2], call_id="a", fact=fact)], {})
    print(seq, flush=True)
"""


def test_a_killed_writer_leaves_a_store_that_opens_and_a_run_marked_failed(tmp_path):
    path, chance = url(tmp_path / "fleet.db"), random.Random(7)
    for number in range(6):
        run_id = f"r-{number}"
        command = [sys.executable, "-c", WRITER, path, run_id]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            process.stdout.readline()
            database = Database(path)
            assert run_id not in Archive(database).mark_interrupted(), "its process lives"
            time.sleep(chance.random() * 0.02)
            process.kill()
            said = process.stdout.read().splitlines()
        archive = Archive(database)
        assert archive.mark_interrupted() == [run_id]
        events = list(StoredRuns(database, "local").events(run_id))
        assert [item.seq for item in events] == list(range(len(events)))
        assert len(events) - 2 > int(said[-2] if len(said) > 1 else 0), "what was acknowledged is kept"
        tree = fold(events)
        assert tree.status == "failed"
        assert tree.error is not None
        assert tree.error.code == "interrupted"
        assert all(call.ended_at is not None for call in tree.calls.values())
        with database.reading() as connection:
            assert connection.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"
        database.close()


def test_a_store_from_the_future_is_refused(database):
    with database.writing() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(StoreFailed, match="newer version"):
        Database(database.engine.url.render_as_string())


def test_a_file_that_is_no_store_is_an_error_of_ours(tmp_path):
    (tmp_path / "fleet.db").write_bytes(b"not a database" * 1000)
    with pytest.raises(StoreFailed, match="not a database"):
        Database(url(tmp_path / "fleet.db"))
    with pytest.raises(StoreFailed):
        Database(url(tmp_path / "fleet.db" / "below a file" / "fleet.db"))


def test_a_full_store_and_a_deleted_one_are_said(database, tmp_path):
    archive = Archive(database)
    archive.accept(accepted())

    def no_room(connection, *_) -> None:
        connection.exec_driver_sql("PRAGMA max_page_count=1")

    sa.event.listen(database.engine, "begin", no_room)
    with pytest.raises(StoreFailed, match="full"):
        archive.append([event(0, Log(level="info", text="x" * 100_000))], {})
    sa.event.remove(database.engine, "begin", no_room)
    (tmp_path / "deep" / "fleet.db").unlink()
    with pytest.raises(StoreFailed, match="No such file"):
        archive.append([event(0, Log(level="info", text="x"))], {})


def test_a_locked_store_is_said_after_two_seconds(database):
    other = Database(database.engine.url.render_as_string())
    with other.writing() as connection:
        connection.execute(sa.select(RUNS)).all()
        with pytest.raises(StoreFailed, match="locked"):
            Archive(database).accept(accepted())
    other.close()
