"""Wires settings, models, sandboxes, store and engine together; the verbs that every surface speaks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import cache, partial
from threading import Lock
from typing import TYPE_CHECKING, Any

import dspy

from fleet_rlm_jupyter.domain.budget import Budget
from fleet_rlm_jupyter.domain.errors import BadRequest, FleetError, NoSuchSession, StoreFailed
from fleet_rlm_jupyter.domain.events import Event, Limits, RunEnded
from fleet_rlm_jupyter.domain.manifest import Resumed
from fleet_rlm_jupyter.domain.masking import Mask
from fleet_rlm_jupyter.domain.ports import EXECUTION_INSTRUCTIONS, Files, Interpreter, Role, Sandboxes
from fleet_rlm_jupyter.domain.program import Trial
from fleet_rlm_jupyter.domain.question import Check, Question, digest_of
from fleet_rlm_jupyter.domain.session import Session, new_id
from fleet_rlm_jupyter.domain.snapshot import Snapshot
from fleet_rlm_jupyter.engine.ask import Ask
from fleet_rlm_jupyter.engine.controls import Controls
from fleet_rlm_jupyter.engine.models import Models
from fleet_rlm_jupyter.engine.own import OwnProgram, digest_of_run
from fleet_rlm_jupyter.engine.recorder import Emit
from fleet_rlm_jupyter.engine.run import execute
from fleet_rlm_jupyter.engine.saved import build
from fleet_rlm_jupyter.engine.site import Site
from fleet_rlm_jupyter.engine.trace import Watcher
from fleet_rlm_jupyter.optimize.evaluate import Evaluation, Subject
from fleet_rlm_jupyter.optimize.gepa import Improvement
from fleet_rlm_jupyter.sandbox.snapshots import SandboxSnapshots
from fleet_rlm_jupyter.settings import Loaded, Settings
from fleet_rlm_jupyter.store.journal import FullValue
from fleet_rlm_jupyter.verbs.asking import composed, context_of, staging_of, workspace_of
from fleet_rlm_jupyter.verbs.cells import Cells
from fleet_rlm_jupyter.verbs.checks import check_all
from fleet_rlm_jupyter.verbs.datasets import Datasets
from fleet_rlm_jupyter.verbs.house import House
from fleet_rlm_jupyter.verbs.live import LiveRun
from fleet_rlm_jupyter.verbs.live_sandboxes import LiveSandboxes
from fleet_rlm_jupyter.verbs.memory import Memory
from fleet_rlm_jupyter.verbs.optimizations import Optimizations
from fleet_rlm_jupyter.verbs.programs import Programs
from fleet_rlm_jupyter.verbs.resuming import resume
from fleet_rlm_jupyter.verbs.runs import Runs
from fleet_rlm_jupyter.verbs.sessions import Sessions
from fleet_rlm_jupyter.verbs.settings_view import SettingsView
from fleet_rlm_jupyter.verbs.smoke import Phase, smoke
from fleet_rlm_jupyter.verbs.snapshots import Snapshots, Told, is_wanted
from fleet_rlm_jupyter.verbs.starting import Request, Starter, Work

if TYPE_CHECKING:
    from fleet_rlm_jupyter.store.contexts import StoredContexts

LOCAL_OWNER = "local"
Hold = Callable[[LiveRun], None]


class Workbench:
    """What every surface holds. Thread-safe; `close` ends what it started, and so does the end of the process."""

    def __init__(
        self,
        settings: Settings | Loaded | None = None,
        sandboxes: Sandboxes | None = None,
        models: Models | None = None,
    ) -> None:
        self._house = House(Loaded.of(settings), sandboxes, models)
        self._see(LOCAL_OWNER)

    def seen_by(self, owner: str) -> Workbench:
        """The same house as that user sees it: only their own sessions and runs. It is closed with the whole."""
        view = object.__new__(Workbench)
        view._house = self._house
        view._see(owner)
        return view

    def _see(self, owner: str) -> None:
        self.owner = owner
        self.runs = Runs(self._house, owner)
        self.sessions = Sessions(self._house, owner)
        self.live_sandboxes = LiveSandboxes(self._house, owner)
        self.programs = Programs(self._house, owner)
        self.datasets = Datasets(self._house, owner)
        self.sandbox_snapshots = SandboxSnapshots(lambda: self._house.settings)
        self.optimizations = Optimizations(self._house, owner)
        self.memory = Memory(self._house, owner)
        self.snapshots = Snapshots(self._house, owner)
        self.settings_view = SettingsView(self._house)
        self._starter = Starter(self._house, owner)

    @property
    def contexts(self) -> StoredContexts:
        """What was sent here to be asked about, by digest."""
        return self._house.contexts(self.owner)

    @property
    def loaded(self) -> Loaded:
        return self._house.loaded

    @property
    def settings(self) -> Settings:
        return self._house.settings

    @property
    def mask(self) -> Mask:
        """What hides every key in force."""
        return self._house.mask

    def models(self) -> Models:
        """The models in force, resolved once. Raises BadSettings."""
        return self._house.models()

    def sandboxes(self, *, trusted_code: bool = False) -> Sandboxes:
        """Where generated code runs. `trusted_code` is for code that we wrote ourselves (offline recipes)."""
        return self._house.sandboxes(trusted_code=trusted_code)

    def ask(
        self,
        question: Question | str,
        limits: Limits | None = None,
        watcher: Watcher | None = None,
        hold: Hold | None = None,
    ) -> LiveRun:
        """Start a run that answers `question`, or give the run that its key stands for already.

        An interrupt before it returns leaves no run that goes on; `hold` has the run before an interrupt can be raised.
        Raises FleetError before any work, never afterwards: BadRequest, NoSuchSession, SessionBusy, KeyReused and what
        settings and sandboxes say.
        """
        return self._ask(Question(question) if isinstance(question, str) else question, limits, watcher, hold)

    def repeat(self, run_id: str, limits: Limits | None = None, watcher: Watcher | None = None) -> LiveRun:
        """Ask again what the snapshot of that run has, told the same, within its limits, on the models now in force.

        Raises NoSuchRun where there is no snapshot, and what `ask` raises.
        """
        kept = self.snapshots.get(run_id)
        return self._ask(self.snapshots.question(kept), limits or kept.limits, watcher, frozen=kept)

    def _ask(
        self,
        asked: Question,
        limits: Limits | None,
        watcher: Watcher | None,
        hold: Hold | None = None,
        frozen: Snapshot | None = None,
    ) -> LiveRun:
        if not asked.text.strip():
            raise BadRequest("the question is empty", "say what you want to know")
        models = self.models()
        workspace, staging = workspace_of(self._house, asked), staging_of(self._house, asked)
        text = composed(asked, models)
        context = context_of(asked, self.settings.context)
        site = self._site(
            self._session_id(asked.session_id), trusted_code=models.is_offline, can_answer=asked.can_answer
        )
        site = replace(site, workspace=workspace, staging=staging, words=asked.text)
        is_new = frozen is None and is_wanted(self._house, asked)
        named = asked.session_id is not None
        now = Told.when_it_begins(self.sessions, self.memory, site.session_id, in_session=named)
        told = Told.of(frozen) if frozen else now.now() if is_new else now
        history = None if models.is_offline else told.history
        program = Ask(site, asked.mode, str(context), history, context.table, told.recall)
        inputs = {"context": context.value, "question": text}
        program.prepare(inputs)
        request = Request.of(site, asked.text, named, asked.key, asked.digest)
        request = replace(request, when_busy=asked.when_busy)
        begin = partial(self._begin, request, program, inputs, limits, watcher, hold)
        if not is_new:
            return begin()
        return self.snapshots.begun(begin, request, asked, context.value, told, limits or self.settings.budget)

    def run(
        self,
        program: str | dspy.Module,
        inputs: Mapping[str, Any],
        limits: Limits | None = None,
        watcher: Watcher | None = None,
        session_id: str | None = None,
        hold: Hold | None = None,
        key: str | None = None,
    ) -> LiveRun:
        """Run a program: one of `programs` by its name, or a DSPy module of the caller's own; once for the same `key`.

        Its LM calls draw on the run's budget and its RLMs take their sandboxes here. Raises what `ask` raises.
        """
        if isinstance(program, str):
            info = self.programs.get(program)
            if sorted(inputs) != sorted(info.inputs):
                raise BadRequest(
                    f"{program} takes {' and '.join(info.inputs)}", f"not {', '.join(inputs) or 'nothing'}"
                )
            if not info.version:
                asked = Question(str(inputs["question"]), context=inputs["context"], session_id=session_id, key=key)
                return self.ask(asked, limits, watcher, hold)
            name, what = info.label, program
            module = build(self.programs.definition(name))
        else:
            name, module, what = type(program).__name__, program, program
        site = self._site(self._session_id(session_id))
        own = OwnProgram(site, module, name)
        own.prepare()
        request = Request.of(
            site, own.message(inputs), session_id is not None, key, lambda: digest_of_run(what, inputs)
        )
        return self._begin(request, own, dict(inputs), limits, watcher, hold)

    def optimize(
        self,
        program: str,
        dataset: str,
        trial: Trial | None = None,
        limits: Limits | None = None,
        watcher: Watcher | None = None,
        key: str | None = None,
    ) -> LiveRun:
        """Look for better instructions of a saved program, or with optimizer `none` only score it, on a dataset.

        What is found becomes the program's next version, which runs by its name when it is approved; `optimizations`
        tells of the rest. Done once for the same `key`. Raises what `run` raises, NoSuchProgram and NoSuchDataset.
        """
        tried = trial or Trial()
        if self.models().is_offline:
            raise BadRequest("offline recipes are no language model to try a program on", "choose a model")
        info = self.programs.get(program)
        definition = self.programs.definition(info.label)
        subject = Subject.of(info, definition, dataset, self.datasets.rows(dataset))
        site = replace(self._site(self._session_id(None)), is_apart=True)
        keep = partial(self.programs.found, info.label, dataset, site.run_id)
        is_scored_only = tried.optimizer == "none"
        work = Evaluation(site, subject, tried) if is_scored_only else Improvement(site, subject, tried, keep)
        work.prepare()
        asked = ["optimize", program, dataset, tried.model_dump()]
        request = Request.of(site, work.message(), False, key, lambda: digest_of(asked))
        live = self._begin(request, work, {}, limits, watcher)
        live.wait_kept()  # from its first event on `optimizations` knows the run
        return live

    def follow(self, run_id: str, since: int = 0) -> Iterator[Event]:
        """Events of a run from seq `since` on, until it ends, wherever it goes on or went on. Raises NoSuchRun."""
        return self.runs.follow(run_id, since)

    def cancel(self, run_id: str, call_id: str | None = None) -> None:
        """Stop a run of this process, or only one call of it and what is below; harmless when it has ended.

        Raises NoSuchRun, and BadRequest for a run that another process works on and for a call that has not begun.
        """
        live = self._house.find(run_id, self.owner)
        if live is not None:
            live.cancel(call_id)
        elif self.runs.get(run_id).status is None:
            raise BadRequest(f"another process works on run {run_id}", "stop it where it was started")

    def answer(self, run_id: str, call_id: str, text: str) -> None:
        """Answer what a call of a run has asked. Raises NoSuchRun, and BadRequest if it asks nothing."""
        live = self._house.find(run_id, self.owner)
        if live is None:
            self.runs.get(run_id)
            raise BadRequest(f"run {run_id} asks nothing", "a question can be answered while its run goes on here")
        live.answer(call_id, text)

    def session(self, session_id: str | None = None) -> Session:
        """A conversation with its turns; by default that of what was asked without naming one. Raises NoSuchSession."""
        wanted = session_id or self._house.session_id(self.owner)
        lost = tuple(run.ended() for run in list(self._house.runs.values()) if self._is_lost(run, wanted))
        try:
            kept = self.sessions.transcript(wanted)
        except (NoSuchSession, StoreFailed):
            # One that nothing was asked in yet, or that could not be kept.
            if session_id is not None and not lost:
                raise
            kept = Session(session_id=wanted)
        return kept.model_copy(update={"turns": (*kept.turns, *lost)})

    def files(self, session_id: str) -> Files:
        """The files of a session's volume, whether or not a run goes on in it. Raises NoSuchSession."""
        kept = self.sessions.get(session_id)
        return self.sandboxes(trusted_code=self.models().is_offline).files(kept.session_id)

    def resume(self, session_id: str) -> Resumed:
        """Go on with a session: what there is of it after a restart.

        One that the store has lost comes back by the manifest on its volume, without its turns. Raises NoSuchSession
        where neither knows it.
        """
        home = self.sandboxes(trusted_code=self.models().is_offline)
        return resume(self._house, self.owner, session_id, home)

    def interpreter(self) -> Interpreter:
        """A fresh interpreter in a sandbox, for a DSPy program of the caller's own; its `shutdown` ends the sandbox."""
        role = Role(self._house.session_id(self.owner), new_id("r"), "interpreter", 1)
        return self.sandboxes().open(role)

    def cells(self, session_id: str | None = None) -> Cells:
        """A REPL for code of the user's own in the session's sandbox, always the same one. Raises NoSuchSession."""
        named = self._session_id(session_id)
        return self._house.cells.setdefault((self.owner, named), Cells(self._house, named))

    def check(self) -> list[Check]:
        """What is configured, from where, whether it works, and what to do next. Starts a sandbox and runs one cell."""
        return check_all(self._house)

    def smoke(self, repo_url: str | None = None, repo_ref: str | None = None) -> Iterator[Phase]:
        """One sandbox from its creation to its end, with a repository where one is named; each phase as it ends."""
        return smoke(self._house, repo_url, repo_ref)

    def warm(self) -> None:
        """Pay now for what the first run would wait for: the store is opened, the SDK of the sandboxes imported.

        What is wrong with either is said to whoever needs it. Fetched repositories too old or too many are forgotten.
        """
        with suppress(FleetError):
            self.sandboxes(trusted_code=self.models().is_offline)
        with suppress(FleetError):
            self._house.store().database()
        with suppress(OSError):
            self._house.repositories.prune(self.settings)

    def close(self) -> None:
        """Interrupt what runs, end every sandbox and finish writing; for all users."""
        self._house.close()

    def _site(self, session_id: str, *, trusted_code: bool = False, can_answer: bool = False) -> Site:
        run_id, journal, mask = new_id("r"), self._house.journal(), self._house.mask

        def keep(call_id: str, name: str, text: str) -> None:
            journal.keep(FullValue(run_id, call_id, name, mask(text)))

        def propose(text: str, kind: str) -> object:
            return self.memory.propose(text, kind, run_id)

        sandboxes = self.sandboxes(trusted_code=trusted_code)
        controls = Controls(can_answer, keep, propose if self.settings.memory.propose else None)
        return Site(session_id, run_id, self.models(), sandboxes, controls, settings=self.settings)

    def _begin(
        self,
        request: Request,
        program: Ask | OwnProgram | Evaluation,
        inputs: dict[str, Any],
        limits: Limits | None,
        watcher: Watcher | None,
        hold: Hold | None = None,
    ) -> LiveRun:
        budget, site = Budget(limits or self.settings.budget), program.site

        def worked(emit: Emit) -> RunEnded:
            try:
                return execute(program, inputs, budget, emit)
            finally:
                if site.workspace is not None:
                    site.workspace.release()

        work = Work(budget, site.controls, worked, site.sandboxes.files, inputs)
        return self._starter.begin(request, work, watcher, hold)

    def _is_lost(self, run: LiveRun, session_id: str) -> bool:
        return bool(run.not_kept) and run.owner == self.owner and run.session_id == session_id and run.is_over

    def _session_id(self, named: str | None) -> str:
        if named is None:
            return self._house.session_id(self.owner)
        try:
            return self.sessions.get(named).session_id
        except StoreFailed:
            return named  # nothing can be read of it, and the run says that it is not kept


_making = Lock()


def default() -> Workbench:
    """The process's own Workbench: what `fleet.interpreter` and the command line use."""
    # `cache` alone would let each of many threads that come first make one, with a sandbox server of its own.
    with _making:
        return _default()


@cache
def _default() -> Workbench:
    return Workbench()


def interpreter() -> Interpreter:
    """A fresh DSPy `CodeInterpreter` in a sandbox: Daytona when configured, else the local server.

    For `dspy.RLM(…, interpreter_factory=fleet.interpreter)`. From any thread, many at once; `shutdown` ends its sandbox
    and everything ends with the process. Raises SandboxUnavailable or BadSettings when none can be had.
    """
    return default().interpreter()


interpreter.execution_instructions = EXECUTION_INSTRUCTIONS  # pyright: ignore[reportFunctionMemberAccess]
