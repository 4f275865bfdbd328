"""Every sandbox of ours that there is: listed, looked at, ended on request, and the leavings of others swept."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any

from fleet_rlm_jupyter.domain.errors import NoSuchSandbox, SandboxLost
from fleet_rlm_jupyter.domain.shown import LiveSandbox
from fleet_rlm_jupyter.sandbox.client import CALL_SECONDS, DaytonaClient
from fleet_rlm_jupyter.sandbox.creation import Creation
from fleet_rlm_jupyter.sandbox.labels import APP
from fleet_rlm_jupyter.sandbox.pool import Pool
from fleet_rlm_jupyter.sandbox.retries import all_of, retried
from fleet_rlm_jupyter.sandbox.service_errors import sdk

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

    def _is_live(self, sandbox: LiveSandbox) -> bool:
        return sandbox.state not in _ENDED and not self._creation.has_ended(sandbox.id)


def _shown(sandbox: Any) -> LiveSandbox:
    labels, depth = sandbox.labels, sandbox.labels.get("depth", "")
    return LiveSandbox(
        id=sandbox.id,
        state=str(getattr(sandbox.state, "value", sandbox.state)).lower(),
        session=labels.get("session", ""),
        run=labels.get("run", ""),
        role=labels.get("role", ""),
        depth=int(depth) if depth.isdecimal() else 0,
        created=datetime.fromisoformat(sandbox.created_at).timestamp() if sandbox.created_at else 0.0,
    )
