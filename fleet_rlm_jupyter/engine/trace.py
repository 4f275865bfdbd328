"""The ordered list of a run, and everyone who watches it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

from fleet_rlm_jupyter.domain.events import Event, Fact, RunEnded
from fleet_rlm_jupyter.domain.masking import Mask, MaskedFacts

Watcher = Callable[[Event], None]
Keep = Callable[[Event, Watcher], None]
"""Takes an event and the function that shows it, to be called once, in order, when the event is kept."""


def keep_nowhere(event: Event, show: Watcher) -> None:
    """Show it at once."""
    show(event)


class Trace:
    """One run's events, gapless from seq 0, closed by its one `run.ended`. Thread-safe.

    Facts are masked where they become events, and seen when they are kept. A watcher sees every event once and in
    order, those before it came included. One that raises is dropped; the run never notices. Facts appended after the
    end are dropped: a late reply must not reopen a finished run.
    """

    def __init__(
        self,
        run_id: str,
        session_id: str,
        clock: Callable[[], float] = time.time,
        keep: Keep = keep_nowhere,
        mask: Mask | None = None,
    ) -> None:
        self.run_id = run_id
        self.session_id = session_id
        self._clock = clock
        self._keep = keep
        self._masked = MaskedFacts(mask or Mask(home=""))
        self._stamped: list[Event] = []
        self._shown = 0
        self._watchers: list[Watcher] = []
        self._ended = False
        # Re-entrant: a watcher may look at the trace, or append to it.
        self._grown = threading.Condition(threading.RLock())

    def append(self, fact: Fact, call_id: str | None = None) -> Event | None:
        """Stamp `fact` and hand it on; None if the run has ended, or if its text has to wait for the next piece."""
        event = None
        with self._grown:
            if self._ended:
                return None
            for shown, about in self._masked(fact, call_id):
                event = self._stamp(shown, about)
        return event

    def feed(self, event: Event) -> None:
        """Take an event as it is, from a trace that was kept; they come in order."""
        with self._grown:
            self._stamped.append(event)
            self._ended = isinstance(event.fact, RunEnded)
            self._show(event)

    def watch(self, watcher: Watcher, since: int = 0) -> Callable[[], None]:
        """Call `watcher` with every event from `since` on; returns the function that ends it.

        It runs in the thread that keeps events and holds all of them up while it works: hand slow work to a queue.
        """
        with self._grown:
            self._watchers.append(watcher)
            for event in self._stamped[since : self._shown]:
                self._tell(watcher, event)
        return lambda: self._drop(watcher)

    def follow(self, since: int = 0, timeout: float | None = None) -> Iterator[Event]:
        """Events from `since` on until the run ends; raises TimeoutError if none comes for `timeout` seconds."""
        while True:
            with self._grown:
                if not self._grown.wait_for(lambda at=since: self._shown > at or self.is_ended, timeout):
                    raise TimeoutError(f"run {self.run_id} was silent for {timeout} seconds")
                new, ended = self._stamped[since : self._shown], self.is_ended
            yield from new
            since += len(new)
            if ended:
                return

    def wait(self) -> None:
        """Until its end was shown."""
        with self._grown:
            self._grown.wait_for(lambda: self.is_ended)

    @property
    def events(self) -> tuple[Event, ...]:
        """What was shown so far."""
        with self._grown:
            return tuple(self._stamped[: self._shown])

    @property
    def stamped(self) -> tuple[Event, ...]:
        """What has happened so far; the last of it may not be kept yet."""
        with self._grown:
            return tuple(self._stamped)

    @property
    def is_ended(self) -> bool:
        """Its end was shown."""
        return self._ended and self._shown == len(self._stamped)

    def _stamp(self, fact: Fact, call_id: str | None) -> Event:
        event = Event.stamp(
            fact,
            seq=len(self._stamped),
            at=self._clock(),
            session_id=self.session_id,
            run_id=self.run_id,
            call_id=call_id,
        )
        self._stamped.append(event)
        self._ended = isinstance(fact, RunEnded)
        self._keep(event, self._show)
        return event

    def _show(self, event: Event) -> None:
        with self._grown:
            self._shown = event.seq + 1
            for watcher in list(self._watchers):
                self._tell(watcher, event)
            self._grown.notify_all()

    def _tell(self, watcher: Watcher, event: Event) -> None:
        try:
            watcher(event)
        except Exception:
            self._drop(watcher)

    def _drop(self, watcher: Watcher) -> None:
        with self._grown:
            if watcher in self._watchers:
                self._watchers.remove(watcher)
