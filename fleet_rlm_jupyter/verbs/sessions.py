"""`bench.sessions`: a user's conversations."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING, Literal

from fleet_rlm_jupyter import store
from fleet_rlm_jupyter.domain.errors import SandboxError, SessionBusy
from fleet_rlm_jupyter.domain.session import Artifact, DeletedSession, Feedback, KeptSession, Session, SessionStats
from fleet_rlm_jupyter.sandbox.specs import NONE
from fleet_rlm_jupyter.sandbox.volumes import folder_of
from fleet_rlm_jupyter.verbs.house import House

if TYPE_CHECKING:  # it imports SQLAlchemy
    from fleet_rlm_jupyter.store.sessions import StoredSessions


class Sessions:
    """The sessions of one user. Raises NoSuchSession for one of another user and StoreFailed."""

    def __init__(self, house: House, owner: str) -> None:
        self._house = house
        self._owner = owner

    def list(
        self, search: str = "", is_archived: bool = False, limit: int = 50, cursor: str | None = None
    ) -> tuple[list[KeptSession], str | None]:
        """A page, last used first, and the cursor of the next one (None: there is none). `search` is in the title."""
        return self._stored().list(search, is_archived, limit, cursor)

    def get(self, session_id: str) -> KeptSession:
        return self._stored().get(session_id)

    def create(self, title: str = "") -> KeptSession:
        return self._stored().create(self._house.mask(title))

    def rename(self, session_id: str, title: str) -> KeptSession:
        return self._stored().rename(session_id, self._house.mask(title))

    def archive(self, session_id: str) -> KeptSession:
        """Leave it out of the list; nothing of it is lost."""
        return self._stored().archive(session_id)

    def restore(self, session_id: str) -> KeptSession:
        return self._stored().restore(session_id)

    def delete(self, session_id: str) -> DeletedSession:
        """Forget it with all its runs and end its sandbox. Its files stay on the volume: what is returned says where.

        Raises SessionBusy while a run of it goes on.
        """
        house = self._house
        with house.starting:  # no run of it begins meanwhile
            if house.going_on(self._owner, session_id):
                raise SessionBusy(f"a run of session {session_id} is still going on", "cancel it, or wait for it")
            self._stored().delete(session_id)
        if (cells := house.cells.pop((self._owner, session_id), None)) is not None:
            cells.close()
        volume = "" if house.settings.sandbox.volume == NONE else house.settings.sandbox.volume
        return DeletedSession(
            session_id=session_id,
            sandbox=self._ended(session_id),
            volume=volume,
            folder=folder_of(session_id) if volume else "",
        )

    def prune(self, before: float) -> int:
        """Delete the sessions last used before that time of which no run goes on; returns how many."""
        count = 0
        for session_id in self._stored().old(before):
            with suppress(SessionBusy):  # it was taken up again meanwhile
                self.delete(session_id)
                count += 1
        return count

    def transcript(self, session_id: str) -> Session:
        """The session with its turns, oldest first."""
        return self._stored().session(session_id)

    def last(self, session_id: str, turns: int) -> Session:
        """The session with at most so many of its last turns, oldest first."""
        return self._stored().session(session_id, turns)

    def stats(self, session_id: str) -> SessionStats:
        """How many turns, how they ended, and what they cost together."""
        return self._stored().stats(session_id)

    def artifacts(self, session_id: str) -> list[Artifact]:
        """The files that its runs wrote, newest first."""
        return self._stored().artifacts(session_id)

    def feedback(self, session_id: str) -> list[Feedback]:
        """What was thought of its turns."""
        return self._stored().feedback(session_id)

    def export(self, session_id: str) -> str:
        """The session with its turns, their feedback and their runs' events as one versioned JSON object."""
        return store.exports.export_session(self._house.store().database(), self._owner, session_id)

    def import_(self, text: str | bytes) -> KeptSession:
        """Keep an exported session as this user's, under new ids. Raises BadRequest for what is none."""
        with suppress(ValueError, RecursionError):  # what is no JSON is refused as what it is
            text = json.dumps(self._house.mask.everywhere(json.loads(text)))
        return store.exports.import_session(self._house.store().database(), self._owner, text)

    def _ended(self, session_id: str) -> Literal["ended", "none", "left"]:
        try:
            found = [home.end_session(session_id) for home in self._house.homes()]
        except SandboxError:
            return "left"  # the session is gone all the same
        return "ended" if any(found) else "none"

    def _stored(self) -> StoredSessions:
        return self._house.store().sessions(self._owner)
