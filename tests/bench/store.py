"""The store's figures: appending through the journal, and replaying, with 100,000 events of 300 bytes."""

from __future__ import annotations

import tempfile
import time

from fleet_rlm_jupyter.domain.calls import fold
from fleet_rlm_jupyter.domain.events import CallText, Event
from fleet_rlm_jupyter.store.archive import Archive
from fleet_rlm_jupyter.store.database import Database
from fleet_rlm_jupyter.store.journal import Acceptance, Journal
from fleet_rlm_jupyter.store.runs import StoredRuns

COUNT = 100_000


def measure() -> tuple[float, float]:
    """(events appended in a second, seconds to read and fold them again)."""
    fact = CallText(channel="stdout", text="x" * 200)
    events = [
        Event(seq=seq, at=seq, session_id="s-1", run_id="r-1", call_id=f"c{seq % 500}", fact=fact)
        for seq in range(COUNT)
    ]
    with tempfile.TemporaryDirectory() as folder:
        database = Database(f"sqlite:///{folder}/fleet.db")
        archive = Archive(database)
        begun = time.perf_counter()
        journal = Journal(lambda: archive)
        lost: list[str] = []
        journal.accept(Acceptance("r-1", "s-1", "q", 1.0), lost.append)
        for event in events:
            journal.write(event, lambda _: None)
        is_all = journal.close(60)
        appended = time.perf_counter() - begun
        assert is_all
        assert not lost
        begun = time.perf_counter()
        fold(StoredRuns(database, "local").events("r-1"))
        replayed = time.perf_counter() - begun
        database.close()
    return COUNT / appended, replayed


if __name__ == "__main__":
    rate, seconds = measure()
    print(f"append {rate:,.0f} events/s (≥ 5,000), replay of {COUNT:,} events {seconds:.2f} s (≤ 2.5 s)")
