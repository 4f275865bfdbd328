"""`bench.runs`: every run of a user, those that go on and those that are kept."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from fleet_rlm_jupyter.domain.calls import CallTree, fold
from fleet_rlm_jupyter.domain.errors import BadRequest
from fleet_rlm_jupyter.domain.events import Event
from fleet_rlm_jupyter.domain.session import Feedback, KeptRun, Run
from fleet_rlm_jupyter.verbs.house import House
from fleet_rlm_jupyter.verbs.live import LiveRun

if TYPE_CHECKING:  # it imports SQLAlchemy
    from fleet_rlm_jupyter.store.runs import StoredRuns

POLL_SECONDS = 0.2
LOOKED_AFTER_SECONDS = 5.0


class Runs:
    """The runs of one user. Raises NoSuchRun for one of another user as for one that never was, and StoreFailed."""

    def __init__(self, house: House, owner: str) -> None:
        self._house = house
        self._owner = owner

    def list(
        self, search: str = "", session_id: str | None = None, limit: int = 20, before: float | None = None
    ) -> list[KeptRun]:
        """The newest kept runs that began before `before`, with `search` in their question or id, newest first."""
        return self._stored().list(search, session_id, limit, before)

    def get(self, run_id: str) -> KeptRun:
        """The run of that id; one that is not kept is known as long as this process lives."""
        live = self._house.find(run_id, self._owner)
        return _line_of(live) if live is not None else self._stored().get(run_id)

    def find(self, prefix: str) -> KeptRun:
        """The one run whose id begins with `prefix`; raises BadRequest where there are more."""
        live = self._house.find(prefix, self._owner)
        return _line_of(live) if live is not None else self._stored().find(prefix)

    def follow(self, run_id: str, since: int = 0) -> Iterator[Event]:
        """Events from seq `since` on until the run ends, wherever it goes on or went on. Raises NoSuchRun at once."""
        live = self._house.find(run_id, self._owner)
        if live is not None:
            return live.trace.follow(since)
        kept = self._stored().get(run_id)
        return self._stored().events(run_id, since) if kept.status is not None else self._polled(run_id, since)

    def events(self, run_id: str, since: int = 0) -> Iterator[Event]:
        """The events from seq `since` on that there are by now."""
        live = self._house.find(run_id, self._owner)
        if live is not None:
            return iter(live.trace.events[since:])
        self._stored().get(run_id)
        return self._stored().events(run_id, since)

    def tree(self, run_id: str) -> CallTree:
        return fold(self.events(run_id))

    def record(self, run_id: str) -> Run:
        """The run as it ended; raises BadRequest while it goes on."""
        live = self._house.find(run_id, self._owner)
        if live is not None and live.is_over:
            return live.ended().run
        turn = None if live is not None else self._stored().turn(run_id)
        if turn is None:
            raise BadRequest(f"run {run_id} is still going on", "follow it, or wait for it")
        return turn.run

    def value(self, run_id: str, call_id: str, name: str) -> str:
        """The full text behind the preview `name` of a call: an input by its name, or `outputs`.

        The preview where nothing longer was kept. Raises BadRequest where there is neither.
        """
        kept = self._stored().value(run_id, call_id, name)
        if kept is not None:
            return kept
        call = self.tree(run_id).calls.get(call_id)
        shown = call and (call.outputs if name == "outputs" else call.inputs.get(name))
        if shown is None:
            raise BadRequest(f"call {call_id} of run {run_id} has no value {name}", "its events name what there is")
        return shown

    def feedback(self, run_id: str, rating: int, expected: str = "", comment: str = "") -> Feedback:
        """Keep what its user thought of the turn that the run answered: 1 good, -1 bad, 0 neither."""
        turn = self._stored().turn(run_id)
        if turn is None:
            raise BadRequest(f"run {run_id} has not answered yet", "wait for its end")
        if rating not in (-1, 0, 1):
            raise BadRequest(f"a rating of {rating} is not known", "give 1, 0 or -1")
        mask = self._house.mask
        given = Feedback.model_validate(
            {"turn_id": turn.turn_id, "rating": rating, "expected": mask(expected), "comment": mask(comment)}
        )
        self._house.store().sessions(self._owner).give_feedback(given)
        return given

    def prune(self, before: float) -> int:
        """Forget the runs that ended before that time; returns how many."""
        return self._stored().prune(before)

    def export(self, run_id: str) -> Iterator[str]:
        """The run's events as lines of JSON, however many they are."""
        live = self._house.find(run_id, self._owner)
        if live is not None:
            return (event.encode() for event in live.trace.events)
        self._stored().get(run_id)
        return self._stored().lines(run_id)

    def _stored(self) -> StoredRuns:
        return self._house.store().runs(self._owner)

    def _polled(self, run_id: str, since: int) -> Iterator[Event]:
        """Another process works on it; should that die, its end is written here."""
        looked = time.monotonic()
        pause = threading.Event()
        while True:
            is_over = self._stored().get(run_id).status is not None
            for event in self._stored().events(run_id, since):
                since = event.seq + 1
                yield event
            if is_over:
                return
            if time.monotonic() - looked > LOOKED_AFTER_SECONDS:
                self._house.store().archive().mark_interrupted()
                looked = time.monotonic()
            pause.wait(POLL_SECONDS)


def _line_of(live: LiveRun) -> KeptRun:
    events = live.trace.events
    status = live.ended().run.status if live.is_over else None
    return KeptRun(
        run_id=live.run_id,
        session_id=live.session_id,
        question=live.question,
        started_at=events[0].at if events else time.time(),
        ended_at=events[-1].at if status is not None else None,
        status=status,
    )
