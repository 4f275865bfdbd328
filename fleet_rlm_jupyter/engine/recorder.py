"""From DSPy's callbacks to facts of a run."""

from __future__ import annotations

import hashlib
import threading
import time
import uuid
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import dspy
from dspy.primitives.code_interpreter import CodeExecutionError, CodeInterpreterError, FinalOutput
from dspy.utils.callback import ACTIVE_CALL_ID, BaseCallback

from fleet_rlm_jupyter.domain.budget import Budget
from fleet_rlm_jupyter.domain.errors import ErrorText, SandboxCodeFailed, SandboxError
from fleet_rlm_jupyter.domain.events import (
    CallEnded,
    CallKind,
    CallStarted,
    CallText,
    Channel,
    CodeResult,
    Event,
    Fact,
    Usage,
)
from fleet_rlm_jupyter.domain.previews import preview, whole
from fleet_rlm_jupyter.engine.controls import Controls
from fleet_rlm_jupyter.engine.meter import current_bill, usage_of

Emit = Callable[[Fact, str | None], Event | None]
"""Takes a fact and the id of the call it is about (None: the run itself)."""

PIECE_SECONDS = 0.05
"""How often the pieces of a streamed answer become an event."""

LIVE_TEXT_CHARS = 64_000
"""Most characters of one call's live text; the whole output is in its result."""

_ACTIVE: Any = ACTIVE_CALL_ID  # declared without its type
_RLM: Any = dspy.RLM  # DSPy marks it experimental with a decorator that hides from type checkers that it is a class

_INNER_TOOLS = {"llm_query", "sub_rlm"}
"""Tools that make exactly one call of their own: showing both would say everything twice."""


@dataclass(slots=True)
class _Place:
    """Where a DSPy call stands in our tree: the nearest recorded call, its depth, and a planner step's number."""

    call_id: str | None
    depth: int
    iteration: str | None = None
    last_lm: str | None = None


class Recorder(BaseCallback):
    """Writes a run's calls into its trace. DSPy calls it in the thread that works; limits never live here."""

    def __init__(self, emit: Emit, budget: Budget, controls: Controls | None = None) -> None:
        self._emit = emit
        self._budget = budget
        self._controls = controls or Controls()
        self._lock = threading.Lock()
        self._places: dict[str, _Place] = {}
        self._open: dict[str, None] = {}
        self._shown: dict[str, int] = {}
        self._pieces: dict[str, tuple[str, float]] = {}

    # --- what the engine tells -------------------------------------------------------------------------------------

    def output(self, channel: Channel, text: str) -> None:
        """Live text of the cell whose context this is."""
        call_id = self.here()
        if call_id is not None:
            self._append(call_id, channel, text)

    def answer(self, text: str) -> None:
        """A piece of the answer of the LM call whose context this is; pieces are put together to 20 events a second."""
        call_id = self.here()
        if call_id is None:
            return
        with self._lock:
            held, since = self._pieces.get(call_id, ("", 0.0))
            now = time.monotonic()
            is_due = now - since >= PIECE_SECONDS
            self._pieces[call_id] = ("", now) if is_due else (held + text, since)
        if is_due:
            self._append(call_id, "answer", held + text)

    def note(self, fact: Fact, call_id: str | None = None) -> None:
        """A fact about that call, by default the one whose context this is."""
        self._emit(fact, call_id or self.here())

    @contextmanager
    def part(self, name: str, inputs: dict[str, Any]) -> Generator[Callable[[object], None]]:
        """A call of ours: what is called inside is below it. What is handed to the function it gives is its outcome."""
        call_id, parent = uuid.uuid4().hex, self._parent()
        self._start(call_id, parent, "tool", name, parent.depth, inputs)
        token = _ACTIVE.set(call_id)
        outcome: list[object] = []
        try:
            yield outcome.append
        except BaseException as err:
            self._end(call_id, "", err)
            raise
        else:
            self._end(call_id, outcome[-1] if outcome else "", None)
        finally:
            _ACTIVE.reset(token)

    def here(self) -> str | None:
        """The recorded call whose context this is."""
        return self._parent().call_id

    def spent(self) -> None:
        self._emit(self._budget.spent(), None)

    def close(self, error: ErrorText | None) -> None:
        """End every call that is still open, children first: a run that stops leaves no call hanging."""
        with self._lock:
            left = list(reversed(self._open))
            self._open.clear()
        why = error or ErrorText(code="cancelled", text="the run ended before this call")
        for call_id in left:
            self._emit(CallEnded(error=why), call_id)

    # --- what DSPy tells -------------------------------------------------------------------------------------------

    def on_module_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        parent = self._parent()
        given = inputs.get("kwargs") or {}
        if isinstance(instance, _RLM):
            shown = {name: value for name, value in given.items() if name != "interpreter_factory"}
            self._start(call_id, parent, "rlm", _name_of(instance), parent.depth + 1, shown)
            return
        iteration = given.get("iteration")
        step = iteration if isinstance(iteration, str) else parent.iteration
        self._places[call_id] = _Place(parent.call_id, parent.depth, step)

    def on_module_end(self, call_id: str, outputs: Any | None, exception: BaseException | None = None) -> None:
        place = self._places.get(call_id)
        if place is None:
            return
        if place.call_id == call_id:
            fields = outputs.toDict() if isinstance(outputs, dspy.Prediction) else {}
            shown = {name: value for name, value in fields.items() if name not in ("trajectory", "final_reasoning")}
            self._end(call_id, shown.get("answer", shown) if shown else "", exception)
        elif place.last_lm and isinstance(outputs, dspy.Prediction) and "reasoning" in outputs:
            self._emit(CallText(channel="thought", text=preview(outputs.reasoning)), place.last_lm)

    def on_lm_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        parent = self._parent()
        parent.last_lm = call_id
        asked = inputs.get("prompt") or inputs.get("messages") or ""
        name = f"{instance.model}" + (f" step {parent.iteration}" if parent.iteration else "")
        self._start(call_id, parent, "lm", name, parent.depth, {"prompt": asked}, parent.iteration)

    def on_lm_end(self, call_id: str, outputs: Any | None, exception: BaseException | None = None) -> None:
        with self._lock:
            held, _ = self._pieces.pop(call_id, ("", 0.0))
        if held:
            self._append(call_id, "answer", held)
        text = outputs[0] if isinstance(outputs, list) and outputs else outputs
        if isinstance(text, dict):
            text = text.get("text")
        self._end(call_id, text or "", exception, usage_of(current_bill()))

    def on_interpreter_execute_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        parent = self._parent()
        if "__dspy_host_token" in (inputs.get("variables") or {}):
            # DSPy asking whether the sandbox hosts its facade is no step of the run.
            self._places[call_id] = _Place(parent.call_id, parent.depth)
            return
        self._start(call_id, parent, "code", "python", parent.depth, {"code": inputs.get("code", "")})

    def on_interpreter_execute_end(
        self, call_id: str, outputs: Any | None, exception: BaseException | None = None
    ) -> None:
        final = getattr(outputs, "output", None)
        shown = "" if outputs is None else f"SUBMIT {preview(final)}" if final else outputs
        self._end(call_id, shown, exception, result=_result_of(outputs, exception))

    def on_interpreter_tool_call_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        parent = self._parent()
        name = str(inputs.get("tool_name") or inputs.get("name") or "tool")
        if name in _INNER_TOOLS:
            self._places[call_id] = _Place(parent.call_id, parent.depth)
            return
        self._start(call_id, parent, "tool", name, parent.depth, _tool_inputs(inputs))

    def on_interpreter_tool_call_end(
        self, call_id: str, outputs: Any | None, exception: BaseException | None = None
    ) -> None:
        self._end(call_id, "" if outputs is None else outputs, exception)

    def on_tool_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        # RLM's tools are DSPy tools inside an interpreter's tool call, which is recorded already.
        parent = self._parent()
        self._places[call_id] = _Place(parent.call_id, parent.depth)

    # --- inside ----------------------------------------------------------------------------------------------------

    def _append(self, call_id: str, channel: Channel, text: str) -> None:
        with self._lock:
            shown = self._shown.get(call_id, 0)
            self._shown[call_id] = shown + len(text)
        room = LIVE_TEXT_CHARS - shown
        if room > 0:
            more = "" if len(text) <= room else "\n… more output, see the result\n"
            self._emit(CallText(channel=channel, text=text[:room] + more), call_id)

    def _parent(self) -> _Place:
        return self._places.get(ACTIVE_CALL_ID.get() or "") or _Place(None, 0)

    def _start(
        self,
        call_id: str,
        parent: _Place,
        kind: CallKind,
        name: str,
        depth: int,
        inputs: dict[str, Any],
        iteration: str | None = None,
    ) -> None:
        with self._lock:
            self._places[call_id] = _Place(call_id, depth)
            self._open[call_id] = None
        self._controls.subtrees.begun(call_id, parent.call_id, is_lm=kind == "lm")
        shown = {key: self._preview(call_id, key, value) for key, value in inputs.items()}
        fact = CallStarted(
            parent_id=parent.call_id,
            kind=kind,
            name=name,
            depth=depth,
            inputs=shown,
            iteration=iteration,
            code_sha256=_digest(inputs["code"]) if kind == "code" else "",
        )
        self._emit(fact, call_id)

    def _end(
        self,
        call_id: str,
        outputs: object,
        exception: BaseException | None,
        usage: Usage | None = None,
        result: CodeResult = "",
    ) -> None:
        with self._lock:
            if call_id not in self._open:
                return
            del self._open[call_id]
        shown = self._preview(call_id, "outputs", outputs)
        error = _explained(exception, result)
        self._emit(CallEnded(outputs=shown, error=error, usage=usage, result=result), call_id)

    def _preview(self, call_id: str, name: str, value: object) -> str:
        """What an event shows of `value`; all of it is kept where that is less."""
        messages = _messages(value)
        shown = preview(messages[-1] if messages else value)
        full = whole("\n\n".join(messages) if messages else value)
        if full != shown:
            self._controls.keep_value(call_id, name, full)
        return shown


def _digest(code: object) -> str:
    """What tells one cell's code from another's, wherever its preview is cut."""
    return hashlib.sha256(str(code).encode(errors="surrogatepass")).hexdigest()[:16]


def _result_of(outputs: object, exception: BaseException | None) -> CodeResult:
    if exception is not None:
        return "exception" if isinstance(exception, CodeExecutionError | SyntaxError) else ""
    if isinstance(outputs, FinalOutput):
        return "final"
    return "nothing" if outputs is None else "output"


def _explained(exception: BaseException | None, result: CodeResult) -> ErrorText | None:
    """An error as one of ours, which has a code, a phase and the next step: an interpreter's are DSPy's."""
    if exception is None:
        return None
    if result == "exception":
        hint = "the model reads it and goes on"
        return ErrorText(code=SandboxCodeFailed.code, text=str(exception), hint=hint, phase="execute")
    if isinstance(exception, CodeInterpreterError) and isinstance(exception.__cause__, SandboxError):
        return ErrorText.of(exception.__cause__)
    return ErrorText.of(exception)


def _name_of(rlm: Any) -> str:
    return f"{', '.join(rlm.signature.input_fields)} -> {', '.join(rlm.signature.output_fields)}"


def _messages(value: object) -> list[str]:
    """The texts of what is sent to a model; nothing for any other value."""
    if isinstance(value, list) and value and all(isinstance(item, dict) and "content" in item for item in value):
        return [str(item["content"]) for item in value]
    return []


def _tool_inputs(inputs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a tool call, however the interpreter hands them on."""
    shown: dict[str, Any] = {}
    for name, value in inputs.items():
        if name in ("tool_name", "name"):
            continue
        if isinstance(value, dict):
            shown.update({str(key): item for key, item in value.items()})
        elif isinstance(value, list | tuple):
            shown.update({str(index): item for index, item in enumerate(value)})
    return shown
