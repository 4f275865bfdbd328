"""`bench.memory`: what a user approved to be told to later questions, and what runs proposed for that."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fleet_rlm_jupyter.domain.errors import BadRequest, FleetError
from fleet_rlm_jupyter.domain.memory import (
    MEMORY_KINDS,
    MemoryItem,
    MemoryKind,
    MemoryState,
    Recall,
    checked_memory,
    within,
)
from fleet_rlm_jupyter.verbs.house import House
from fleet_rlm_jupyter.verbs.sessions import Sessions

if TYPE_CHECKING:  # it imports SQLAlchemy
    from fleet_rlm_jupyter.store.memory import StoredMemory

LISTED_ITEMS = 1000


class Memory:
    """The items of one user. Raises NoSuchMemory for one of another user as for none, and StoreFailed."""

    def __init__(self, house: House, owner: str) -> None:
        self._house = house
        self._owner = owner

    def list(
        self, state: MemoryState | None = None, session_id: str | None = None, limit: int = LISTED_ITEMS
    ) -> list[MemoryItem]:
        """The newest first: all, those of a state, or with `session_id` those that hold in that session."""
        return self._stored().list(state, session_id, limit)

    def get(self, memory_id: str) -> MemoryItem:
        return self._stored().get(memory_id)

    def add(self, text: str, kind: MemoryKind = "note", session_id: str | None = None) -> MemoryItem:
        """Keep what its user wrote, approved with that, for a session or for all. Raises BadRequest, NoSuchSession."""
        if session_id is not None:
            Sessions(self._house, self._owner).get(session_id)
        return self._keep(text, kind, "approved", session_id)

    def propose(self, text: str, kind: str = "note", run_id: str = "") -> MemoryItem:
        """Keep what a run thinks worth remembering, for its user to review. Raises BadRequest."""
        if kind not in MEMORY_KINDS:
            raise BadRequest(f"{kind[:50]!r} is no kind of memory", f"it is one of {', '.join(MEMORY_KINDS)}")
        return self._keep(text, kind, "proposed", None, run_id)

    def approve(self, memory_id: str) -> MemoryItem:
        """From now on questions are told of it."""
        return self._stored().review(memory_id, "approved")

    def reject(self, memory_id: str) -> MemoryItem:
        """No question is told of it, and it is not proposed again; it may be approved later."""
        return self._stored().review(memory_id, "rejected")

    def delete(self, memory_id: str) -> None:
        """Forget it."""
        self._stored().delete(memory_id)

    def recalled(self, session_id: str) -> Recall:
        """What a question of that session is told now: approved items, the newest, within the settings' bounds.

        Nothing where the store fails: a run is worth more than its memory.
        """
        most = self._house.settings.memory
        if not most.items:
            return Recall()
        try:
            return within(self._stored().list("approved", session_id), most.items, most.chars)
        except FleetError:
            return Recall()

    def _keep(
        self, text: str, kind: MemoryKind, state: MemoryState, session_id: str | None, run_id: str = ""
    ) -> MemoryItem:
        masked = checked_memory(self._house.mask(checked_memory(text)))
        return self._stored().add(masked, kind, state, session_id, run_id)

    def _stored(self) -> StoredMemory:
        return self._house.store().memory(self._owner)
