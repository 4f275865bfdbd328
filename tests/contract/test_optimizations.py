"""One suite for evaluation and optimization here and on a server, with a model that adds up only when told to."""

from __future__ import annotations

import re
import threading

import dspy
import pytest
from worker_thread import WorkerThread

from fleet_rlm_jupyter.domain.errors import BadRequest, NoSuchDataset, NoSuchProgram
from fleet_rlm_jupyter.domain.events import BudgetSpent, Limits, Log, ScoreReported
from fleet_rlm_jupyter.domain.program import Definition, Trial
from fleet_rlm_jupyter.remote import RemoteWorkbench
from fleet_rlm_jupyter.testing import ScriptedEngine, code, scripted_workbench

EVALUATE = Trial(optimizer="none")
SPLITS = ("train", "val", "test")
ADVICE = "Add up carefully."


def reply(prompt):
    """It is wrong by one unless its prompt says `carefully`; asked for better instructions it has that idea."""
    if "new_instruction" in prompt:
        return f'{{"new_instruction": "{ADVICE}"}}'
    asked = re.findall(r"(\d+) \+ (\d+)", prompt)[-1]
    if "fails" in prompt:
        return "no form at all"
    total = sum(map(int, asked)) + (0 if "carefully" in prompt else 1)
    if "SUBMIT" in prompt:
        return code(f"SUBMIT(answer={total})")
    return f"[[ ## answer ## ]]\n{total}\n\n[[ ## completed ## ]]"


@pytest.fixture(scope="module")
def engine():
    return ScriptedEngine(reply)


@pytest.fixture(scope="module")
def worker(engine):
    thread = WorkerThread(scripted_workbench(engine))
    yield thread
    thread.close()


@pytest.fixture(params=["here", "remote"])
def bench(request, worker):
    user = f"{request.param} {request.node.name}"
    made = worker.bench.seen_by(user)
    if request.param == "remote":
        made = RemoteWorkbench(worker.url, headers=worker.headers(user))
    made.programs.save("adder", dspy.Predict("question -> answer: int"))
    made.datasets.create("sums", sums(12))
    return made


def sums(count, **more):
    return [
        {"question": f"{number} + 3", "answer": number + 3, "split": SPLITS[number % 3], **more}
        for number in range(count)
    ]


def scores(run):
    return [event.fact for event in run.trace.events if isinstance(event.fact, ScoreReported)]


def answer(bench, name="adder"):
    return bench.run(name, {"question": "2 + 3"}).result(60).answer


def test_a_program_is_scored_on_a_split_row_by_row(bench):
    bench.programs.save("careful", Definition(signature="question -> answer: int", instructions=ADVICE))
    for name, score in (("adder", 0.0), ("careful", 1.0)):
        run = bench.optimize(name, "sums", EVALUATE)
        ended = run.result(60)
        assert (ended.status, ended.program, ended.sandbox) == ("done", f"{name}@1", "none: no code runs")
        assert ended.outputs["scores"] == {f"{name}@1": {"val": score}}
        assert (ended.outputs["rows"], ended.outputs["errors"], ended.usage.calls) == (4, 0, 4)
        assert [(fact.candidate, fact.split, fact.score) for fact in scores(run)] == [(f"{name}@1", "val", score)]
        rows = run.tree().roots
        assert [(call.kind, call.name[:4], len(call.children)) for call in rows] == [("tool", "row ", 1)] * 4
        assert all(f'"score": {score}' in call.outputs for call in rows), rows[0].outputs
    assert bench.runs.get(run.run_id).question == "evaluate careful@1 on sums"


def test_rows_that_fail_are_kept_in_their_place_and_count_as_wrong(bench):
    rows = [{"question": f"{number} + 3{' fails' if number == 1 else ''}", "answer": number + 4} for number in range(3)]
    bench.datasets.create("some", [{**row, "split": "val"} for row in [*rows, {"question": "no answer"}]])
    run = bench.optimize("adder", "some", EVALUATE)
    ended = run.result(60)
    assert ended.outputs["scores"] == {"adder@1": {"val": pytest.approx(2 / 3)}}
    assert (ended.outputs["rows"], ended.outputs["errors"]) == (3, 1)
    assert "3 rows, of which 1 failed" in ended.answer
    assert [call.error.text for call in run.tree().roots if call.error]
    told = [event.fact.text for event in run.trace.events if isinstance(event.fact, Log)]
    assert told == ["1 rows of some lack fields of the program and are left out"]


def test_where_every_row_fails_the_run_has_failed(bench):
    bench.datasets.create(
        "bad", [{"question": f"{number} + 1 fails", "answer": 1, "split": "val"} for number in range(3)]
    )
    for trial in (EVALUATE, Trial()):
        if trial.optimizer == "gepa":
            bench.datasets.create("worse", [
                {"question": f"{number} + 1 fails", "answer": 1, "split": SPLITS[number % 2]} for number in range(6)
            ])  # fmt: skip
        ended = bench.optimize("adder", "bad" if trial is EVALUATE else "worse", trial).result(60)
        assert (ended.status, ended.error.code) == ("failed", "model_failed")


def test_better_instructions_are_found_and_change_what_runs_only_when_they_are_approved(bench):
    run = bench.optimize("adder", "sums", Trial(rounds=5))
    ended = run.result(60)
    assert (ended.status, ended.outputs["program"]) == ("done", "adder@2")
    assert ended.outputs["scores"] == {"adder@1": {"val": 0, "test": 0}, "adder@2": {"val": 1, "test": 1}}
    assert ended.outputs["instructions"] == {"self": ADVICE}
    assert [(fact.candidate, fact.split, fact.score) for fact in scores(run)] == [
        ("adder@1", "val", 0.0), ("candidate 1", "val", 1.0), ("adder@1", "test", 0.0), ("best candidate", "test", 1.0),
    ]  # fmt: skip
    made = bench.programs.get("adder@2")
    assert (made.parent, made.is_approved, made.scores) == (1, False, {"val": 1.0, "test": 1.0})
    assert (made.dataset, made.run_id) == ("sums", run.run_id)
    assert answer(bench) == "6"
    assert answer(bench, "adder@2") == "5"
    bench.programs.approve("adder", 2)
    assert answer(bench) == "5"
    bench.programs.approve("adder", 1)
    assert answer(bench) == "6"


def test_rows_held_out_are_seen_once_and_only_at_the_end(bench):
    run = bench.optimize("adder", "sums", Trial(rounds=5))
    run.result(60)
    names = [call.name.split(" of ")[-1] for call in run.tree().roots if call.name.startswith("row")]
    assert names.count("test") == 8, "four rows, before and after"
    assert names[-8:] == ["test"] * 8
    proposals = [call for call in run.tree().calls.values() if "new_instruction" in call.inputs.get("prompt", "")]
    assert proposals
    shown = "".join(bench.runs.value(run.run_id, call.id, "prompt") for call in proposals)
    assert re.search(r"\d \+ 3", shown)
    assert not re.search(r"\b(2|5|8|11) \+ 3", shown)


def test_the_same_seed_finds_the_same_in_the_same_steps(bench):
    runs = [bench.optimize("adder@1", "sums", Trial(seed=7)) for _ in range(2)]
    ended = [run.result(60) for run in runs]
    assert len({one.usage.calls for one in ended}) == 1
    assert scores(runs[0]) == scores(runs[1])


def test_where_nothing_is_better_nothing_is_kept(bench):
    bench.programs.save("careful", Definition(signature="question -> answer: int", instructions=ADVICE))
    run = bench.optimize("careful", "sums")
    ended = run.result(60)
    assert (ended.status, ended.outputs["program"]) == ("done", "")
    assert ended.usage.calls == 4, "a perfect score ends the search"
    assert [info.version for info in bench.programs.versions("careful")] == [1]
    assert [fact.split for fact in scores(run)] == ["val"]


def test_an_rlm_learns_its_task_and_keeps_the_protocol_of_the_repl(bench):
    bench.programs.save("reader", dspy.RLM("question -> answer: int"))
    ended = bench.optimize("reader", "sums", Trial(rounds=3), Limits(calls=200, sandboxes=4)).result(60)
    assert (ended.status, ended.outputs["program"]) == ("done", "reader@2")
    told = bench.programs.definition("reader@2").state["generate_action"]["signature"]["instructions"]
    assert told.startswith(ADVICE)
    assert "SUBMIT(answer)" in told
    assert answer(bench, "reader@2") == "5"


def test_the_budget_is_never_exceeded_and_what_was_found_with_it_is_kept(bench):
    bench.datasets.create("many", sums(60))
    for calls in (1, 19, 20, 25, 40, 200):
        run = bench.optimize("adder@1", "many", Trial(rounds=5), Limits(calls=calls, batch=16))
        ended = run.result(60)
        spent = [event.fact.calls for event in run.trace.events if isinstance(event.fact, BudgetSpent)]
        assert max(spent) <= calls
        assert (ended.status == "over_budget") == (calls < 20)
    assert bench.programs.versions("adder")[0].scores == {"val": 1.0, "test": 1.0}


def test_a_budget_too_small_for_a_round_says_so(bench):
    run = bench.optimize("adder", "sums", limits=Limits(calls=10))
    ended = run.result(60)
    assert (ended.status, ended.usage.calls) == ("done", 4)
    told = [event.fact.text for event in run.trace.events if isinstance(event.fact, Log)]
    assert told == ["the search ended after 0 rounds: 6 LM calls are left, one more round could need 20"]


MOMENTS = {
    "a row": lambda prompt: True,
    "the proposal": lambda prompt: "new_instruction" in prompt,
    "the candidate": lambda prompt: ADVICE in prompt and "new_instruction" not in prompt,
}


@pytest.mark.parametrize(
    ("trial", "moment"),
    [(EVALUATE, "a row"), *((Trial(), moment) for moment in MOMENTS)],
    ids=lambda one: str(one)[:20],
)
def test_a_stop_ends_it_at_every_moment_and_keeps_nothing(bench, engine, trial, moment):
    is_there, is_stopped, late = threading.Event(), threading.Event(), []

    def held(prompt):
        if is_stopped.is_set():
            late.append(prompt)
        if MOMENTS[moment](prompt):
            is_there.set()
            is_stopped.wait(30)
        return reply(prompt)

    engine._policy = held
    try:
        run = bench.optimize("adder", "sums", trial, Limits(batch=2))
        assert is_there.wait(30)
        run.cancel()
        is_stopped.set()
        ended = run.result(30)
    finally:
        engine._policy = reply
    assert (ended.status, ended.error.code) == ("cancelled", "cancelled")
    assert len(late) <= 1, "of two at a time the other one may have been claimed before"
    assert len(bench.programs.versions("adder")) == 1


def test_what_was_found_is_kept_when_the_budget_ends_in_the_middle(bench):
    rows = [{"question": f"{number} + 3", "answer": number + 3} for number in range(100)]
    splits = [*["train"] * 3, *["val"] * 2, *["test"] * 95]
    bench.datasets.create("long", [{**row, "split": split} for row, split in zip(rows, splits, strict=True)])
    run = bench.optimize("adder", "long", limits=Limits(calls=500, tokens=9_000, batch=4))
    ended = run.result(60)
    assert (ended.status, ended.error.code) == ("over_budget", "budget_exceeded")
    assert ended.outputs["scores"] == {"adder@1": {"val": 0}, "adder@2": {"val": 1}}
    assert bench.programs.get("adder@2").scores == {"val": 1.0}


def test_the_deadline_holds(bench, engine):
    engine._seconds = 0.3
    try:
        ended = bench.optimize("adder", "sums", limits=Limits(seconds=0.1)).result(30)
    finally:
        engine._seconds = 0
    assert (ended.status, ended.error.code) == ("over_budget", "deadline")


def test_what_cannot_be_tried_is_said_before_any_work(bench):
    with pytest.raises(NoSuchProgram):
        bench.optimize("nope", "sums")
    with pytest.raises(NoSuchDataset):
        bench.optimize("adder", "nope")
    with pytest.raises(BadRequest, match="comes with the package"):
        bench.optimize("ask", "sums")
    bench.datasets.create("other", [{"q": 1, "split": "val"}])
    bench.datasets.create("half", [{"question": "1 + 1", "answer": 2, "split": "val"}])
    with pytest.raises(BadRequest, match="no rows for val that adder@1"):
        bench.optimize("adder", "other", EVALUATE)
    with pytest.raises(BadRequest, match="no rows for train"):
        bench.optimize("adder", "half")
