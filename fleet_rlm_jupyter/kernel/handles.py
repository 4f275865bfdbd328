"""Runs that a notebook has started: a handle while they go on, a result when they have ended."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import PurePath
from typing import Any

from pydantic import JsonValue, ValidationError

from fleet_rlm_jupyter.domain.calls import CallTree, fold
from fleet_rlm_jupyter.domain.context import Context
from fleet_rlm_jupyter.domain.errors import BadRequest, ErrorText, FleetError, NoSuchRun
from fleet_rlm_jupyter.domain.events import Event, Limits, RunStatus, Usage
from fleet_rlm_jupyter.domain.lines import found_so_far
from fleet_rlm_jupyter.domain.masking import Mask
from fleet_rlm_jupyter.domain.question import Mode
from fleet_rlm_jupyter.domain.session import KeptRun, Run
from fleet_rlm_jupyter.engine.contexts import read_context
from fleet_rlm_jupyter.engine.staging import stage
from fleet_rlm_jupyter.engine.unbroken import unbroken
from fleet_rlm_jupyter.kernel.bundle import MIME, run_json
from fleet_rlm_jupyter.kernel.connect import Server
from fleet_rlm_jupyter.kernel.page import as_html, as_text
from fleet_rlm_jupyter.kernel.placement import HERE, On, Placed, choose, tie_of
from fleet_rlm_jupyter.kernel.variables import as_context
from fleet_rlm_jupyter.remote import RemoteRun, RemoteWorkbench
from fleet_rlm_jupyter.settings import load
from fleet_rlm_jupyter.workbench import LiveRun, Question, Workbench, default

STOP_SECONDS = 10
TURN_SECONDS = 0.05
LISTED_RUNS = 30
"""Most runs that `%fleet runs` shows."""
_SETTINGS = ("model", "sub_model", "api_base")


@dataclass(frozen=True, slots=True)
class Result:
    """A run that has ended: `answer, status, usage, tree, trace, error, outputs`, and what it was and ran on.

    `found` is what the code at the top had found when there is no answer. A notebook shows it as answer and tree.
    """

    run: Run = field(repr=False)
    trace: tuple[Event, ...] = field(repr=False)
    mask: Mask = field(repr=False)
    where: str = HERE

    @property
    def answer(self) -> str | None:
        return self.run.answer

    @property
    def status(self) -> RunStatus:
        return self.run.status

    @property
    def usage(self) -> Usage:
        return self.run.usage

    @property
    def error(self) -> ErrorText | None:
        return self.run.error

    @property
    def outputs(self) -> dict[str, JsonValue]:
        return self.run.outputs

    @property
    def tree(self) -> CallTree:
        return fold(self.trace)

    @property
    def found(self) -> str:
        return found_so_far(self.tree)

    @property
    def run_id(self) -> str:
        return self.run.run_id

    @property
    def question(self) -> str:
        return self.run.question

    @property
    def model(self) -> str:
        return self.run.model

    @property
    def sandbox(self) -> str:
        return self.run.sandbox

    def __repr__(self) -> str:
        return as_text(self.run, self.tree, self.mask, self.where)

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:
        tree = self.tree
        return {
            "text/plain": as_text(self.run, tree, self.mask, self.where),
            "text/html": as_html(self.run, tree, self.mask, self.where),
            MIME: run_json(self.run, self.trace, self.mask),
        }


class Handle:
    """A run that may still be going on. `result()` and `await handle` give its Result; `cancel()` stops it.

    Interrupting either wait cancels the run; `result()` then gives what was found.
    """

    def __init__(self, live: LiveRun | RemoteRun, mask: Mask, where: str = HERE) -> None:
        self.live = live
        self.mask = mask
        self.where = where

    @property
    def run_id(self) -> str:
        return self.live.run_id

    @property
    def status(self) -> str:
        """`running`, or how it ended."""
        return self.live.tree().status or "running"

    def cancel(self) -> None:
        """Stop it; harmless when it has ended. Another interrupt does not take that back."""
        unbroken(self.live.cancel, lambda: None)

    def result(self, timeout: float | None = None) -> Result:
        """How it ended; raises TimeoutError if it has not within `timeout` seconds."""
        try:
            run = self.live.result(timeout)
        except KeyboardInterrupt:
            self.cancel()
            raise
        return Result(run, self.live.trace.events, self.mask, self.where)

    def __await__(self) -> Generator[Any, None, Result]:
        return self._wait().__await__()

    async def _wait(self) -> Result:
        try:
            # ipykernel 7 hears an interrupt only when the loop turns, and while it waits nothing else may turn it.
            while not self.live.is_finished:
                await asyncio.sleep(TURN_SECONDS)
            return await asyncio.to_thread(self.result)
        except (asyncio.CancelledError, KeyboardInterrupt):
            self.cancel()
            raise

    def __repr__(self) -> str:
        return f"<run {self.run_id}: {self.status}>"


Hold = Callable[[LiveRun | RemoteRun], None]
Take = Callable[[Handle], None]


@dataclass(frozen=True, slots=True)
class AskOptions:
    """How a question is to be answered: `limits` by the names of a budget, `settings` by dotted name."""

    mode: Mode = "auto"
    paths: Sequence[str] = ()
    recipe: str | None = None
    slots: Mapping[str, str] = field(default_factory=dict[str, str])
    limits: Mapping[str, Any] = field(default_factory=dict[str, Any])
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])
    on: On = "auto"
    repo: str | None = None
    ref: str | None = None
    staged: Sequence[str] = ()


class Notebook:
    """What this kernel has asked so far, on which workbenches. `overrides` are its own settings, by dotted name.

    `session_id` is the session that its questions go on with; None: one of the kernel's own, of which no model is told.
    """

    def __init__(self) -> None:
        self.overrides: dict[str, Any] = {}
        self.handles: list[Handle] = []
        self.shows_tracebacks = False
        self.session_id: str | None = None
        self._benches: list[Workbench] = []

    def bench(self, settings: Mapping[str, Any] | None = None) -> Workbench:
        """The Workbench of the settings in force now: `%env` and `.env` may have changed since. Raises BadSettings."""
        loaded = load({**self.overrides, **(settings or {})})
        if not self._benches:
            self._benches.append(default())
        for bench in self._benches:
            if bench.loaded == loaded:
                return bench
        self._benches.append(Workbench(loaded))
        return self._benches[-1]

    def benches(self) -> list[Workbench]:
        """Those that something was asked of, and that of the settings in force."""
        self.bench()
        return list(self._benches)

    def place(self, options: AskOptions | None = None, tie: str = "") -> Placed:
        """Where a run goes now; `tie` says what else than its settings holds it in this kernel. Raises BadRequest."""
        given = options or AskOptions()
        own = [name for name in {**self.overrides, **given.settings} if not name.startswith(("budget.", "server_"))]
        ties = [tie] if tie else [f"it has settings of its own ({', '.join(own)})"] if own else []
        return choose(given.on, self.bench(given.settings).settings, ties)

    def remote(self, server: Server) -> RemoteWorkbench:
        """The Workbench that a server holds. Nothing of it needs to be kept."""
        return RemoteWorkbench(server.url, server.token)

    def start(self, question: str, context: Context | None, options: AskOptions, take: Take | None = None) -> Handle:
        """Start a run, on the server or here. Raises FleetError before any work; an interrupt leaves none going on.

        `take` has its handle before an interrupt can be raised.
        """
        bench, place = self.bench(options.settings), self.place(options)
        asked = Question(question, options.paths, context, options.mode, options.recipe, options.slots)
        asked = replace(asked, repo_url=options.repo, repo_ref=options.ref, context_paths=options.staged)
        asked = replace(asked, session_id=self.session_id, when_busy="queue")
        limits = _limits(bench, options.limits)
        if place.server is None:
            return self._held(lambda hold: bench.ask(asked, limits, hold=hold), bench, place, take)
        # Files are those of this kernel's folder and machine: they go by content.
        if context is None and options.paths:
            context = read_context(options.paths, bench.settings.context)
        staged = stage(options.staged, bench.settings) if options.staged else None
        asked = replace(asked, paths=(), context=context, context_paths=(), staged=staged)
        bounds = limits if self._is_bounded(options) else None
        remote = self.remote(place.server)
        return self._held(lambda hold: remote.ask(asked, bounds, hold=hold), bench, place, take)

    def run(self, program: Any, inputs: Mapping[str, Any], options: AskOptions, take: Take | None = None) -> Handle:
        """Start a run of a program: one of one's own here, one with a name where questions go or it is kept.

        Raises FleetError before any work; an interrupt leaves none going on.
        """
        bench = self.bench(options.settings)
        limits, given = _limits(bench, options.limits), dict(inputs)
        if program == "ask" and not isinstance(given.get("context", ""), str):
            given["context"] = as_context(given["context"], bench.settings.context)
        place = self.place(options, tie_of(program, given, bench))
        if place.server is None:
            return self._held(lambda hold: bench.run(program, given, limits, hold=hold), bench, place, take)
        bounds = limits if self._is_bounded(options) else None
        remote = self.remote(place.server)
        return self._held(lambda hold: remote.run(program, given, bounds, hold=hold), bench, place, take)

    def _is_bounded(self, options: AskOptions) -> bool:
        """Whether this notebook says what a run may spend, and not the server's settings."""
        return bool(options.limits) or any(name.startswith("budget.") for name in self.overrides)

    def _held(self, ask: Callable[[Hold], object], bench: Workbench, place: Placed, take: Take | None) -> Handle:
        mask, held = Mask.of(bench.settings), list[Handle]()

        def hold(live: LiveRun | RemoteRun) -> None:
            held.append(Handle(live, mask, place.line))
            self.handles.append(held[0])
            if take is not None:
                take(held[0])

        try:
            ask(hold)
            return held[0]
        except KeyboardInterrupt:
            for handle in held:
                handle.cancel()
            raise

    def handle(self, run_id: str | None) -> Handle:
        """The run of that id or the beginning of one, or the last run. Raises BadRequest."""
        if not self.handles:
            raise BadRequest("nothing was asked in this kernel yet", "ask with %%fleet")
        if run_id is None:
            return self.handles[-1]
        found = [handle for handle in self.handles if handle.run_id.startswith(run_id)]
        if len(found) != 1:
            many = "more than one run" if found else "no run"
            raise BadRequest(f"there is {many} {run_id} in this kernel", "%fleet runs lists them")
        return found[0]

    def past(self, run_id: str | None) -> Result:
        """How a run of this kernel, or of any other that is kept, has ended; the last one asked here by default.

        `run_id` may be the beginning of one. Raises BadRequest, NoSuchRun and StoreFailed.
        """
        ours = [handle for handle in self.handles if run_id is None or handle.run_id.startswith(run_id)]
        if run_id is None or len(ours) == 1:
            handle = self.handle(run_id)
            if handle.status == "running":
                raise BadRequest(f"run {handle.run_id} is still going on", "wait for it, or interrupt it")
            return handle.result(STOP_SECONDS)
        bench, server = self.bench(), self.place().server
        mask = Mask.of(bench.settings)
        try:
            found = bench.runs.find(run_id).run_id
        except NoSuchRun:
            there = self.remote(server).runs if server else None
            known = [run.run_id for run in there.list(run_id)] if there else []
            known = [found for found in known if found.startswith(run_id)]
            if there is None or server is None or len(known) != 1:
                raise
            where = f"on the server at {server.url}"
            return Result(there.record(known[0]), tuple(there.events(known[0])), mask, where)
        return Result(bench.runs.record(found), tuple(bench.runs.events(found)), mask)

    def listed(self, words: str) -> list[KeptRun]:
        """The newest runs that are kept, here and on the server, newest first."""
        server = self.place().server
        kept = self.bench().runs.list(words, limit=LISTED_RUNS)
        there = self.remote(server).runs.list(words, limit=LISTED_RUNS) if server else []
        runs = {run.run_id: run for run in [*there, *kept]}.values()
        return sorted(runs, key=lambda run: run.started_at, reverse=True)[:LISTED_RUNS]


@cache
def notebook() -> Notebook:
    """The kernel's own: magics and `start` share it."""
    return Notebook()


def mask_in_force() -> Mask:
    """What hides the keys in force; without readable settings, what looks like a key."""
    try:
        return Mask.of(notebook().bench().settings)
    except FleetError:
        return Mask()


@contextlib.contextmanager
def masked_errors() -> Generator[None]:
    """Our errors leave without a key: what an output cell shows is saved with the notebook."""
    try:
        yield
    except FleetError as err:
        mask = mask_in_force()
        err.text, err.hint = mask(err.text), mask(err.hint)
        raise


@masked_errors()
def start(
    question: str,
    context: object = None,
    *,
    mode: Mode = "auto",
    recipe: str | None = None,
    slots: Mapping[str, str] | None = None,
    settings: Mapping[str, Any] | None = None,
    on: On = "auto",
    **options: Any,
) -> Handle:
    """Start a run that answers `question` over `context`, and return at once.

    `context` is a text, bytes, list, dict, table, array or path, or a list of paths. Further options are the names of
    a budget (`calls, sub_calls, tokens, cost, seconds, depth, sandboxes, siblings, batch`) and `model, sub_model,
    api_base`; `settings` takes any other by its dotted name. It runs on the Jupyter server where one answers, else in
    this kernel; `on` is "server" or "kernel" where that matters. `repo`, `ref` and `stage` (paths) give its sandbox
    files. Raises FleetError before any work, never afterwards.
    """
    given = {**(settings or {}), **{name: options.pop(name) for name in _SETTINGS if name in options}}
    paths = _paths(context)
    made = None
    if context is not None and not paths:
        made = as_context(context, notebook().bench(given).settings.context)
    repo, ref, files = options.pop("repo", None), options.pop("ref", None), options.pop("stage", ())
    staged = [str(files)] if isinstance(files, str | PurePath) else [str(path) for path in files]
    asked = AskOptions(mode, paths, recipe, slots or {}, options, given, on, repo, ref, staged)
    return notebook().start(question, made, asked)


def _paths(context: object) -> list[str]:
    if isinstance(context, PurePath):
        return [str(context)]
    if isinstance(context, list | tuple) and context and all(isinstance(item, PurePath) for item in context):
        return [str(item) for item in context]
    return []


def _limits(bench: Workbench, given: Mapping[str, Any]) -> Limits:
    try:
        return Limits.model_validate({**bench.settings.budget.model_dump(), **given})
    except ValidationError as err:
        first = err.errors(include_url=False)[0]
        name = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise BadRequest(f"there is no option {name}", f"a budget has {', '.join(Limits.model_fields)}") from err
        raise BadRequest(f"{name} cannot be {first['input']!r}: {first['msg'].lower()}", "give another number") from err
