"""A run that may still be going on."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from contextlib import suppress

from fleet_rlm_jupyter.domain.budget import Budget
from fleet_rlm_jupyter.domain.calls import CallTree, fold
from fleet_rlm_jupyter.domain.errors import Interrupted
from fleet_rlm_jupyter.domain.events import Event, Log, RunEnded
from fleet_rlm_jupyter.domain.masking import Mask
from fleet_rlm_jupyter.domain.session import Run, Turn
from fleet_rlm_jupyter.engine.controls import Controls
from fleet_rlm_jupyter.engine.trace import Trace, Watcher
from fleet_rlm_jupyter.store.journal import Journal


class LiveRun:
    """A run and its trace. Thread-safe. `not_kept` says why the store has not all of it, if so."""

    def __init__(
        self,
        run_id: str,
        session_id: str,
        question: str,
        budget: Budget,
        journal: Journal | None = None,
        mask: Mask | None = None,
        owner: str = "local",
        controls: Controls | None = None,
    ) -> None:
        self.run_id = run_id
        self.session_id = session_id
        self.question = question
        self.owner = owner
        self.budget = budget
        self.controls = controls or Controls()
        self.accepted_at = time.time()
        self.not_kept = ""
        self.turn: Turn | None = None
        self._journal = journal
        self._mask = mask or Mask(home="")
        self.trace = Trace(run_id, session_id, keep=self._keep, mask=self._mask)
        self._finished = threading.Event()

    def cancel(self, call_id: str | None = None) -> None:
        """Stop it: no LM call starts after this, the running cell is interrupted. Harmless when it has ended.

        With `call_id` only that call and what is below it stop; what asked for it is told. Raises BadRequest for one
        that has not begun.
        """
        if call_id is None or self.controls.subtrees.is_root(call_id):
            self.budget.cancel()
        else:
            self.controls.subtrees.cancel(call_id)

    def interrupt(self) -> None:
        """Stop it because the process is about to end: it has failed, for nobody wanted that."""
        self.budget.stop(Interrupted())

    def answer(self, call_id: str, text: str) -> None:
        """Answer what that call has asked. Raises BadRequest where it asks nothing."""
        self.controls.questions.answer(call_id, text)

    def watch(self, watcher: Watcher, since: int = 0) -> None:
        """Call `watcher` with every event from `since` on when it is kept; hand slow work to a queue."""
        self.trace.watch(watcher, since)

    def tree(self) -> CallTree:
        return fold(self.trace.events)

    def result(self, timeout: float | None = None) -> Run:
        """The run as it ended; raises TimeoutError if it has not within `timeout` seconds."""
        if not self._finished.wait(timeout):
            raise TimeoutError(f"run {self.run_id} is still going on after {timeout} seconds")
        return self.ended().run

    def ended(self) -> Turn:
        """The turn that it answered, once it is over."""
        assert self.turn is not None, "it is not over"
        return self.turn.model_copy(update={"run": self.turn.run.model_copy(update={"not_kept": self.not_kept})})

    @property
    def is_over(self) -> bool:
        """Its end is kept, and is being shown: whoever sees it finds it. `is_finished` may come a moment later."""
        return self.turn is not None and self.trace.is_ended

    @property
    def is_finished(self) -> bool:
        """Everybody who watches here was shown its end."""
        return self._finished.is_set()

    def wait_kept(self, timeout: float = 5.0) -> None:
        """Wait until its first event is kept, or for so long."""
        with suppress(TimeoutError):
            next(self.trace.follow(timeout=timeout), None)

    def wait(self, timeout: float) -> bool:
        """Whether it has finished after at most `timeout` seconds."""
        return self._finished.wait(timeout)

    def lost(self, why: str) -> None:
        """The store failed; from here on nothing of the run is kept."""
        self.not_kept = why
        self.trace.append(Log(level="warning", text=f"this run is not kept any more: {why}"))

    def finish(self) -> None:
        """Everything of the run is over, its sandboxes included, and its end was shown."""
        self.trace.wait()
        self._finished.set()

    def feed(self, events: Iterable[Event]) -> None:
        """Fill it with the events of a run that some other process worked on."""
        for event in events:
            if isinstance(event.fact, RunEnded):
                self.turn = self._ended([*self.trace.stamped, event])
            self.trace.feed(event)
        self.finish()

    def _keep(self, event: Event, show: Watcher) -> None:
        if isinstance(event.fact, RunEnded):
            self.turn = self._ended(self.trace.stamped)
        if self._journal is None:
            show(event)
        else:
            self._journal.write(event, show, self.turn)

    def _ended(self, events: Iterable[Event]) -> Turn:
        question = self._mask(self.question)
        return Turn(message=question, run=Run.of(fold(events), question, self.session_id))
