"""How a run goes deeper: RLMs, their sandboxes, and the tools that generated code calls itself with."""

# Generated code calls the tools: their annotations are for the model to read, what arrives is anything.
# pyright: reportUnnecessaryIsInstance=false

from __future__ import annotations

import contextvars
import threading
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeVar

import dspy
from dspy.primitives.code_interpreter import CodeInterpreterError
from dspy.utils.exceptions import DSPyError

from fleet_rlm_jupyter.domain.budget import Budget
from fleet_rlm_jupyter.domain.errors import (
    DepthExceeded,
    ErrorText,
    FleetError,
    ForUser,
    SandboxesExceeded,
    StoreFailed,
    ToolFailed,
)
from fleet_rlm_jupyter.domain.events import ArtifactWritten, Log, QuestionAsked, SandboxChanged
from fleet_rlm_jupyter.domain.ports import EXECUTION_INSTRUCTIONS, Interpreter, Role
from fleet_rlm_jupyter.domain.previews import preview
from fleet_rlm_jupyter.engine.documents import Documents, Given
from fleet_rlm_jupyter.engine.failures import explained
from fleet_rlm_jupyter.engine.meter import Meter
from fleet_rlm_jupyter.engine.opening import Opening
from fleet_rlm_jupyter.engine.project import project_copy
from fleet_rlm_jupyter.engine.recorder import Emit, Recorder
from fleet_rlm_jupyter.engine.site import Site
from fleet_rlm_jupyter.engine.waiting import in_parallel, unless_stopped

_T = TypeVar("_T")

_DEPTH: contextvars.ContextVar[int] = contextvars.ContextVar("fleet_depth", default=0)
_SANDBOX: contextvars.ContextVar[str] = contextvars.ContextVar("fleet_sandbox", default="")

MAX_ITERS = 20
"""Steps of one RLM before DSPy asks for the answer from what was seen; the Budget is what bounds a run."""

MOST_PROPOSALS = 5
"""Notes that one run may propose for memory: somebody has to read them."""

SECONDS_BETWEEN_INTERRUPTS = 0.05

TOLD_OF_TOOLS = (
    "The REPL also has run(command, seconds=60), read_file(path, first, last), list_files(path), "
    "find_files(pattern, path), peek(source, at, chars) and grep(pattern, source, context) over a text, a path or, for "
    "grep, a dict of texts, outline(source) of Python sources, write_file(path, text, append), start_process(command), "
    "read_process(number) and stop_process(number) for work in the background, add_buffer(name, text), "
    "get_buffer(name), clear_buffer(name), save_to_volume(path, data, replace) and load_from_volume(path, as_bytes); "
    "help(grep) says more. REPO_PATH is the folder of the repository, MEMORY_ROOT that of memory/, artifacts/ and "
    "buffers/. Names that you or the inputs define win."
)
"""What a model is told of the functions in its sandbox (`sandbox/guest_tools.py`); not in EXECUTION_INSTRUCTIONS, which
saved programs embed."""


@dataclass(slots=True)
class _Handover:
    """What one child is given, and what it wrote. `files` are its parent's, `texts` (path, text) of this side."""

    files: tuple[str, ...] = ()
    texts: tuple[tuple[str, str], ...] = ()
    written: list[str] = field(default_factory=list[str])


_HANDOVER: contextvars.ContextVar[_Handover | None] = contextvars.ContextVar("fleet_handover", default=None)


class Recursion:
    """The machinery of one run: every RLM in it, at any depth, is built here on the same meter and the same Budget."""

    def __init__(self, site: Site, budget: Budget, emit: Emit) -> None:
        self.models = site.models
        self.budget = budget
        self.controls = site.controls
        self.recorder = Recorder(emit, budget, self.controls)
        self._site = site
        self._lock = threading.Lock()
        self._proposed = 0
        self._documents = Documents(site.settings, site.words)
        self._siblings: Counter[str] = Counter()
        self._meter = Meter(
            budget, self.recorder.spent, self.recorder.answer, self.controls.subtrees, self.recorder.here
        )
        self.planner = self._meter.metered(site.models.planner, sub=False)
        self.sub = self._meter.metered(site.models.sub, sub=True)
        self.factory = _Factory(self)

    def metered(self, lm: dspy.LM, *, sub: bool) -> dspy.LM:
        """A copy of `lm` that draws on the run's budget."""
        return self._meter.metered(lm, sub=sub)

    @cached_property
    def rlm(self) -> dspy.Module:
        """The RLM for `context, question` at every depth. It keeps no state between calls; building one is slow."""
        return self._rlm("")

    def _rlm(self, notes: str) -> dspy.Module:
        signature: Any = dspy.signatures.ensure_signature(self.models.signature)
        told = [signature.instructions, "" if self.models.is_offline else TOLD_OF_TOOLS, notes]
        signature = signature.with_instructions("\n\n".join(filter(None, told)))
        tools: list[Callable[..., Any]] = [self.sub_rlm, self.sub_rlm_batched]
        if self.controls.can_answer:
            tools.append(self.ask_user)
        if self.controls.propose is not None and not self.models.is_offline:
            tools.append(self.propose_memory)
        return dspy.RLM(
            signature,
            max_iters=MAX_ITERS,
            max_llm_calls=self.budget.limits.sub_calls,
            tools=tools,
            sub_lm=self.sub,
            interpreter_factory=self.factory,
        )

    def answer(self, notes: str = "", **inputs: Any) -> dspy.Prediction:
        """What the RLM says, told `notes` with its task; an answer that it never submitted is marked in the trace."""
        found = (self._rlm(notes) if notes else self.rlm)(**inputs)
        # dspy<3.5: the only sign that its steps ran out and a last call drew the answer from them.
        if found.get("final_reasoning") == "Extract forced final output":
            text = f"no answer was submitted in {MAX_ITERS} steps: this one was drawn from what the steps printed"
            self.recorder.note(Log(level="warning", text=text))
        return found

    def sub_rlm(
        self,
        prompt: str,
        context: Any = "",
        files: list[str] | None = None,
        document_url: str | None = None,
        project: bool = False,
    ) -> str:
        """Answer `prompt` over `context` (text, or a dict of texts) with a child RLM in a sandbox of its own.

        `files` under memory/, artifacts/ or buffers/ are copied into it. What it writes to artifacts/ is copied back to
        artifacts/child-…/, and then the last lines of the answer name it. Where settings allow it, it gets the text
        behind `document_url` too, and with `project` a copy of the files of the user's project that fit `prompt`.
        """
        if not isinstance(prompt, str) or not prompt.strip():
            raise ToolFailed("sub_rlm needs a prompt", "say what the child should find out")
        if files is not None and not (isinstance(files, list) and all(isinstance(one, str) for one in files)):
            raise ToolFailed("files are a list of paths", 'for example ["artifacts/table.csv"]')
        given: list[Given] = []
        if document_url is not None:
            given.append(self._awaited(lambda: self._documents.read(document_url)))
        if project:
            given.append(self._awaited(lambda: project_copy(prompt, self._site.settings)))
        if given and not isinstance(context, str | dict):
            raise ToolFailed("with a document or the project, the context is a text or a dict of texts", "pass a text")
        for one in given:
            self.recorder.note(Log(level="info", text=f"a child is given {one.title}: {len(one.text):,} characters"))
            context = one.into(context)
        handover = _Handover(tuple(files or ()), tuple((one.path, one.text) for one in given if one.path))
        token = _HANDOVER.set(handover)
        try:
            answer = str(self.answer(context=context, question=prompt).answer)
        finally:
            _HANDOVER.reset(token)
        return "\n".join([answer, "", "Files of this child:", *handover.written]) if handover.written else answer

    def sub_rlm_batched(self, prompts: list[str], contexts: list[Any] | None = None) -> list[Any]:
        """Answer prompts[i] over contexts[i] in parallel, order kept; one that fails is {"error": {…}} in its place."""
        given = [""] * len(prompts) if contexts is None else contexts
        if not isinstance(given, list) or len(given) != len(prompts):
            raise ToolFailed("sub_rlm_batched needs as many contexts as prompts", "pass two lists of the same length")
        most = self.budget.limits.calls  # each child makes one call at least
        if len(prompts) > most:
            raise ToolFailed(
                f"sub_rlm_batched got {len(prompts)} prompts and this run has {most} LM calls",
                "cut the context into fewer, larger parts",
            )
        workers = min(len(prompts), self.budget.limits.siblings, max(1, self.budget.sandboxes_left))
        answers = in_parallel(lambda pair: self._child(*pair), list(zip(prompts, given, strict=True)), workers)
        self.budget.check()
        return answers

    def ask_user(self, question: str, options: list[str] | None = None) -> str:
        """Ask the user who waits for the answer, only for what neither the context nor a sub-query can tell."""
        if not isinstance(question, str) or not question.strip():
            raise ToolFailed("ask_user needs a question", "say what you want to know")
        call_id = self.recorder.here() or ""
        asked = QuestionAsked(text=preview(question), options=[str(option) for option in options or []])
        return self.controls.questions.ask(
            call_id, lambda: self.recorder.note(asked), self.budget, self.controls.subtrees
        )

    def propose_memory(self, text: str, kind: str = "note") -> str:
        """Propose one sentence worth knowing in later questions (kind: note, fact, preference); its user reviews it."""
        assert self.controls.propose is not None, "it is a tool only where it may be used"
        with self._lock:
            self._proposed += 1
            if self._proposed > MOST_PROPOSALS:
                raise ToolFailed(f"a run proposes at most {MOST_PROPOSALS} notes", "go on with the question")
        try:
            self.controls.propose(str(text), str(kind))
        except (ForUser, StoreFailed) as err:
            raise ToolFailed(err.text, err.hint) from err
        return "proposed: nobody is told of it before the user approves it"

    def query_batched(self, prompts: list[str]) -> list[str]:
        """Query prompts concurrently; one that the provider refuses is "[ERROR] …" at its place."""
        if not prompts:
            return []
        if not all(isinstance(prompt, str) and prompt for prompt in prompts):
            raise ToolFailed("llm_query_batched needs non-empty texts", "leave empty prompts out")
        with self._meter.batch(len(prompts)):
            return in_parallel(self._query, prompts, min(len(prompts), self.budget.limits.batch))

    def interpreter(self) -> Interpreter:
        """A sandbox one level below the code that asks for it. Raises DepthExceeded or SandboxesExceeded."""
        self.controls.subtrees.check(self.recorder.here())
        depth = _DEPTH.get() + 1
        if depth > self.budget.limits.depth:
            raise DepthExceeded(
                f"recursion depth {self.budget.limits.depth} is reached",
                "answer with llm_query or in Python instead of another RLM",
            )
        parent = _SANDBOX.get()
        self._enter(parent)
        try:
            return _RunInterpreter(self, depth, parent, self._open(depth, parent))
        except BaseException:
            self.left(parent)
            raise

    def _enter(self, parent: str) -> None:
        """Count one more sandbox below `parent`. Raises SandboxesExceeded for one too many."""
        with self._lock:
            if parent and self._siblings[parent] >= self.budget.limits.siblings:
                raise SandboxesExceeded(
                    f"{self.budget.limits.siblings} children of this sandbox are at work",
                    "wait for one, or hand all prompts to sub_rlm_batched",
                )
            self.budget.occupy()
            self._siblings[parent] += 1

    def left(self, parent: str) -> None:
        """One sandbox below `parent` is gone."""
        with self._lock:
            self._siblings[parent] -= 1
            self.budget.vacate()

    def _open(self, depth: int, parent: str) -> Interpreter:
        name = "rlm" if depth == 1 else "child"
        is_kept = not parent and not self._site.is_apart
        given = _HANDOVER.get() or _Handover()
        role = Role(
            self._site.session_id, self._site.run_id, name, depth, is_kept=is_kept, files=given.files, texts=given.texts
        )
        if not parent:
            role = replace(role, workspace=self._site.workspace, staging=self._site.staging)
        if parent:
            role = replace(role, lease=self.budget.lease(depth))
            return self._site.sandboxes.child(parent, role, self.recorder.output, self._tell)
        return self._site.sandboxes.open(role, self.recorder.output, self._tell)

    def _tell(self, fact: SandboxChanged | ArtifactWritten) -> None:
        """Put a change of a sandbox's life, or a file that a child left, into the trace."""
        handover = _HANDOVER.get()
        if handover is not None and isinstance(fact, ArtifactWritten):
            handover.written.append(fact.path)
        self.recorder.note(fact)

    def _awaited(self, work: Callable[[], _T]) -> _T:
        return unless_stopped(work, self.budget, self.controls.subtrees, self.recorder.here())

    def _child(self, prompt: str, context: Any) -> Any:
        try:
            return self.sub_rlm(prompt, context)
        except (FleetError, DSPyError, ValueError) as err:
            # The siblings' answers are paid for: one failure must not lose them.
            return {"error": ErrorText.of(explained(err)).model_dump()}

    def _query(self, prompt: str) -> str:
        try:
            reply = self.sub(prompt)
        except dspy.LMError as err:
            return f"[ERROR] {type(err).__name__}: {err}"
        text = reply[0]
        return text if isinstance(text, str) else str(text.get("text"))


class _Factory:
    """What DSPy calls for each RLM's interpreter; the one place where depth and machines are refused."""

    execution_instructions = EXECUTION_INSTRUCTIONS

    def __init__(self, recursion: Recursion) -> None:
        self._recursion = recursion

    def __call__(self) -> Interpreter:
        return self._recursion.interpreter()


class _RunInterpreter:
    """A sandbox's interpreter inside a run: knows its depth, tells of its life, gives its slot back."""

    def __init__(self, recursion: Recursion, depth: int, parent: str, inner: Interpreter) -> None:
        self._recursion = recursion
        self._depth = depth
        self._parent = parent
        self._inner = inner
        self._opening = Opening(inner, lambda: recursion.left(parent))
        self._is_open = True

    @property
    def tools(self) -> dict[str, Callable[..., Any]]:
        return self._inner.tools

    @property
    def output_fields(self) -> list[dict[str, Any]] | None:
        return self._inner.output_fields

    @output_fields.setter
    def output_fields(self, fields: list[dict[str, Any]] | None) -> None:
        self._inner.output_fields = fields

    @property
    def sandbox_id(self) -> str:
        return self._inner.sandbox_id

    def start(self) -> None:
        if self.sandbox_id:
            return
        run = self._recursion
        run.budget.check()
        self._opening.start(run.budget, run.controls.subtrees, run.recorder.here())
        run.recorder.spent()

    def execute(self, code: str, variables: dict[str, Any] | None = None) -> Any:
        self.start()
        if "llm_query_batched" in self.tools:
            # DSPy's own has 8 fixed threads and reserves nothing at the meter.
            self.tools["llm_query_batched"] = self._recursion.query_batched
        if self._recursion.budget.is_urgent:
            self._recursion.budget.check()  # a used-up budget is another matter: the answer to run was paid for
        self._recursion.controls.subtrees.check(self._recursion.recorder.here())
        depth, sandbox = _DEPTH.set(self._depth), _SANDBOX.set(self.sandbox_id)
        try:
            with self._interrupted_by_a_stop():
                return self._inner.execute(code, variables)
        finally:
            _DEPTH.reset(depth)
            _SANDBOX.reset(sandbox)

    def interrupt(self) -> None:
        self._inner.interrupt()

    def shutdown(self) -> None:
        if not self._is_open:
            return
        self._is_open = False
        if self._opening.is_left:
            return
        was_started = bool(self.sandbox_id)
        try:
            self._inner.shutdown()
        finally:
            self._recursion.left(self._parent)
            if was_started:
                self._recursion.recorder.spent()

    @contextmanager
    def _interrupted_by_a_stop(self) -> Generator[None]:
        """A stop is told until the cell is over: while inputs are on their way there is no cell to hear it."""
        is_over = threading.Event()

        def insist() -> None:
            while not is_over.is_set():
                self._inner.interrupt()
                is_over.wait(SECONDS_BETWEEN_INTERRUPTS)

        def stop() -> None:
            threading.Thread(target=insist, name="fleet-stop", daemon=True).start()

        unsubscribe = self._recursion.budget.on_stop(stop)
        try:
            with self._recursion.controls.subtrees.waiting(self._recursion.recorder.here(), stop) as check:
                try:
                    yield
                except CodeInterpreterError:
                    check()  # the sandbox ended because this part of the run was stopped
                    raise
        finally:
            is_over.set()
            unsubscribe()
