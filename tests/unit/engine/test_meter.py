"""The LM boundary: what is claimed, what is spent, and that a stop is felt there."""

from __future__ import annotations

import contextvars
import threading
from concurrent.futures import ThreadPoolExecutor

import dspy
import pytest

from fleet_rlm_jupyter.domain.budget import Budget
from fleet_rlm_jupyter.domain.errors import BudgetExceeded, Cancelled, SubCallsExceeded
from fleet_rlm_jupyter.domain.events import Limits
from fleet_rlm_jupyter.engine.meter import EmptyAnswer, Meter
from fleet_rlm_jupyter.testing import ScriptedEngine, scripted_models


def metered(engine: ScriptedEngine, sub: bool = False, **limits):
    budget = Budget(Limits(**limits))
    meter = Meter(budget, lambda: None, lambda _: None)
    return meter, meter.metered(scripted_models(engine).planner, sub=sub), budget


def test_a_call_past_the_limit_is_refused_before_it_is_made():
    engine = ScriptedEngine(lambda _: "yes")
    _, lm, budget = metered(engine, calls=2)
    assert lm("a") == ["yes"]
    assert lm("b") == ["yes"]
    with pytest.raises(BudgetExceeded):
        lm("c")
    assert engine.calls == 2
    assert budget.spent().calls == 2


def test_parallel_callers_never_make_more_calls_than_allowed():
    engine = ScriptedEngine(lambda _: "yes", seconds=0.01)
    _, lm, _ = metered(engine, calls=10)

    def ask(number: int) -> bool:
        try:
            lm(f"question {number}")
        except BudgetExceeded:
            return False
        return True

    with ThreadPoolExecutor(16) as pool:
        assert sum(pool.map(ask, range(64))) == 10
    assert engine.calls == 10


def test_an_exhausted_budget_stays_exhausted_for_whoever_swallows_the_error():
    engine = ScriptedEngine(lambda _: "yes")
    _, lm, budget = metered(engine, calls=1)
    lm("a")
    for _ in range(3):
        with pytest.raises(BudgetExceeded):
            lm("again")
    assert isinstance(budget.stopped, BudgetExceeded)


def test_several_completions_of_one_request_cost_several_calls():
    engine = ScriptedEngine(lambda _: "yes")
    _, lm, budget = metered(engine, calls=3)
    lm("a", n=3)
    assert budget.spent().calls == 3


def test_a_batch_is_claimed_at_once_and_drawn_by_its_threads():
    engine = ScriptedEngine(lambda _: "yes")
    meter, lm, budget = metered(engine, sub=True, calls=10, sub_calls=5)
    with meter.batch(4):
        assert budget.free_calls() == (6, 1)
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda ctx: ctx.run(lm, "a"), [contextvars.copy_context() for _ in range(3)]))
        assert budget.free_calls() == (6, 1)
    assert budget.free_calls() == (7, 2), "the call that was not made is free again"
    with pytest.raises(SubCallsExceeded), meter.batch(3):
        pass
    assert lm("still allowed") == ["yes"], "running out of sub-calls does not end the run"


def test_a_cancel_is_felt_by_a_caller_whose_request_is_under_way():
    release, asked = threading.Event(), threading.Event()

    def slow(_: str) -> str:
        asked.set()
        release.wait(10)
        return "too late"

    _, lm, budget = metered(ScriptedEngine(slow))
    outcome: list[BaseException] = []

    def ask() -> None:
        try:
            lm("a")
        except Cancelled as err:
            outcome.append(err)

    caller = threading.Thread(target=ask)
    caller.start()
    assert asked.wait(10)
    budget.cancel()
    caller.join(1)
    release.set()
    assert not caller.is_alive()
    assert outcome
    assert budget.spent().calls == 1, "a request that was sent is paid for"


def test_after_a_cancel_no_call_starts():
    engine = ScriptedEngine(lambda _: "yes")
    _, lm, budget = metered(engine)
    budget.cancel()
    with pytest.raises(Cancelled):
        lm("a")
    assert engine.calls == 0


def test_tokens_are_what_the_provider_said_and_unknown_where_it_did_not():
    _, lm, budget = metered(ScriptedEngine(lambda _: "yes", usage=(70, 7)))
    lm("a")
    lm("b")
    assert budget.spent().tokens == 154
    _, silent, unknown = metered(ScriptedEngine(lambda _: "yes"))
    silent("a")
    assert unknown.spent().tokens is None
    assert unknown.spent().cost is None


def test_a_token_limit_stops_the_next_call():
    engine = ScriptedEngine(lambda _: "yes", usage=(70, 30))
    _, lm, _ = metered(engine, tokens=250)
    lm("a")
    lm("b")
    with pytest.raises(BudgetExceeded, match="tokens"):
        lm("c" * 1000)
    assert engine.calls == 2


def test_an_empty_answer_is_a_failure_not_an_answer():
    _, lm, _ = metered(ScriptedEngine(lambda _: ""))
    with pytest.raises(EmptyAnswer):
        lm("a")


def test_a_metered_model_keeps_no_history():
    _, lm, _ = metered(ScriptedEngine(lambda _: "yes"))
    before = len(dspy.clients.base_lm.GLOBAL_HISTORY)
    lm("a")
    assert lm.history == []
    assert len(dspy.clients.base_lm.GLOBAL_HISTORY) == before
