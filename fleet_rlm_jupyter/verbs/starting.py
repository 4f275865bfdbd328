"""How a run is started: once for its key, in its turn in its session, kept before it is seen."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from fleet_rlm_jupyter.domain.budget import Budget
from fleet_rlm_jupyter.domain.errors import KeyReused, SessionBusy, StoreFailed
from fleet_rlm_jupyter.domain.events import Limits, RunEnded
from fleet_rlm_jupyter.domain.ports import Files
from fleet_rlm_jupyter.engine.controls import Controls
from fleet_rlm_jupyter.engine.recorder import Emit
from fleet_rlm_jupyter.engine.site import Site
from fleet_rlm_jupyter.engine.trace import Watcher
from fleet_rlm_jupyter.engine.unbroken import unbroken
from fleet_rlm_jupyter.store.journal import Acceptance
from fleet_rlm_jupyter.verbs.house import House
from fleet_rlm_jupyter.verbs.live import LiveRun
from fleet_rlm_jupyter.verbs.runs import Runs

LOOK_SECONDS = 0.1
"""How often a queued run looks whether it is its turn."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be run. `in_session` says that its session was named: then only one run of it goes on at a time."""

    run_id: str
    session_id: str
    question: str
    in_session: bool = False
    key: str | None = None
    digest: str = ""
    when_busy: Literal["refuse", "queue"] = "refuse"

    @classmethod
    def of(cls, site: Site, question: str, in_session: bool, key: str | None, digest: Callable[[], str]) -> Request:
        """A context may be large: it is digested only where it has to be told from another."""
        return cls(site.run_id, site.session_id, question, in_session, key, digest() if key is not None else "")

    @property
    def scope(self) -> str:
        """Within which its key stands for one request."""
        return self.session_id if self.in_session else ""


@dataclass(frozen=True, slots=True)
class Work:
    """How it is done: on which budget, by which handles from outside, and the doing.

    `files` are those of a session where it is done, `inputs` what it is done on.
    """

    budget: Budget
    controls: Controls
    execute: Callable[[Emit], RunEnded]
    files: Callable[[str], Files] | None = None
    inputs: Mapping[str, Any] = field(default_factory=dict[str, Any])


class Starter:
    """Starts the runs of one user."""

    def __init__(self, house: House, owner: str) -> None:
        self._house = house
        self._owner = owner
        self._runs = Runs(house, owner)

    def begin(
        self,
        request: Request,
        work: Work,
        watcher: Watcher | None = None,
        hold: Callable[[LiveRun], None] | None = None,
    ) -> LiveRun:
        """Do `work` as a run in a thread of its own; or give the run that the request's key stands for.

        An interrupt meanwhile stops it. `hold` has it before an interrupt can be raised. Raises SessionBusy and
        KeyReused.
        """

        def begin() -> LiveRun:
            run = self._begun(request, work, watcher)
            if hold is not None:
                hold(run)
            return run

        return unbroken(begin, work.budget.cancel)

    def _begun(self, request: Request, work: Work, watcher: Watcher | None) -> LiveRun:
        house = self._house
        with house.starting:
            known = self._known(request)
            if known is not None:
                return self._again(known, request, watcher)
            before = self._before(request)
            question = house.mask(request.question)
            run = LiveRun(
                request.run_id,
                request.session_id,
                question,
                work.budget,
                house.journal(),
                house.mask,
                self._owner,
                work.controls,
            )
            if watcher is not None:
                run.watch(watcher)
            with house.lock:
                house.runs[run.run_id] = run
            try:
                stands_for = self._accepted(request, run)
            except KeyReused:
                house.forget(run)
                raise
            if stands_for != run.run_id:
                house.forget(run)
                return self._again(stands_for, request, watcher)
        self._start(run, request, before, work)
        return run

    def _known(self, request: Request) -> str | None:
        """The run that the key stands for already."""
        if request.key is None:
            return None
        found = self._house.keys.get((self._owner, request.scope, request.key))
        if found is None:
            try:
                found = self._house.store().runs(self._owner).known_key(request.scope, request.key)
            except StoreFailed:
                return None  # it fails again when the run is accepted, and is said there
        if found is None:
            return None
        digest, run_id = found
        if digest != request.digest:
            raise KeyReused.of(request.key)
        return run_id

    def _accepted(self, request: Request, run: LiveRun) -> str:
        given = Acceptance(
            run.run_id,
            run.session_id,
            run.question,
            run.accepted_at,
            self._owner,
            request.key,
            request.scope,
            request.digest,
        )
        accepted = self._house.journal().accept(given, run.lost)
        if request.key is None:
            return run.run_id
        # A key is a promise: it is kept before anything happens.
        stands_for = accepted.result()
        self._house.keys[self._owner, request.scope, request.key] = (request.digest, stands_for)
        return stands_for

    def _again(self, run_id: str, request: Request, watcher: Watcher | None) -> LiveRun:
        live = self._house.find(run_id, self._owner)
        if live is None:
            kept = self._runs.get(run_id)
            mask, session_id = self._house.mask, kept.session_id
            live = LiveRun(run_id, session_id, kept.question, Budget(Limits()), mask=mask, owner=self._owner)
            events = self._runs.follow(run_id)
            threading.Thread(target=live.feed, args=(events,), name=f"fleet-{run_id}", daemon=True).start()
        if watcher is not None:
            live.watch(watcher)
        return live

    def _before(self, request: Request) -> list[LiveRun]:
        """The runs that this one has to wait for. Raises SessionBusy."""
        if not request.in_session:
            return []
        before = self._house.going_on(self._owner, request.session_id)
        if request.when_busy == "refuse" and (before or self._elsewhere(request.session_id)):
            raise SessionBusy(
                f"a run of session {request.session_id} is still going on", "wait, cancel it, or queue the question"
            )
        return before

    def _elsewhere(self, session_id: str, before: float | None = None) -> bool:
        """Whether another process works on a run of that session, accepted before that time."""
        try:
            newest = self._runs.list(session_id=session_id, limit=50, before=before)
        except StoreFailed:
            return False
        return any(run.status is None and run.run_id not in self._house.runs for run in newest)

    def _start(self, run: LiveRun, request: Request, before: list[LiveRun], work: Work) -> None:
        def live() -> None:
            try:
                if request.in_session:
                    self._wait_for(before, run)
                run.budget.start()
                work.execute(run.trace.append)
            finally:
                write_manifest = self._house.manifests.due(run, work.files, work.inputs)
                run.finish()
                self._house.over(run)
                write_manifest()

        # A run outlives whoever asked, so its thread must not keep the process from ending.
        context = contextvars.copy_context()
        threading.Thread(target=context.run, args=(live,), name=f"fleet-{run.run_id}", daemon=True).start()

    def _wait_for(self, before: list[LiveRun], run: LiveRun) -> None:
        for earlier in before:
            while not run.budget.is_urgent and not earlier.wait(LOOK_SECONDS):
                pass
        while not run.budget.is_urgent and self._elsewhere(run.session_id, run.accepted_at):
            run.wait(LOOK_SECONDS)
