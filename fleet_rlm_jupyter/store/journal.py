"""One thread that commits events before anybody sees them, and gives up on the store rather than on a run."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fleet_rlm_jupyter.domain.errors import KeyReused, StoreFailed
from fleet_rlm_jupyter.domain.events import Event
from fleet_rlm_jupyter.domain.session import Turn

if TYPE_CHECKING:  # it imports SQLAlchemy, which the journal's thread does
    from fleet_rlm_jupyter.store.archive import Archive

GROUP_SECONDS = 0.02
"""How long an event may wait for those after it, so that they are one transaction; beginnings and ends never wait."""

Deliver = Callable[[Event], None]
Lost = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Acceptance:
    """A run that is to be kept. `key` with `scope` (a session, or none) names the request whose text is `digest`."""

    run_id: str
    session_id: str
    question: str
    at: float
    owner: str = "local"
    key: str | None = None
    scope: str = ""
    digest: str = ""


@dataclass(frozen=True, slots=True)
class FullValue:
    """A value of which an event shows a preview."""

    run_id: str
    call_id: str
    name: str
    text: str


@dataclass(frozen=True, slots=True)
class _Accept:
    given: Acceptance
    lost: Lost
    accepted: Future[str]


@dataclass(frozen=True, slots=True)
class _Write:
    event: Event
    deliver: Deliver
    turn: Turn | None


_Item = _Accept | _Write | FullValue


class Journal:
    """Commits what it is given, in order; what comes close together goes into one transaction. Thread-safe.

    Where the store fails, the runs at hand are told once why (`lost`) and go on without it; the next run tries again.
    `deliver` and `lost` are called from the journal's thread and must not raise.
    """

    def __init__(self, archive: Callable[[], Archive]) -> None:
        """`archive` opens the store; it is called in the journal's thread, since importing and migrating take time."""
        self._open = archive
        self._archive: Archive | None = None
        self._waiting: list[_Item] = []
        self._is_urgent = False
        self._kept: dict[str, Lost] = {}
        self._is_closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="fleet-journal", daemon=True)
        self._thread.start()

    def accept(self, given: Acceptance, lost: Lost) -> Future[str]:
        """Keep that run from here on. Returns at once; the future is the id of the run that its key stands for.

        The future raises KeyReused, after which the run is not kept; it is the run's own id where the store fails.
        """
        accepted: Future[str] = Future()
        if not self._put(_Accept(given, lost, accepted)):
            lost("the journal is closed")
            accepted.set_result(given.run_id)
        return accepted

    def write(self, event: Event, deliver: Deliver, turn: Turn | None = None) -> None:
        """Commit `event`, a run's end with its `turn`, then `deliver` it; only deliver it where its run is not kept."""
        if not self._put(_Write(event, deliver, turn)):
            deliver(event)

    def keep(self, value: FullValue) -> None:
        """Commit the value behind a preview. Returns at once."""
        self._put(value)

    def close(self, timeout: float = 5.0) -> bool:
        """Finish what is waiting; False if that took more than `timeout` seconds."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _put(self, item: _Item) -> bool:
        with self._changed:
            if self._is_closed:
                return False
            self._waiting.append(item)
            is_urgent = isinstance(item, _Accept) or (isinstance(item, _Write) and item.event.fact.type == "run.ended")
            self._is_urgent |= is_urgent
            # While the thread waits for company, it is left alone.
            if is_urgent or len(self._waiting) == 1:
                self._changed.notify_all()
            return True

    def _work(self) -> None:
        try:
            due = 0.0
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._waiting or self._is_closed)
                    wait = due - time.monotonic()
                    if wait > 0:
                        self._changed.wait_for(lambda: self._is_urgent or self._is_closed, wait)
                    batch, self._waiting, self._is_urgent = self._waiting, [], False
                if not batch:
                    return
                due = time.monotonic() + GROUP_SECONDS
                self._commit(batch)
                # Until the next event comes, which may be long: it would keep the whole traces of runs that have ended.
                del batch
        finally:
            # Also after a defect of ours: nobody may wait for what no thread will do.
            with self._changed:
                self._is_closed = True
                left, self._waiting = self._waiting, []
            self._deliver(left)

    def _commit(self, batch: list[_Item]) -> None:
        try:
            for item in batch:
                if isinstance(item, _Accept):
                    self._accept(item)
            if self._archive is not None:
                writes = [item for item in batch if isinstance(item, _Write) and item.event.run_id in self._kept]
                turns = {item.event.run_id: item.turn for item in writes if item.turn is not None}
                values = [item for item in batch if isinstance(item, FullValue) and item.run_id in self._kept]
                self._archive.append([item.event for item in writes], turns, values)
        except StoreFailed as err:
            self._archive = None
            for lost in self._kept.values():
                lost(err.text)
            self._kept.clear()
        finally:
            self._deliver(batch)

    def _accept(self, item: _Accept) -> None:
        self._kept[item.given.run_id] = item.lost
        if self._archive is None:
            self._archive = self._open()
        try:
            stands_for = self._archive.accept(item.given)
        except KeyReused as err:
            del self._kept[item.given.run_id]
            item.accepted.set_exception(err)
            return
        if stands_for != item.given.run_id:
            del self._kept[item.given.run_id]
        item.accepted.set_result(stands_for)

    def _deliver(self, batch: list[_Item]) -> None:
        for item in batch:
            if isinstance(item, _Accept):
                if not item.accepted.done():
                    item.accepted.set_result(item.given.run_id)
            elif isinstance(item, _Write):
                item.deliver(item.event)
                if item.event.fact.type == "run.ended":
                    self._kept.pop(item.event.run_id, None)
