"""One execution: whatever a program does, there is one end, and it says what happened."""

from __future__ import annotations

from typing import Any

import dspy
import pytest

from fleet_rlm_jupyter.domain.budget import Budget
from fleet_rlm_jupyter.domain.events import Limits, RunStarted
from fleet_rlm_jupyter.engine.recursion import Recursion
from fleet_rlm_jupyter.engine.run import execute
from fleet_rlm_jupyter.engine.site import Site
from fleet_rlm_jupyter.engine.trace import Trace
from fleet_rlm_jupyter.testing import ScriptedEngine, UnisolatedSandboxes, scripted_models


class Plain:
    """A program that is a function of its recursion."""

    def __init__(self, work: Any, is_startable: bool = True) -> None:
        self._work = work
        self._is_startable = is_startable

    def bind(self, budget: Budget, emit: Any) -> Recursion:
        engine = ScriptedEngine(lambda _: "yes")
        return Recursion(Site("s", "r", scripted_models(engine), UnisolatedSandboxes()), budget, emit)

    def started(self, inputs: dict[str, Any], budget: Budget) -> RunStarted:
        if not self._is_startable:
            raise OSError("nothing can be started")
        return RunStarted(program="plain", message="?", model="m", limits=budget.limits, isolation="none")

    def __call__(self, recursion: Recursion, inputs: dict[str, Any]) -> dspy.Prediction:
        return self._work(recursion, **inputs)


def run(work, is_startable=True, **limits):
    trace, budget = Trace("r", "s"), Budget(Limits(**limits))
    end = execute(Plain(work, is_startable), {}, budget, trace.append)
    events = trace.events
    assert [event.seq for event in events] == list(range(len(events)))
    assert [event.fact.type for event in events].count("run.ended") == 1
    assert events[-1].fact == end
    return end, trace


def test_an_answer_and_the_further_fields_are_kept():
    end, trace = run(lambda _: dspy.Prediction(answer=42, names={"b"}, trajectory=["not this"]))
    assert (end.status, end.answer, end.outputs) == ("done", "42", {"names": ["b"]})
    assert trace.events[0].fact.type == "run.started"


def test_an_error_of_the_program_is_the_end_and_not_an_exception():
    end, _ = run(lambda _: 1 / 0)
    assert end.status == "failed"
    assert end.error is not None
    assert end.error.code == "internal"
    assert "ZeroDivisionError" in end.error.text


def test_an_output_that_cannot_be_written_down_is_a_failure_too():
    end, _ = run(lambda _: dspy.Prediction(answer="x", thing=object()))
    assert end.status == "failed"


def test_a_program_that_cannot_be_started_ends_too():
    end, _ = run(lambda _: dspy.Prediction(answer="x"), is_startable=False)
    assert end.status == "failed"


def test_an_interrupt_is_a_cancel():
    def interrupted(_):
        raise KeyboardInterrupt

    end, _ = run(interrupted)
    assert end.status == "cancelled"


@pytest.mark.parametrize(("recipe", "status"), [("", "abstained"), ("count", "done")])
def test_a_recipe_that_understood_nothing_abstains(recipe, status):
    assert run(lambda _: dspy.Prediction(answer="?", recipe=recipe))[0].status == status


def test_calls_that_are_open_when_the_run_ends_are_ended_before_it():
    def stops_in_a_call(recursion):
        recursion.budget.cancel()
        recursion.planner("one more?")

    end, trace = run(stops_in_a_call)
    assert end.status == "cancelled"
    started = {event.call_id for event in trace.events if event.fact.type == "call.started"}
    ended = {event.call_id for event in trace.events if event.fact.type == "call.ended"}
    assert started == ended


def test_an_answer_given_although_the_budget_was_used_up_is_kept_but_not_called_done():
    def greedy(recursion):
        for _ in range(3):
            try:
                recursion.planner("more")
            except Exception:
                break
        return dspy.Prediction(answer="partly")

    end, _ = run(greedy, calls=1)
    assert (end.status, end.answer) == ("over_budget", "partly")


def test_the_deadline_ends_a_program_that_waits_for_the_model():
    end, _ = run(lambda recursion: [recursion.planner("again") for _ in range(100_000)], seconds=0.2, calls=1_000_000)
    assert end.status == "over_budget"
    assert end.error is not None
    assert end.error.code == "deadline"
