"""Every sandbox of ours that there is: listed, put away or ended on request, and the leavings of others swept."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any

from fleet_rlm_jupyter.domain.errors import BadRequest, NoSuchSandbox, SandboxLost, during
from fleet_rlm_jupyter.domain.shown import LiveSandbox, Size
from fleet_rlm_jupyter.sandbox.client import CALL_SECONDS, DaytonaClient
from fleet_rlm_jupyter.sandbox.creation import Creation
from fleet_rlm_jupyter.sandbox.labels import APP, KEPT_ROLE
from fleet_rlm_jupyter.sandbox.pool import Pool
from fleet_rlm_jupyter.sandbox.retries import all_of, retried
from fleet_rlm_jupyter.sandbox.service_errors import sdk
from fleet_rlm_jupyter.sandbox.states import START_SECONDS, started, state_of, stopped

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}\Z")
_ENDED = ("destroyed", "destroying")


class Roll:
    """Thread-safe. Starts no server: while the local one does not run there is nothing.

    What was ended here is not listed again, however far the service's lists lag behind.
    """

    def __init__(self, client: DaytonaClient, creation: Creation, pool: Pool) -> None:
        self._client = client
        self._creation = creation
        self._pool = pool

    def list(self) -> list[LiveSandbox]:
        """Newest first. Daytona's lists are some seconds late. Raises SandboxUnavailable."""
        if not self._client.is_there:
            return []
        client = self._client.get()
        query = sdk().ListSandboxesQuery(labels={"app": APP})
        found = self._client.call(retried(lambda: all_of(client.list(query))), CALL_SECONDS)
        return sorted(filter(self._is_live, map(_shown, found)), key=lambda one: one.created, reverse=True)

    def get(self, sandbox_id: str) -> LiveSandbox:
        """Raises NoSuchSandbox for one that is gone or none of ours, and SandboxUnavailable."""
        return _shown(self._found(sandbox_id))

    def stop(self, sandbox_id: str) -> None:
        """Delete it: what it was doing ends with SandboxLost at once. Raises NoSuchSandbox, SandboxUnavailable."""
        sandbox = self._found(sandbox_id)
        self._pool.lose(sandbox_id, "it was stopped by its user")
        self._creation.end(sandbox)

    def archive(self, sandbox_id: str) -> None:
        """See `domain.ports.Sandboxes`."""
        sandbox = self._kept(sandbox_id, "archived")
        if state_of(sandbox) != "archived":
            self._stop(sandbox, "it was archived")
            self._client.call(retried(lambda: sandbox.archive(request_timeout=CALL_SECONDS)), CALL_SECONDS)

    def resize(self, sandbox_id: str, size: Size) -> None:
        """The same."""
        sizes = {"cpu": size.cpu, "memory": size.memory_gb, "disk": size.disk_gb}
        given = {name: wanted for name, wanted in sizes.items() if wanted is not None}
        if not given or min(given.values()) < 1:
            raise BadRequest("no size is given, or one below 1", "give cpu, memory_gb or disk_gb as a whole number")
        sandbox = self._kept(sandbox_id, "resized")
        if given.get("disk", sandbox.disk) < sandbox.disk:
            raise BadRequest(f"its disk has {sandbox.disk:g} GB and can only grow", "give more, or leave the disk out")
        self._stop(sandbox, "it was resized")  # a running one takes but some sizes, and a local one none
        work = sandbox.resize(sdk().Resources(**given), timeout=START_SECONDS)
        self._client.call(work, START_SECONDS + CALL_SECONDS)

    @during("resume")
    def start(self, sandbox_id: str) -> None:
        """The same."""
        started(self._client, self._found(sandbox_id))

    def prune(self) -> int:
        """Sweep now; how many of those that were left behind are surely gone. Raises SandboxUnavailable."""
        return self._creation.sweep_now() if self._client.is_there else 0

    def _found(self, sandbox_id: str) -> Any:
        none = NoSuchSandbox(f"there is no sandbox {sandbox_id!r} of yours", "list them: fleet sandboxes")
        # It becomes a part of a URL, and the service would take a name as well.
        if not _ID.match(sandbox_id) or not self._client.is_there:
            raise none
        client = self._client.get()
        try:
            sandbox = self._client.call(retried(lambda: client.get(sandbox_id)), CALL_SECONDS)
        except SandboxLost:  # not found
            raise none from None
        if sandbox.id != sandbox_id or sandbox.labels.get("app") != APP or not self._is_live(_shown(sandbox)):
            raise none
        return sandbox

    def _kept(self, sandbox_id: str, done: str) -> Any:
        sandbox = self._found(sandbox_id)
        if sandbox.labels.get("role") != KEPT_ROLE:  # the service deletes such a one when it stops
            text = f"sandbox {sandbox_id} ends with its run and cannot be {done}"
            raise BadRequest(text, "name one that a session keeps: its role is session")
        return sandbox

    def _stop(self, sandbox: Any, why: str) -> None:
        self._pool.lose(sandbox.id, why)  # a REPL of the user's own may be in it
        stopped(self._client, sandbox)

    def _is_live(self, sandbox: LiveSandbox) -> bool:
        return sandbox.state not in _ENDED and not self._creation.has_ended(sandbox.id)


def _shown(sandbox: Any) -> LiveSandbox:
    labels, depth = sandbox.labels, sandbox.labels.get("depth", "")
    return LiveSandbox(
        id=sandbox.id,
        state=state_of(sandbox),
        session=labels.get("session", ""),
        run=labels.get("run", ""),
        role=labels.get("role", ""),
        depth=int(depth) if depth.isdecimal() else 0,
        created=datetime.fromisoformat(sandbox.created_at).timestamp() if sandbox.created_at else 0.0,
    )
