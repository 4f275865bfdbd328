"""`bench.live_sandboxes`: a user's sandboxes, wherever they run."""

from __future__ import annotations

from contextlib import suppress

from fleet_rlm_jupyter.domain.errors import NoSuchSandbox, NoSuchSession, StoreFailed
from fleet_rlm_jupyter.domain.ports import Sandboxes
from fleet_rlm_jupyter.domain.shown import LiveSandbox
from fleet_rlm_jupyter.verbs.house import House


class LiveSandboxes:
    """Those that work or worked for a session of this user; those that wait for somebody are nobody's.

    Raises SandboxUnavailable. Nothing is started to list what there is.
    """

    def __init__(self, house: House, owner: str) -> None:
        self._house = house
        self._owner = owner

    def list(self) -> list[LiveSandbox]:
        """Newest first. Daytona's lists are some seconds late."""
        found = {one.id: one for home in self._house.homes() for one in home.list()}
        mine = {session: self._is_mine(session) for session in {one.session for one in found.values()}}
        return sorted((one for one in found.values() if mine[one.session]), key=lambda one: one.created, reverse=True)

    def stop(self, sandbox_id: str) -> None:
        """End it for good, whoever works in it: a run there is told that its sandbox is lost. Raises NoSuchSandbox.

        What is on the session's volume stays, and its next question has a new sandbox.
        """
        homes = [home for home in self._house.homes() if self._has(home, sandbox_id)]
        if not homes:
            raise NoSuchSandbox(f"there is no sandbox {sandbox_id!r} of yours", "list them: fleet sandboxes")
        for home in homes:
            with suppress(NoSuchSandbox):  # of two that speak with one service the first has ended it
                home.stop(sandbox_id)

    def prune(self) -> int:
        """Delete what processes that are gone left behind at Daytona; how many are surely gone."""
        return sum(home.prune() for home in self._house.homes())

    def _has(self, home: Sandboxes, sandbox_id: str) -> bool:
        try:
            return self._is_mine(home.get(sandbox_id).session)
        except NoSuchSandbox:
            return False

    def _is_mine(self, session_id: str) -> bool:
        if not session_id:
            return False
        house, owner = self._house, self._owner
        runs = list(house.runs.values())
        if session_id == house.session_id(owner) or any(
            run.owner == owner and run.session_id == session_id for run in runs
        ):
            return True
        try:
            house.store().sessions(owner).get(session_id)
        except (NoSuchSession, StoreFailed):
            return False
        return True
