"""Wires settings, models, sandboxes and engine together; the verbs that every surface speaks."""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from fleet_rlm_jupyter.domain.budget import Budget
from fleet_rlm_jupyter.domain.calls import CallTree, fold
from fleet_rlm_jupyter.domain.errors import BadRequest, FleetError
from fleet_rlm_jupyter.domain.events import Event, Limits, Usage
from fleet_rlm_jupyter.domain.ports import EXECUTION_INSTRUCTIONS, Interpreter, Role, Sandboxes
from fleet_rlm_jupyter.domain.session import Run, Session, Turn, new_id
from fleet_rlm_jupyter.engine.ask import Ask, Mode
from fleet_rlm_jupyter.engine.contexts import Context, Value, read_context
from fleet_rlm_jupyter.engine.models import Models, resolve
from fleet_rlm_jupyter.engine.offline import compose
from fleet_rlm_jupyter.engine.recorder import Trace, Watcher
from fleet_rlm_jupyter.engine.recursion import Site
from fleet_rlm_jupyter.engine.run import execute
from fleet_rlm_jupyter.sandbox.daytona import DaytonaSandboxes
from fleet_rlm_jupyter.settings import Loaded, Settings, load


@dataclass(frozen=True, slots=True)
class Question:
    """What `ask` is asked: over a `context`, or over `paths` and URLs. `recipe` and `slots` correct a recipe."""

    text: str
    paths: Sequence[str | Path] = ()
    context: Value | Context | None = None
    mode: Mode = "auto"
    recipe: str | None = None
    slots: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at: whether it works, what was seen, and the next step."""

    name: str
    is_good: bool
    text: str
    hint: str = ""


class LiveRun:
    """A run that may still be going on. Thread-safe."""

    def __init__(self, run_id: str, session_id: str, question: str, budget: Budget) -> None:
        self.run_id = run_id
        self.session_id = session_id
        self.question = question
        self.trace = Trace(run_id, session_id)
        self._budget = budget
        self._finished = threading.Event()

    def cancel(self) -> None:
        """Stop it: no LM call starts after this, the running cell is interrupted. Harmless when it has ended."""
        self._budget.cancel()

    def watch(self, watcher: Watcher, since: int = 0) -> None:
        """Call `watcher` with every event from `since` on, in the thread that makes them."""
        self.trace.watch(watcher, since)

    def tree(self) -> CallTree:
        return fold(self.trace.events)

    def result(self, timeout: float | None = None) -> Run:
        """The run as it ended; raises TimeoutError if it has not within `timeout` seconds."""
        if not self._finished.wait(timeout):
            raise TimeoutError(f"run {self.run_id} is still going on after {timeout} seconds")
        return _as_run(self.tree(), self.question, self.session_id)

    def finish(self) -> None:
        """Everything of the run is over, its sandboxes included."""
        self._finished.set()


class Workbench:
    """What every surface holds. Thread-safe; `close` ends what it started, and so does the end of the process."""

    def __init__(
        self,
        settings: Settings | Loaded | None = None,
        sandboxes: Sandboxes | None = None,
        models: Models | None = None,
    ) -> None:
        self.loaded = _loaded(settings)
        self._given_sandboxes = sandboxes
        self._sandboxes: dict[bool, Sandboxes] = {}
        self._models = models
        self._lock = threading.RLock()
        self._runs: dict[str, LiveRun] = {}
        self._session = Session()

    @property
    def settings(self) -> Settings:
        return self.loaded.settings

    def models(self) -> Models:
        """The models in force, resolved once. Raises BadSettings."""
        with self._lock:
            if self._models is None:
                self._models = resolve(self.loaded)
            return self._models

    def sandboxes(self, *, trusted_code: bool = False) -> Sandboxes:
        """Where generated code runs. `trusted_code` is for code that we wrote ourselves (offline recipes)."""
        if self._given_sandboxes is not None:
            return self._given_sandboxes
        with self._lock:
            if trusted_code not in self._sandboxes:
                self._sandboxes[trusted_code] = DaytonaSandboxes(self.settings, trusted_code=trusted_code)
            return self._sandboxes[trusted_code]

    def ask(self, question: Question | str, limits: Limits | None = None, watcher: Watcher | None = None) -> LiveRun:
        """Start a run that answers `question`. Raises FleetError before any work, never afterwards."""
        asked = Question(question) if isinstance(question, str) else question
        if not asked.text.strip():
            raise BadRequest("the question is empty", "say what you want to know")
        models = self.models()
        text = self._composed(asked, models)
        sandboxes = self.sandboxes(trusted_code=models.is_offline)
        context = self._context(asked)
        run_id, session_id = new_id("r"), self._session.session_id
        notes = str(context.manifest) if context.manifest.files else ""
        program = Ask(Site(session_id, run_id, models, sandboxes), asked.mode, notes)
        inputs = {"context": context.value, "question": text}
        program.prepare(inputs)
        run = LiveRun(run_id, session_id, asked.text, Budget(limits or self.settings.budget))
        if watcher is not None:
            run.watch(watcher)
        with self._lock:
            self._runs[run.run_id] = run
        self._start(run, program, inputs)
        return run

    def run(self, run_id: str) -> LiveRun:
        """The run of that id. Raises BadRequest."""
        try:
            return self._runs[run_id]
        except KeyError:
            raise BadRequest(
                f"there is no run {run_id}", "the runs of this process have ids that begin with r-"
            ) from None

    def follow(self, run_id: str, since: int = 0) -> Iterator[Event]:
        """Events of a run from seq `since` on, until it ends."""
        return self.run(run_id).trace.follow(since)

    def cancel(self, run_id: str) -> None:
        self.run(run_id).cancel()

    def session(self) -> Session:
        """The conversation so far: every run that has ended, as a turn."""
        with self._lock:
            return self._session

    def interpreter(self) -> Interpreter:
        """A fresh interpreter in a sandbox, for a DSPy program of the caller's own; its `shutdown` ends the sandbox."""
        role = Role(self._session.session_id, new_id("r"), "interpreter", 1)
        return self.sandboxes().open(role)

    def check(self) -> list[Check]:
        """What is configured, from where, whether it works, and what to do next. Starts a sandbox and runs one cell."""
        return [self._check_model(), self._check_sandbox()]

    def close(self) -> None:
        """Cancel what runs and end every sandbox."""
        for run in list(self._runs.values()):
            run.cancel()
        with self._lock:
            opened = list(self._sandboxes.values())
            self._sandboxes.clear()
        for sandboxes in opened:
            sandboxes.close()

    def _check_model(self) -> Check:
        try:
            models = self.models()
        except FleetError as err:
            return Check("model", False, err.text, err.hint)
        hint = "set FLEET_MODEL or a provider's key to ask open questions" if models.is_offline else ""
        return Check("model", True, f"{models.label} — {models.source}", hint)

    def _check_sandbox(self) -> Check:
        begun = time.monotonic()
        try:
            sandboxes = self.sandboxes(trusted_code=True)
            isolation = sandboxes.isolation
            interpreter = sandboxes.open(Role(self._session.session_id, new_id("r"), "check", 1))
            try:
                interpreter.execute("1 + 1")
            finally:
                interpreter.shutdown()
        except FleetError as err:
            return Check("sandbox", False, err.text, err.hint)
        text = f"{isolation.label}; a cell ran {time.monotonic() - begun:.1f} s after the call"
        if isolation.level == "L1" and not self.settings.sandbox.allow_unisolated:
            hint = "model-written code is refused here until sandbox.allow_unisolated is set; " + isolation.reason
            return Check("sandbox", False, text, hint)
        return Check("sandbox", True, text, isolation.reason)

    def _composed(self, asked: Question, models: Models) -> str:
        if asked.recipe is None:
            if asked.slots:
                raise BadRequest("slots belong to a recipe", "name it with --recipe")
            return asked.text
        if not models.is_offline:
            raise BadRequest("recipes are for the offline model", "leave --recipe out, or choose model offline/recipes")
        return compose(asked.recipe, dict(asked.slots), asked.text)

    def _context(self, asked: Question) -> Context:
        if asked.context is None:
            return read_context(asked.paths, self.settings.context)
        if asked.paths:
            raise BadRequest("a context is given twice", "pass paths or a value, not both")
        return asked.context if isinstance(asked.context, Context) else Context.of(asked.context)

    def _start(self, run: LiveRun, program: Ask, inputs: dict[str, Any]) -> None:
        def work() -> None:
            try:
                execute(program, inputs, run._budget, run.trace.append)  # pyright: ignore[reportPrivateUsage]
                turn = Turn(message=run.question, run=_as_run(run.tree(), run.question, run.session_id))
                with self._lock:
                    self._session = self._session.after(turn)
            finally:
                run.finish()

        # A run outlives whoever asked, so its thread must not keep the process from ending.
        context = contextvars.copy_context()
        threading.Thread(target=context.run, args=(work,), name=f"fleet-{run.run_id}", daemon=True).start()


@cache
def default() -> Workbench:
    """The process's own Workbench: what `fleet.interpreter` and the command line use."""
    return Workbench()


def interpreter() -> Interpreter:
    """A fresh DSPy `CodeInterpreter` in a sandbox: Daytona when configured, else the local server.

    For `dspy.RLM(…, interpreter_factory=fleet.interpreter)`. From any thread, many at once; `shutdown` ends its sandbox
    and everything ends with the process. Raises SandboxUnavailable or BadSettings when none can be had.
    """
    return default().interpreter()


interpreter.execution_instructions = EXECUTION_INSTRUCTIONS  # pyright: ignore[reportFunctionMemberAccess]


def _loaded(settings: Settings | Loaded | None) -> Loaded:
    if settings is None:
        return load()
    return Loaded(settings=settings, sources={}) if isinstance(settings, Settings) else settings


def _as_run(tree: CallTree, question: str, session_id: str) -> Run:
    if tree.status is None:
        raise FleetError("the run ended without saying how", "this is a defect; please report it")
    spent, started = tree.spent, tree.started
    tokens = [call.usage for call in tree.calls.values() if call.usage is not None]
    usage = Usage(
        calls=spent.calls if spent else 0,
        tokens_in=_sum(item.tokens_in for item in tokens),
        tokens_out=_sum(item.tokens_out for item in tokens),
        cost=spent.cost if spent else None,
        seconds=spent.seconds if spent else None,
    )
    return Run(
        run_id=tree.run_id,
        session_id=session_id,
        program=started.program if started else "",
        question=question,
        status=tree.status,
        answer=tree.answer,
        outputs=tree.outputs,
        error=tree.error,
        usage=usage,
        model=started.model if started else "",
        sandbox=started.isolation if started else "",
    )


def _sum(values: Iterator[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None
