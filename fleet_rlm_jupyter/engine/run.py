"""One execution of one program: one trace, exactly one end."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any, Protocol

import dspy
from pydantic import JsonValue, TypeAdapter
from pydantic_core import to_jsonable_python

from fleet_rlm_jupyter.domain.budget import Budget
from fleet_rlm_jupyter.domain.errors import Cancelled, EndsRun, ErrorText, Interrupted
from fleet_rlm_jupyter.domain.events import RunEnded, RunStarted, RunStatus
from fleet_rlm_jupyter.engine.failures import explained
from fleet_rlm_jupyter.engine.recorder import Emit
from fleet_rlm_jupyter.engine.recursion import Recursion


class Program(Protocol):
    """Something that can be run. `bind` builds what one run needs; the call does the work with it."""

    def bind(self, budget: Budget, emit: Emit) -> Recursion: ...
    def started(self, inputs: dict[str, Any], budget: Budget) -> RunStarted: ...
    def __call__(self, recursion: Recursion, inputs: dict[str, Any]) -> dspy.Prediction: ...


_JSON: TypeAdapter[JsonValue] = TypeAdapter(JsonValue)


def execute(program: Program, inputs: dict[str, Any], budget: Budget, emit: Emit) -> RunEnded:
    """Run `program` over `inputs` in this thread, from `run.started` to its one `run.ended`, which is also returned.

    Never raises an Exception. Whatever DSPy does inside spends from `budget`, whose clock runs since it was made.
    """
    recursion = program.bind(budget, emit)
    timer = threading.Timer(max(0.0, budget.seconds_left), budget.expire)
    timer.daemon = True
    timer.start()
    found = _Found()
    failure: Exception | None = None
    try:
        emit(program.started(inputs, budget), None)
        with _dspy_for(recursion):
            found = _found(program(recursion, inputs))
    except KeyboardInterrupt:
        budget.cancel()
    except Exception as err:
        failure = err
    finally:
        timer.cancel()
    end = _end(found, failure, budget.stopped)
    recursion.recorder.close(end.error)
    recursion.recorder.spent()
    emit(end, None)
    return end


def _dspy_for(recursion: Recursion) -> Any:
    # `configure` works from the first thread only; a trace kept in settings would grow as long as the process lives.
    return dspy.context(
        lm=recursion.planner,
        interpreter_factory=recursion.factory,
        callbacks=[recursion.recorder],
        trace=None,
        track_usage=False,
        disable_history=False,  # the metered LM reads its bill from the entry and keeps none
        max_history_size=0,
    )


@dataclass(frozen=True, slots=True)
class _Found:
    """What a program has to say: its answer, and its further fields."""

    answer: str | None = None
    outputs: dict[str, JsonValue] = field(default_factory=dict[str, JsonValue])


def _found(prediction: dspy.Prediction) -> _Found:
    fields = {name: value for name, value in prediction.items() if name not in ("trajectory", "final_reasoning")}
    answer = fields.pop("answer", None)
    outputs = {name: _JSON.validate_python(to_jsonable_python(value)) for name, value in fields.items()}
    return _Found(None if answer is None else str(answer), outputs)


def _end(found: _Found, failure: Exception | None, stopped: EndsRun | None) -> RunEnded:
    said: dict[str, Any] = {"answer": found.answer, "outputs": found.outputs}
    if stopped is not None:
        return RunEnded(status=_status_of(stopped), error=ErrorText.of(stopped), **said)
    if failure is not None:
        return RunEnded(status="failed", error=ErrorText.of(explained(failure)))
    return RunEnded(status="abstained" if found.outputs.get("recipe") == "" else "done", **said)


def _status_of(stopped: EndsRun) -> RunStatus:
    if isinstance(stopped, Cancelled):
        return "cancelled"
    return "failed" if isinstance(stopped, Interrupted) else "over_budget"
