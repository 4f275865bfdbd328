"""RemoteWorkbench: the verbs of a Workbench that a Jupyter server holds, for kernels and programs."""

from __future__ import annotations

import contextvars
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

from pydantic import BaseModel, TypeAdapter

from fleet_rlm_jupyter.connection import Connection, quoted
from fleet_rlm_jupyter.domain.api import API_VERSION
from fleet_rlm_jupyter.domain.calls import CallTree, fold
from fleet_rlm_jupyter.domain.errors import BadRequest, FleetError, ServerUnavailable
from fleet_rlm_jupyter.domain.events import Event, Limits
from fleet_rlm_jupyter.domain.manifest import Resumed
from fleet_rlm_jupyter.domain.program import Trial
from fleet_rlm_jupyter.domain.question import Check, Phase, Question
from fleet_rlm_jupyter.domain.session import (
    Feedback,
    KeptRun,
    Run,
    Session,
)
from fleet_rlm_jupyter.domain.shown import ShownSetting
from fleet_rlm_jupyter.engine.contexts import read_context
from fleet_rlm_jupyter.engine.staging import stage
from fleet_rlm_jupyter.engine.trace import Trace, Watcher
from fleet_rlm_jupyter.engine.unbroken import unbroken
from fleet_rlm_jupyter.remote_contexts import RemoteContexts
from fleet_rlm_jupyter.remote_files import RemoteFiles
from fleet_rlm_jupyter.remote_memory import RemoteMemory
from fleet_rlm_jupyter.remote_programs import RemoteDatasets, RemoteOptimizations, RemotePrograms
from fleet_rlm_jupyter.remote_sandboxes import RemoteSandboxes
from fleet_rlm_jupyter.remote_sessions import RemoteSessions
from fleet_rlm_jupyter.remote_snapshots import RemoteSnapshots
from fleet_rlm_jupyter.settings import ContextSettings, load


class RemoteRun:
    """A run on a server, whose events come here as they happen. Thread-safe."""

    def __init__(self, bench: RemoteWorkbench, run_id: str, session_id: str, question: str) -> None:
        self.run_id = run_id
        self.session_id = session_id
        self.question = question
        self.trace = Trace(run_id, session_id)
        self._bench = bench
        self._finished = threading.Event()
        self._lost: FleetError | None = None

    def start(self, watcher: Watcher | None) -> None:
        """Begin to follow it, `watcher` first."""
        if watcher is not None:
            self.watch(watcher)
        context = contextvars.copy_context()
        threading.Thread(target=context.run, args=(self._follow,), name=f"fleet-{self.run_id}", daemon=True).start()

    def cancel(self, call_id: str | None = None) -> None:
        """Stop it, or one call and what is below: no LM call starts after this. Harmless when it has ended."""
        self._bench.cancel(self.run_id, call_id)

    def watch(self, watcher: Watcher, since: int = 0) -> None:
        """Call `watcher` with every event from `since` on as it comes; hand slow work to a queue."""
        self.trace.watch(watcher, since)

    def tree(self) -> CallTree:
        return fold(self.trace.events)

    @property
    def is_finished(self) -> bool:
        return self._finished.is_set()

    def wait(self, timeout: float) -> bool:
        """Whether it has finished after at most `timeout` seconds."""
        return self._finished.wait(timeout)

    def result(self, timeout: float | None = None) -> Run:
        """The run as it ended; raises TimeoutError if it has not within `timeout` seconds."""
        if not self._finished.wait(timeout):
            raise TimeoutError(f"run {self.run_id} is still going on after {timeout} seconds")
        if self._lost is not None:
            raise self._lost
        return self._bench.runs.record(self.run_id)

    def _follow(self) -> None:
        try:
            for event in self._bench.follow(self.run_id):
                self.trace.feed(event)
        except FleetError as err:
            self._lost = err
        finally:
            self._finished.set()


Hold = Callable[[RemoteRun], None]


class RemoteWorkbench:
    """The verbs of a Workbench, spoken with the Jupyter server at `url`. Thread-safe; nothing of it has to be closed.

    Every verb raises what it would here, and ServerUnavailable. A line that breaks is taken up again where it broke:
    a question is asked once, an event comes once. Contexts are uploaded by digest, each only once.
    """

    def __init__(self, url: str, token: str = "", headers: dict[str, str] | None = None) -> None:
        sent = {**({"Authorization": f"token {token}"} if token else {}), **(headers or {})}
        self.connection = Connection(url, sent)
        self.runs = RemoteRuns(self.connection)
        self.sessions = RemoteSessions(self.connection)
        self.contexts = RemoteContexts(self.connection)
        self.live_sandboxes = RemoteSandboxes(self.connection)
        self.programs = RemotePrograms(self.connection)
        self.datasets = RemoteDatasets(self.connection)
        self.optimizations = RemoteOptimizations(self.connection)
        self.memory = RemoteMemory(self.connection)
        self.snapshots = RemoteSnapshots(self.connection)
        self.settings_view = RemoteSettings(self.connection)

    def status(self) -> dict[str, Any]:
        """Who is there. Raises ServerUnavailable also where another version of the API is spoken."""
        found = self.connection.get("/status", dict[str, Any])
        if found.get("api") != API_VERSION:
            raise ServerUnavailable(
                f"the server speaks version {found.get('api')} of the API, this package version {API_VERSION}",
                "install the same fleet_rlm_jupyter for server and kernel",
            )
        return found

    def ask(
        self,
        question: Question | str,
        limits: Limits | None = None,
        watcher: Watcher | None = None,
        hold: Hold | None = None,
    ) -> RemoteRun:
        """Start a run that answers `question`, or give the run that its key stands for already.

        An interrupt before it returns leaves no run that goes on; `hold` has the run before an interrupt can be raised.
        """
        asked = Question(question) if isinstance(question, str) else question
        if asked.context is not None and asked.paths:
            raise BadRequest("a context is given twice", "pass paths or a value, not both")
        context = read_context(asked.paths, ContextSettings()) if asked.paths else asked.context
        staged = stage(asked.context_paths, load().settings) if asked.context_paths else asked.staged
        body = {
            "question": asked.text,
            "context": None if context is None else self.contexts.upload(context),
            "mode": asked.mode,
            "recipe": asked.recipe,
            "slots": dict(asked.slots),
            "session_id": asked.session_id,
            "when_busy": asked.when_busy,
            "can_answer": asked.can_answer,
            "repo_url": asked.repo_url,
            "repo_ref": asked.repo_ref,
            "snapshot": asked.snapshot,
            "staged": staged and self.contexts.upload_staged(staged),
        }
        return self._start("/runs", body, asked.key, limits, asked.text, watcher, hold)

    def repeat(self, run_id: str, watcher: Watcher | None = None) -> RemoteRun:
        """Ask again what the snapshot of that run has, told the same, on the models in force at the server."""
        accepted = self.connection.ask("POST", f"/snapshots/{quoted(run_id)}/runs", dict[str, str])
        run = RemoteRun(self, accepted["run_id"], accepted["session_id"], self.snapshots.get(run_id).question)
        run.start(watcher)
        return run

    def run(
        self,
        program: str,
        inputs: Mapping[str, Any],
        limits: Limits | None = None,
        watcher: Watcher | None = None,
        session_id: str | None = None,
        hold: Hold | None = None,
        key: str | None = None,
    ) -> RemoteRun:
        """Run a program of the server by its name. A module of the caller's own runs where the caller is."""
        if program == "ask" and sorted(inputs) == ["context", "question"]:
            asked = Question(str(inputs["question"]), context=inputs["context"], session_id=session_id, key=key)
            return self.ask(asked, limits, watcher, hold)
        body = {"inputs": dict(inputs), "session_id": session_id}
        question = str(inputs.get("question", program))
        return self._start(f"/programs/{quoted(program)}/runs", body, key, limits, question, watcher, hold)

    def optimize(
        self,
        program: str,
        dataset: str,
        trial: Trial | None = None,
        limits: Limits | None = None,
        watcher: Watcher | None = None,
        key: str | None = None,
    ) -> RemoteRun:
        """Look for better instructions of a program of the server on one of its datasets, or only score it."""
        body = {"program": program, "dataset": dataset, "trial": (trial or Trial()).model_dump()}
        return self._start("/optimizations", body, key, limits, f"{program} on {dataset}", watcher)

    def follow(self, run_id: str, since: int = 0) -> Iterator[Event]:
        """Events of a run from seq `since` on, until it ends. Raises NoSuchRun at once."""
        self.runs.get(run_id)
        return self.connection.events(run_id, since)

    def cancel(self, run_id: str, call_id: str | None = None) -> None:
        """Stop a run, or one call of it and what is below; harmless when it has ended. Raises NoSuchRun."""
        self.connection.ask("POST", f"/runs/{quoted(run_id)}/cancel", type(None), {"call_id": call_id}, is_safe=True)

    def answer(self, run_id: str, call_id: str, text: str) -> None:
        """Answer what a call of a run has asked. Raises NoSuchRun, and BadRequest if it asks nothing."""
        self.connection.ask("POST", f"/runs/{quoted(run_id)}/answer", type(None), {"call_id": call_id, "text": text})

    def session(self, session_id: str | None = None) -> Session:
        """A conversation with its turns; by default that of what was asked without naming one."""
        path = "/session" if session_id is None else f"/sessions/{quoted(session_id)}/turns"
        return self.connection.get(path, Session)

    def resume(self, session_id: str) -> Resumed:
        """Go on with a session of the server: what there is of it after a restart."""
        return self.connection.ask("POST", f"/sessions/{quoted(session_id)}/resume", Resumed, is_safe=True)

    def files(self, session_id: str) -> RemoteFiles:
        """The files of a session's volume."""
        return RemoteFiles(self.connection, session_id)

    def check(self) -> list[Check]:
        """What is configured on the server, from where, whether it works, and what to do next."""
        return self.connection.ask("POST", "/checks", _Checks, is_safe=True).checks

    def smoke(self, repo_url: str | None = None, repo_ref: str | None = None) -> Iterator[Phase]:
        """One sandbox of the server from its creation to its end; each phase as it ends."""
        told = TypeAdapter(Phase)
        for line in self.connection.lines("/smoke", {"repo_url": repo_url, "repo_ref": repo_ref}):
            yield told.validate_json(line)

    def ready(self) -> list[Check]:
        """As `check`, but from the server's last look where that was good and less than a minute ago."""
        return self.connection.get("/ready", _Checks).checks

    def close(self) -> None:
        """Nothing is held: runs go on at the server."""

    def _start(
        self,
        path: str,
        body: dict[str, Any],
        key: str | None,
        limits: Limits | None,
        question: str,
        watcher: Watcher | None,
        hold: Hold | None = None,
    ) -> RemoteRun:
        # A key of our own, so that an answer lost on the way does not cost a second run.
        given = {**body, "key": key or secrets.token_hex(16), "limits": limits and limits.model_dump(mode="json")}
        begun: list[RemoteRun] = []

        def begin() -> RemoteRun:
            accepted = self.connection.ask("POST", path, dict[str, str], given, is_safe=True)
            run = RemoteRun(self, accepted["run_id"], accepted["session_id"], question)
            begun.append(run)
            if hold is not None:
                hold(run)
            run.start(watcher)
            return run

        def stop() -> None:
            for run in begun:
                with suppress(FleetError):  # the interrupt is what is raised
                    run.cancel()

        return unbroken(begin, stop)


class _Checks(BaseModel):
    is_ready: bool
    checks: list[Check]


class _RunsPage(BaseModel):
    runs: list[KeptRun]


class _EventsPage(BaseModel):
    events: list[dict[str, Any]]
    next: int


class RemoteRuns:
    """The runs of one user, as `Workbench.runs`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def list(
        self, search: str = "", session_id: str | None = None, limit: int = 20, before: float | None = None
    ) -> list[KeptRun]:
        query = {"search": search, "session_id": session_id, "limit": limit, "before": before}
        return self._connection.get("/runs", _RunsPage, **query).runs

    def get(self, run_id: str) -> KeptRun:
        return self._connection.get(f"/runs/{quoted(run_id)}", KeptRun)

    def record(self, run_id: str) -> Run:
        return self._connection.get(f"/runs/{quoted(run_id)}/record", Run)

    def events(self, run_id: str, since: int = 0) -> Iterator[Event]:
        """The events from seq `since` on that there are by now."""
        page = self._connection.get(f"/runs/{quoted(run_id)}/events", _EventsPage, since=since)
        while page.events:
            yield from map(Event.read, page.events)
            page = self._connection.get(f"/runs/{quoted(run_id)}/events", _EventsPage, since=page.next)

    def tree(self, run_id: str) -> CallTree:
        return fold(self.events(run_id))

    def value(self, run_id: str, call_id: str, name: str) -> str:
        query = {"call_id": call_id, "name": name}
        return self._connection.get(f"/runs/{quoted(run_id)}/value", dict[str, str], **query)["text"]

    def feedback(self, run_id: str, rating: int, expected: str = "", comment: str = "") -> Feedback:
        body = {"rating": rating, "expected": expected, "comment": comment}
        return self._connection.ask("PUT", f"/runs/{quoted(run_id)}/feedback", Feedback, body)

    def export(self, run_id: str) -> Iterator[str]:
        return self._connection.lines(f"/runs/{quoted(run_id)}/export")


class RemoteSettings:
    """The settings of the server's Workbench, keys masked."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def get(self) -> list[ShownSetting]:
        return self._connection.get("/settings", _Settings).settings

    def patch(self, updates: Mapping[str, Any]) -> list[ShownSetting]:
        """Change settings for the runs to come; all of them or none. Raises BadSettings."""
        return self._connection.ask("PATCH", "/settings", _Settings, {"updates": dict(updates)}).settings


class _Settings(BaseModel):
    settings: list[ShownSetting]
