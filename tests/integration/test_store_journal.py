"""Events are committed before they are seen, and a store that fails is not the run's trouble."""

from __future__ import annotations

import sqlite3
import threading
import weakref

import pytest
import sqlalchemy as sa

from fleet_rlm_jupyter.domain.errors import StoreFailed
from fleet_rlm_jupyter.domain.events import Event, Log, RunEnded
from fleet_rlm_jupyter.store import journal as journals
from fleet_rlm_jupyter.store.archive import Archive
from fleet_rlm_jupyter.store.database import Database
from fleet_rlm_jupyter.store.journal import Acceptance, Journal
from fleet_rlm_jupyter.store.runs import StoredRuns


@pytest.fixture
def database(tmp_path):
    opened = Database(f"sqlite:///{tmp_path}/fleet.db")
    yield opened
    opened.close()


def run(journal: Journal, seen: list[Event], lost: list[str], run_id: str = "r-1", count: int = 50) -> None:
    journal.accept(Acceptance(run_id, "s-1", "q", 1.0), lost.append)
    for seq in range(count):
        fact = RunEnded(status="done") if seq == count - 1 else Log(level="info", text="x" * 200)
        event = Event(seq=seq, at=seq, session_id="s-1", run_id=run_id, call_id=None, fact=fact)
        journal.write(event, seen.append)


def test_what_is_delivered_is_committed(database, tmp_path):
    archive = Archive(database)
    other = sqlite3.connect(tmp_path / "fleet.db", check_same_thread=False)
    kept = []
    journal = Journal(lambda: archive)
    journal.accept(Acceptance("r-1", "s-1", "q", 1.0), lambda why: None)
    for seq in range(50):
        fact = Log(level="info", text="x")
        event = Event(seq=seq, at=seq, session_id="s-1", run_id="r-1", call_id=None, fact=fact)
        journal.write(
            event, lambda one: kept.append(other.execute("SELECT max(seq) FROM events").fetchone()[0] >= one.seq)
        )
    assert journal.close()
    assert kept == [True] * 50
    other.close()


@pytest.mark.parametrize("what", ["disk I/O error", "database or disk is full", "database is locked"])
@pytest.mark.parametrize("moment", range(1, 8))
def test_a_fault_at_any_statement_loses_no_event_and_is_said_once(database, tmp_path, what, moment):
    count = 0

    def fault(*_) -> None:
        nonlocal count
        count += 1
        if count == moment:
            raise sqlite3.OperationalError(what)

    for name in ("do_execute", "do_executemany"):
        sa.event.listen(database.engine, name, fault)
    seen, lost = [], []
    journal = Journal(lambda: Archive(database))
    run(journal, seen, lost)
    assert journal.close()
    assert [event.seq for event in seen] == list(range(50))
    assert len(lost) == (count >= moment)
    assert all(what in why for why in lost)
    with sqlite3.connect(tmp_path / "fleet.db") as plain:
        assert plain.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        stored = [row[0] for row in plain.execute("SELECT seq FROM events ORDER BY seq")]
    assert stored == list(range(len(stored)))


def test_a_store_that_cannot_be_opened_is_said_and_the_next_run_is_kept(database):
    ways = iter([StoreFailed("no store today"), Archive(database)])

    def archive() -> Archive:
        way = next(ways)
        if isinstance(way, StoreFailed):
            raise way
        return way

    seen, lost = [], []
    journal = Journal(archive)
    run(journal, seen, lost, count=1)
    while not seen:
        pass
    run(journal, seen, lost, "r-2", count=5)
    assert journal.close()
    assert (len(seen), lost) == (6, ["no store today"])
    assert len(list(StoredRuns(database, "local").lines("r-2"))) == 5


def test_a_closed_journal_still_delivers(database):
    seen = []
    journal = Journal(lambda: Archive(database))
    assert journal.close()
    lost = []
    run(journal, seen, lost)
    assert len(seen) == 50
    assert lost == ["the journal is closed"]


def test_events_that_come_close_together_are_one_transaction_and_an_end_does_not_wait(database, monkeypatch):
    monkeypatch.setattr(journals, "GROUP_SECONDS", 60.0)
    sizes, ended = [], threading.Event()

    class Counted(Archive):
        def append(self, events, turns, values=()):
            sizes.append(len(events))
            super().append(events, turns, values)

    journal = Journal(lambda: Counted(database))
    assert journal.accept(Acceptance("r-1", "s-1", "q", 1.0), lambda why: None).result(30) == "r-1"
    for seq in range(11):
        fact = RunEnded(status="done") if seq == 10 else Log(level="info", text="x")
        event = Event(seq=seq, at=seq, session_id="s-1", run_id="r-1", call_id=None, fact=fact)
        journal.write(event, lambda one: ended.set() if one.seq == 10 else None)
    assert ended.wait(30)
    assert journal.close()
    assert [size for size in sizes if size] == [11]


def test_a_journal_that_waits_for_work_holds_nothing_of_a_run_that_has_ended(database):
    def show(event: Event) -> None:
        """What a run's trace is held by."""

    gone = threading.Event()
    held = weakref.ref(show, lambda _: gone.set())
    journal = Journal(lambda: Archive(database))
    journal.accept(Acceptance("r-1", "s-1", "q", 1.0), lambda why: None)
    end = RunEnded(status="done")
    journal.write(Event(seq=0, at=0, session_id="s-1", run_id="r-1", call_id=None, fact=end), show)
    del show
    assert gone.wait(30)
    assert held() is None
    assert journal.close()
