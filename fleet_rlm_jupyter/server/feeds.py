"""The events of runs on their way to sockets: each run is read once, each event encoded once.

A socket has a cursor per run, not a queue: what it has not taken stays here while it is among the newest, and in the
store for good. So a reader that stalls holds nothing back and costs no memory.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from itertools import islice

from fleet_rlm_jupyter.domain.events import Event

WINDOW_EVENTS = 10_000
WINDOW_CHARS = 8_000_000
PAGE_EVENTS = 500

Follow = Callable[[int], Iterator[Event]]
"""The events of a run from a seq on, until it ends: `follow` of the Workbench, the run given."""

Wake = Callable[[], None]


class Feed:
    """The newest events of one run that goes on, as lines of JSON, read in a thread of its own until it ends."""

    def __init__(self, run_id: str, follow: Follow, on_grown: Callable[[str], None]) -> None:
        self.run_id = run_id
        self.start = 0
        self.is_over = False
        self._lines: list[str] = []
        self._chars = 0
        self._lock = threading.Lock()
        self._on_grown = on_grown
        self._is_signaled = False
        reader = threading.Thread(target=self._read, args=(follow,), name=f"fleet-feed-{run_id}", daemon=True)
        reader.start()

    def take(self, since: int, room: int) -> list[str] | None:
        """Lines from `since` on, of about `room` characters at most; None where they are no longer here."""
        with self._lock:
            self._is_signaled = False
            if since < self.start:
                return None
            taken: list[str] = []
            place = since - self.start
            while room > 0 and place < len(self._lines):
                taken.append(self._lines[place])
                room -= len(taken[-1])
                place += 1
            return taken

    def _read(self, follow: Follow) -> None:
        try:
            for event in follow(0):
                self._add(event.encode())
        finally:
            self.is_over = True
            self._on_grown(self.run_id)

    def _add(self, line: str) -> None:
        with self._lock:
            self._lines.append(line)
            self._chars += len(line)
            old = 0
            while len(self._lines) - old > WINDOW_EVENTS or self._chars > WINDOW_CHARS:
                self._chars -= len(self._lines[old])
                old += 1
            if old:
                del self._lines[:old]
                self.start += old
            if self._is_signaled:
                return
            self._is_signaled = True
        self._on_grown(self.run_id)


class Feeds:
    """The feeds of this process, one for every run that goes on, and the sockets to wake when one grows.

    `open` is for any thread, everything else for the event loop.
    """

    def __init__(self, on_running: Callable[[int], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._feeds: dict[str, Feed] = {}
        self._wakes: dict[str, set[Wake]] = {}
        self._on_running = on_running
        self._lock = threading.Lock()

    def open(self, run_id: str, follow: Follow) -> None:
        """See to it that the run has a feed; one that has ended has one that is soon over."""
        with self._lock:
            if run_id in self._feeds:
                return
            # From its beginning, so that it never waits for an event that a later follower wants earlier.
            self._feeds[run_id] = Feed(run_id, follow, self._grown)
            self._on_running(len(self._feeds))

    @property
    def count(self) -> int:
        """Runs that go on."""
        return len(self._feeds)

    def find(self, run_id: str) -> Feed | None:
        return self._feeds.get(run_id)

    def subscribe(self, run_id: str, wake: Wake) -> None:
        self._wakes.setdefault(run_id, set()).add(wake)

    def unsubscribe(self, run_id: str, wake: Wake) -> None:
        wakes = self._wakes.get(run_id, set())
        wakes.discard(wake)
        if not wakes:
            self._wakes.pop(run_id, None)

    def _grown(self, run_id: str) -> None:
        # From the feed's thread; the loop is gone when the process ends.
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._wake, run_id)

    def _wake(self, run_id: str) -> None:
        with self._lock:
            feed = self._feeds.get(run_id)
            if feed is not None and feed.is_over:
                del self._feeds[run_id]
                self._on_running(len(self._feeds))
        for wake in list(self._wakes.get(run_id, ())):
            wake()


class Cursor:
    """How far one socket has read one run. `has_more` says that there is more to take at once."""

    def __init__(self, feeds: Feeds, run_id: str, follow: Follow, since: int) -> None:
        self.run_id = run_id
        self.next = since
        self.is_done = False
        self.has_more = False
        self.has_fallen_behind = False
        self._feeds = feeds
        self._follow = follow

    async def take(self, room: int) -> list[str]:
        """The next lines, of about `room` characters; none where there are none yet. Never waits for the run."""
        feed = self._feeds.find(self.run_id)
        lines = feed.take(self.next, room) if feed is not None else None
        self.has_fallen_behind = lines is None and feed is not None
        if lines is None:
            # A page from the store: of a run that has ended, or of what a run that goes on has said long ago.
            limit = PAGE_EVENTS if feed is None else min(PAGE_EVENTS, feed.start - self.next)
            lines = await asyncio.to_thread(self._page, limit)
            self.is_done = feed is None and len(lines) < limit
            self.has_more = not self.is_done
        else:
            self.has_more = sum(map(len, lines)) >= room
        self.next += len(lines)
        return lines

    def _page(self, limit: int) -> list[str]:
        return [event.encode() for event in islice(self._follow(self.next), limit)]
