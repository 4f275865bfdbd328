"""One thread that commits events before anybody sees them, and gives up on the store rather than on a run."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from fleet_rlm_jupyter.domain.events import Event
from fleet_rlm_jupyter.store.archive import Archive
from fleet_rlm_jupyter.store.database import StoreFailed

Deliver = Callable[[Event], None]
Lost = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class _Accepted:
    run_id: str
    session_id: str
    question: str
    at: float
    lost: Lost


class Journal:
    """Commits what it is given, in order; what comes while it commits goes into the next transaction. Thread-safe.

    Where the store fails, the runs at hand are told once why (`lost`) and go on without it; the next run tries again.
    `deliver` and `lost` are called from the journal's thread and must not raise.
    """

    def __init__(self, archive: Callable[[], Archive]) -> None:
        """`archive` opens the store; it is called in the journal's thread, since importing and migrating take time."""
        self._open = archive
        self._archive: Archive | None = None
        self._waiting: list[_Accepted | tuple[Event, Deliver]] = []
        self._kept: dict[str, Lost] = {}
        self._is_closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="fleet-journal", daemon=True)
        self._thread.start()

    def accept(self, run_id: str, session_id: str, question: str, at: float, lost: Lost) -> None:
        """Keep that run from here on. Returns at once."""
        self._put(_Accepted(run_id, session_id, question, at, lost))

    def write(self, event: Event, deliver: Deliver) -> None:
        """Commit `event`, then `deliver` it; only deliver it where its run is not kept. Returns at once."""
        if not self._put((event, deliver)):
            deliver(event)

    def close(self, timeout: float = 5.0) -> bool:
        """Finish what is waiting; False if that took more than `timeout` seconds."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _put(self, item: _Accepted | tuple[Event, Deliver]) -> bool:
        with self._changed:
            if self._is_closed:
                return False
            self._waiting.append(item)
            self._changed.notify_all()
            return True

    def _work(self) -> None:
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._waiting or self._is_closed)
                    batch, self._waiting = self._waiting, []
                if not batch:
                    return
                self._commit(batch)
        finally:
            # Also after a defect of ours: nobody may wait for an event that no thread will deliver.
            with self._changed:
                self._is_closed = True
                left, self._waiting = self._waiting, []
            self._deliver(left)

    def _commit(self, batch: list[_Accepted | tuple[Event, Deliver]]) -> None:
        try:
            for item in batch:
                if isinstance(item, _Accepted):
                    self._accept(item)
            events = [item[0] for item in batch if not isinstance(item, _Accepted) and item[0].run_id in self._kept]
            if self._archive is not None:
                self._archive.append(events)
        except StoreFailed as err:
            self._archive = None
            for lost in self._kept.values():
                lost(err.text)
            self._kept.clear()
        finally:
            self._deliver(batch)

    def _accept(self, item: _Accepted) -> None:
        self._kept[item.run_id] = item.lost
        if self._archive is None:
            self._archive = self._open()
        self._archive.accept(item.run_id, item.session_id, item.question, item.at)

    def _deliver(self, batch: list[_Accepted | tuple[Event, Deliver]]) -> None:
        for item in batch:
            if not isinstance(item, _Accepted):
                item[1](item[0])
                if item[0].fact.type == "run.ended":
                    self._kept.pop(item[0].run_id, None)
