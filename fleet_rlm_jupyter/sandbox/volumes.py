"""Which volume a session has, and where on it: the one place that knows."""

from __future__ import annotations

import re
import threading
import time
from typing import Any

from fleet_rlm_jupyter.domain.errors import BadRequest, SandboxError, SandboxLost, SandboxUnavailable, during
from fleet_rlm_jupyter.sandbox.client import CALL_SECONDS, DaytonaClient
from fleet_rlm_jupyter.sandbox.retries import retried
from fleet_rlm_jupyter.sandbox.specs import NONE, Mount

MOUNT_PATH = "/home/daytona/volume"
READY_SECONDS = 60
_PAUSES = (0.5, 0.7, 1.0, 1.4, 2.0)
_SESSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}\Z")


class Volumes:
    """All sessions share one volume, each with a folder of its own that alone is mounted. Thread-safe.

    Reading never creates: `find` looks, `of_session` makes what is missing.
    """

    def __init__(self, client: DaytonaClient) -> None:
        self._client = client
        self._lock = threading.Lock()
        self.name = client.settings.sandbox.volume
        self.is_wanted = self.name != NONE

    @during("volume")
    def of_session(self, session_id: str) -> Mount | None:
        """The folder of a session for mounting, or None if no volume is wanted.

        Creates the volume and waits until it can be used. Raises SandboxUnavailable if it cannot within a minute.
        """
        if not self.is_wanted:
            return None
        with self._lock:  # two sessions that begin at once create one volume
            volume = self._ready(self._found() or self._created())
        return Mount(volume.id, self.name, folder_of(session_id), MOUNT_PATH)

    @during("volume")
    def find(self) -> Mount | None:
        """The whole volume for mounting, or None while there is none."""
        volume = self._found() if self.is_wanted else None
        return None if volume is None else Mount(self._ready(volume).id, self.name, "", MOUNT_PATH)

    def _found(self) -> Any:
        client = self._client.get()
        try:
            return self._client.call(retried(lambda: client.volume.get(self.name)), CALL_SECONDS)
        except SandboxLost:  # not found
            return None

    def _created(self) -> Any:
        client = self._client.get()
        try:
            return self._client.call(retried(lambda: client.volume.create(self.name), only_refused=True), CALL_SECONDS)
        except SandboxError:
            # Somebody else was quicker, or the answer was lost.
            made = self._found()
            if made is None:
                raise
            return made

    def _ready(self, volume: Any) -> Any:
        deadline = time.monotonic() + READY_SECONDS
        pauses = iter(_PAUSES)
        pause = _PAUSES[0]
        while True:
            state = str(getattr(volume.state, "value", volume.state) or "ready").lower()
            if state == "ready":
                return volume
            if state not in ("creating", "pending_create"):
                raise SandboxUnavailable(
                    f"the volume {self.name} is in the state {state}", "look at it at Daytona, or set sandbox.volume"
                )
            pause = next(pauses, pause)
            if time.monotonic() + pause > deadline:
                raise SandboxUnavailable(
                    f"the volume {self.name} was not ready within {READY_SECONDS} seconds",
                    "ask again, or set sandbox.volume=none to do without",
                )
            self._client.wait(pause)
            volume = self._found()
            if volume is None:
                raise SandboxUnavailable(f"the volume {self.name} was deleted meanwhile", "ask again")


def folder_of(session_id: str) -> str:
    """The folder of a session on the volume. Raises BadRequest for what is no id."""
    if not _SESSION.match(session_id):
        raise BadRequest(f"{session_id!r} is no id of a session")
    return f"sessions/{session_id}"
