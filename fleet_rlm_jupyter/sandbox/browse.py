"""Where a session's files can be reached: in its own sandbox while that runs, else in a small one for all sessions."""

from __future__ import annotations

import threading

from fleet_rlm_jupyter.domain.errors import BadRequest, SandboxLost
from fleet_rlm_jupyter.sandbox.client import CALL_SECONDS, DaytonaClient
from fleet_rlm_jupyter.sandbox.creation import Creation
from fleet_rlm_jupyter.sandbox.files import SandboxPlace
from fleet_rlm_jupyter.sandbox.labels import labels_of
from fleet_rlm_jupyter.sandbox.retries import retried
from fleet_rlm_jupyter.sandbox.sessions import SessionSandboxes
from fleet_rlm_jupyter.sandbox.specs import Spec
from fleet_rlm_jupyter.sandbox.volumes import Volumes, folder_of


class Browse:
    """Thread-safe. The sandbox for browsing has the whole volume, no guest, and ends by itself when nobody looks."""

    def __init__(self, client: DaytonaClient, creation: Creation, sessions: SessionSandboxes, volumes: Volumes) -> None:
        self._client = client
        self._creation = creation
        self._sessions = sessions
        self._volumes = volumes
        self._lock = threading.Lock()
        self._browser_id = ""

    def place(self, session_id: str, make: bool) -> SandboxPlace | None:
        """The folder of a session's files. None if there are none yet and none shall be made."""
        folder = folder_of(session_id)
        found = self._running(*self._sessions.where(session_id))
        if found is not None:
            return found
        if not self._volumes.is_wanted:
            if make:
                raise BadRequest("this session has no files", "set sandbox.volume, or ask something first")
            return None
        if make:
            self._volumes.of_session(session_id)
        with self._lock:
            base = f"volume/{folder}"
            found = self._running(self._browser_id, base)
            if found is None and (mount := self._volumes.find()) is not None:
                labels = {**labels_of(self._creation.instance), "role": "files"}
                sandbox = self._creation.make(Spec(labels, mount=mount))
                self._browser_id = sandbox.id
                found = self._running(sandbox.id, base)
            return found

    def _running(self, sandbox_id: str, base: str) -> SandboxPlace | None:
        if not sandbox_id:
            return None
        client = self._client.get()
        try:
            sandbox = self._client.call(retried(lambda: client.get(sandbox_id)), CALL_SECONDS)
        except SandboxLost:
            return None
        is_running = str(getattr(sandbox.state, "value", sandbox.state)) == "started"
        return SandboxPlace(self._client, sandbox, base) if is_running else None
