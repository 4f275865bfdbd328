"""What the worker holds for its requests: the Workbench, the feeds of its runs, what the last look at it found."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from fleet_rlm_jupyter.domain.question import Check
from fleet_rlm_jupyter.server.feeds import Feeds
from fleet_rlm_jupyter.server.schema import Accepted
from fleet_rlm_jupyter.verbs.live import LiveRun
from fleet_rlm_jupyter.workbench import Workbench

LOOK_SECONDS = 60
"""How long a good look lasts; a bad one is taken again at once, for somebody may have mended it."""


class Readiness:
    """The last look at model, sandbox and store. A look starts a sandbox, so nobody takes two at a time."""

    def __init__(self, look: Callable[[], list[Check]]) -> None:
        self._look = look
        self._lock = threading.Lock()
        self._found: list[Check] = []
        self._until = 0.0

    def last(self) -> list[Check]:
        with self._lock:
            return self._found if time.monotonic() < self._until else self._looked()

    def now(self) -> list[Check]:
        with self._lock:
            return self._looked()

    def _looked(self) -> list[Check]:
        self._found = self._look()
        is_good = all(check.is_good for check in self._found)
        self._until = time.monotonic() + (LOOK_SECONDS if is_good else 0)
        return self._found


@dataclass(frozen=True, slots=True)
class Desk:
    """One for the process."""

    bench: Workbench
    feeds: Feeds
    readiness: Readiness
    key: str


@dataclass(frozen=True, slots=True)
class Asked:
    """Who asks, and the Workbench as that user sees it."""

    desk: Desk
    bench: Workbench
    user: str

    def accepted(self, live: LiveRun) -> Accepted:
        """Have the run's events at hand for sockets, and count it as running until it ends; what to answer."""
        self.desk.feeds.open(live.run_id, partial(self.bench.follow, live.run_id))
        return Accepted(run_id=live.run_id, session_id=live.session_id)
