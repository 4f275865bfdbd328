"""`bench.live_sandboxes`: a user's sandboxes, wherever they run."""

from __future__ import annotations

import builtins
from contextlib import suppress

from fleet_rlm_jupyter.domain.errors import NoSuchSandbox, NoSuchSession, SessionBusy, StoreFailed
from fleet_rlm_jupyter.domain.ports import Sandboxes
from fleet_rlm_jupyter.domain.shown import LiveSandbox, Size
from fleet_rlm_jupyter.verbs.house import House
from fleet_rlm_jupyter.verbs.runs import Runs


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
        for home in self._homes_of(sandbox_id):
            with suppress(NoSuchSandbox):  # of two that speak with one service the first has ended it
                home.stop(sandbox_id)

    def archive(self, sandbox_id: str) -> None:
        """Stop the sandbox that a session keeps and put it away; files in it stay, variables of cells do not.

        The session's next turn restores it, which takes longer than a start. Raises SessionBusy while a run of the
        session goes on, BadRequest for one that ends with its run, and NoSuchSandbox.
        """
        self._idle(sandbox_id).archive(sandbox_id)

    def resize(
        self, sandbox_id: str, cpu: int | None = None, memory_gb: int | None = None, disk_gb: int | None = None
    ) -> None:
        """The same with another size instead: it stops, and the session's next turn starts it. Disks only grow."""
        self._idle(sandbox_id).resize(sandbox_id, Size(cpu, memory_gb, disk_gb))

    def start(self, sandbox_id: str) -> None:
        """Have one running that was stopped or archived, or recover it; it stops again when it is idle.

        Raises NoSuchSandbox, and SandboxLost for one that cannot be started.
        """
        self._homes_of(sandbox_id)[0].start(sandbox_id)

    def prune(self) -> int:
        """Delete what processes that are gone left behind at Daytona; how many are surely gone."""
        return sum(home.prune() for home in self._house.homes())

    def _homes_of(self, sandbox_id: str) -> builtins.list[Sandboxes]:
        homes = [home for home in self._house.homes() if self._has(home, sandbox_id)]
        if not homes:
            raise NoSuchSandbox(f"there is no sandbox {sandbox_id!r} of yours", "list them: fleet sandboxes")
        return homes

    def _idle(self, sandbox_id: str) -> Sandboxes:
        """Where it is; refused while a run of its session goes on, in this process or another."""
        home = self._homes_of(sandbox_id)[0]
        session_id = home.get(sandbox_id).session
        is_busy = bool(self._house.going_on(self._owner, session_id))
        with suppress(StoreFailed):
            kept = Runs(self._house, self._owner).list(session_id=session_id, limit=50)
            is_busy = is_busy or any(run.status is None for run in kept)
        if is_busy:
            raise SessionBusy(f"a run of session {session_id} works in it", "cancel it, or wait for it")
        return home

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
