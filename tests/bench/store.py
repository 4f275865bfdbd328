"""The store's figures: appending through the journal, replaying 100,000 events, a page of 10,000 sessions."""

from __future__ import annotations

import os
import tempfile
import time
from typing import NamedTuple

import sqlalchemy as sa

from fleet_rlm_jupyter.domain.calls import fold
from fleet_rlm_jupyter.domain.events import CallText
from fleet_rlm_jupyter.domain.masking import Mask
from fleet_rlm_jupyter.engine.trace import Trace
from fleet_rlm_jupyter.store.archive import Archive
from fleet_rlm_jupyter.store.database import Database
from fleet_rlm_jupyter.store.journal import Acceptance, Journal
from fleet_rlm_jupyter.store.runs import StoredRuns
from fleet_rlm_jupyter.store.sessions import StoredSessions
from fleet_rlm_jupyter.store.tables import SESSIONS

COUNT = 100_000
SESSION_COUNT = 10_000


class StoreFigures(NamedTuple):
    appended: float
    """Events that a trace masks, stamps and has committed in a second."""
    replayed: float
    """Seconds to read them and fold them again; `replayed_cpu` is what it cost of a processor."""
    replayed_cpu: float
    listed: float
    """Milliseconds for a page of 50 sessions, the slowest of the first twenty pages."""


def measure() -> StoreFigures:
    with tempfile.TemporaryDirectory() as folder:
        database = Database(f"sqlite:///{folder}/fleet.db")
        appended = _append(database)
        begun, cpu = time.perf_counter(), time.process_time()
        fold(StoredRuns(database, "local").events("r-1"))
        replayed, replayed_cpu = time.perf_counter() - begun, time.process_time() - cpu
        listed = _list(database)
        database.close()
    return StoreFigures(appended, replayed, replayed_cpu, listed)


def _append(database: Database) -> float:
    lost: list[str] = []
    begun = time.perf_counter()
    journal = Journal(lambda: Archive(database))
    journal.accept(Acceptance("r-1", "s-1", "q", 1.0), lost.append)
    trace = Trace("r-1", "s-1", keep=journal.write, mask=Mask(["plum-tree-7519"], home=""))
    text = ("the quick brown fox jumps over the lazy dog; " * 5)[:200]
    for seq in range(COUNT):
        trace.append(CallText(channel="stdout", text=text), f"c{seq % 500}")
    is_all = journal.close(120)
    seconds = time.perf_counter() - begun
    assert is_all
    assert not lost
    assert len(trace.events) >= COUNT
    return COUNT / seconds


def _list(database: Database) -> float:
    rows = [
        {"session_id": f"s-{number:06}", "title": f"topic {number}", "created_at": number, "updated_at": number}
        for number in range(SESSION_COUNT)
    ]
    with database.writing() as connection:
        connection.execute(sa.insert(SESSIONS), rows)
    sessions = StoredSessions(database, "local")
    cursor, slowest = None, 0.0
    for _ in range(20):
        begun = time.perf_counter()
        page, cursor = sessions.list(cursor=cursor)
        slowest = max(slowest, time.perf_counter() - begun)
        assert len(page) == 50
    return slowest * 1000


if __name__ == "__main__":
    figures = measure()
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")
    print(f"append {figures.appended:,.0f} events/s (≥ 5,000)")
    print(f"replay of {COUNT:,} events {figures.replayed:.2f} s, {figures.replayed_cpu:.2f} s of CPU (≤ 2.5 s)")
    print(f"page of {SESSION_COUNT:,} sessions {figures.listed:.1f} ms (≤ 50 ms)")
