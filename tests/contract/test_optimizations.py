"""One suite for evaluation and optimization here and on a server, with a model that adds up only when told to."""

from __future__ import annotations

import json
import re
import threading
from collections import Counter
from contextlib import contextmanager
from types import SimpleNamespace

import dspy
import pytest
from jupyter_process import wait_until

from fleet_rlm_jupyter.domain.errors import BadRequest, KeyReused, NoSuchDataset, NoSuchProgram, NoSuchRun
from fleet_rlm_jupyter.domain.events import BudgetSpent, Limits, Log, PhaseStarted, ScoreReported
from fleet_rlm_jupyter.domain.program import Definition, Trial
from fleet_rlm_jupyter.testing import code

pytest_plugins = ["contract.workbenches_fixture"]

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


@pytest.fixture
def bench(bench):
    """With a program that is wrong, and rows that show it."""
    bench.programs.save("adder", dspy.Predict("question -> answer: int"))
    bench.datasets.create("sums", sums(12))
    return bench


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
        ("adder@1", "val", 0.0), ("candidate 1", "val", 1.0), ("adder@1", "test", 0.0), ("candidate 1", "test", 1.0),
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
    "the last scores": lambda prompt: "new_instruction" not in prompt and re.search(r"\b(2|5|8|11) \+ 3", prompt),
    "the candidate": lambda prompt: ADVICE in prompt and "new_instruction" not in prompt,
}


@contextmanager
def held(engine, moment):
    """The model waits at that moment until `is_free`; `late` are the prompts that came afterwards."""
    line = SimpleNamespace(is_there=threading.Event(), is_free=threading.Event(), late=[])

    def waiting(prompt):
        if line.is_free.is_set():
            line.late.append(prompt)
        if MOMENTS[moment](prompt):
            line.is_there.set()
            line.is_free.wait(30)
        return reply(prompt)

    engine._policy = waiting
    try:
        yield line
    finally:
        line.is_free.set()
        engine._policy = reply


@pytest.mark.parametrize(
    ("trial", "moment"),
    [(EVALUATE, "a row"), *((Trial(), moment) for moment in MOMENTS)],
    ids=lambda one: str(one)[:20],
)
def test_a_stop_ends_it_at_every_moment_and_keeps_nothing(bench, engine, trial, moment):
    with held(engine, moment) as line:
        run = bench.optimize("adder", "sums", trial, Limits(batch=2))
        assert line.is_there.wait(30)
        run.cancel()
        line.is_free.set()
        ended = run.result(30)
    assert (ended.status, ended.error.code) == ("cancelled", "cancelled")
    assert len(line.late) <= 1, "of two at a time the other one may have been claimed before"
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


def test_an_optimization_tells_its_phase_and_its_candidates_as_it_goes_and_what_became_of_it(bench, engine):
    with held(engine, "the proposal") as line:
        run = bench.optimize("adder", "sums", Trial(rounds=5))
        assert bench.optimizations.get(run.run_id).program == "adder@1", "known from the start"
        assert line.is_there.wait(30)
        wait_until(lambda: bench.optimizations.get(run.run_id).usage.calls == 4 + 3, 10)
        going_on = bench.optimizations.get(run.run_id)
        line.is_free.set()
        ended = run.result(60)
    assert (going_on.status, going_on.phase, going_on.best, going_on.error) == (None, "search", "adder@1", None)
    assert [(one.name, one.scores) for one in going_on.candidates] == [("adder@1", {"val": 0.0})]
    found = bench.optimizations.get(run.run_id)
    assert (found.program, found.dataset, found.trial) == ("adder@1", "sums", Trial(rounds=5))
    assert (found.status, found.phase, found.error, found.usage) == ("done", "saving", None, ended.usage)
    assert found.best == "candidate 1"
    assert [(one.name, one.version, one.scores) for one in found.candidates] == [
        ("adder@1", "adder@1", {"val": 0.0, "test": 0.0}), ("candidate 1", "adder@2", {"val": 1.0, "test": 1.0}),
    ]  # fmt: skip
    assert found.candidate().instructions == {"self": ADVICE}
    told = [event.fact.phase for event in run.trace.events if isinstance(event.fact, PhaseStarted)]
    assert told == ["baseline", "search", "test", "saving"]
    with pytest.raises(BadRequest, match="has scored no candidate 9"):
        found.candidate("candidate 9")


def test_an_optimization_has_a_result_for_every_row_page_by_page(bench):
    run = bench.optimize("adder", "sums", Trial(rounds=5))
    run.result(60)
    whole = bench.optimizations.rows(run.run_id)
    paged, cursor = [], 0
    while cursor is not None:
        page = bench.optimizations.rows(run.run_id, limit=3, cursor=cursor)
        paged, cursor = paged + page.rows, page.cursor
        assert len(page.rows) == 3 or cursor is None
    assert (paged, None) == (whole.rows, whole.cursor)
    counts = Counter((row.candidate, row.split, row.score) for row in whole.rows)
    assert counts == {
        ("adder@1", "val", 0.0): 4, ("candidate 1", "val", 1.0): 4,
        ("adder@1", "test", 0.0): 4, ("candidate 1", "test", 1.0): 4,
    }  # fmt: skip
    known = {row.row_id: row.fields["answer"] for row in bench.datasets.sample("sums", 100)}
    tested = bench.optimizations.rows(run.run_id, "candidate 1", "test").rows
    assert len({row.row_id for row in tested}) == 4
    for row in tested:
        assert row.expected == row.found == f'{{"answer": {known[row.row_id]}}}'
        said = json.loads(bench.runs.value(run.run_id, row.call_id, "outputs"))
        assert (said["answer"], said["feedback"]) == (known[row.row_id], "answer is right")


def test_a_row_that_failed_says_why_in_its_place(bench):
    rows = [{"question": f"{number} + 3{' fails' if number == 1 else ''}", "answer": number + 4} for number in range(3)]
    bench.datasets.create("some", [{**row, "split": "val"} for row in rows])
    run = bench.optimize("adder", "some", EVALUATE)
    run.result(60)
    found = bench.optimizations.rows(run.run_id, split="val").rows
    assert sorted((row.score, row.found, row.error and row.error.code) for row in found) == [
        (0.0, "", "model_failed"), (1.0, '{"answer": 4}', None), (1.0, '{"answer": 6}', None),
    ]  # fmt: skip
    assert run.tree().calls[next(row.call_id for row in found if row.error)].error is not None


def test_optimizations_are_listed_by_program_and_dataset_and_not_those_of_others(bench, worker):
    bench.programs.save("careful", Definition(signature="question -> answer: int", instructions=ADVICE))
    bench.datasets.create("more", sums(9))
    tried = [("adder", "sums"), ("careful", "sums"), ("adder", "more")]
    runs = [bench.optimize(*what, EVALUATE) for what in tried]
    for run in runs:
        run.result(60)
    ids = [run.run_id for run in runs]
    listed = bench.optimizations.list()
    assert [one.run_id for one in listed] == ids[::-1]
    assert [one.run_id for one in bench.optimizations.list("adder")] == [ids[2], ids[0]]
    assert [one.run_id for one in bench.optimizations.list("adder@1", "sums")] == [ids[0]]
    assert bench.optimizations.list("adder@2") == bench.optimizations.list("add") == []
    assert [one.run_id for one in bench.optimizations.list(limit=1, before=listed[0].started_at)] == [ids[1]]
    assert worker.bench.seen_by("somebody").optimizations.list() == []
    asked = bench.run("adder", {"question": "1 + 1"})
    asked.result(60)
    for other, run_id in ((worker.bench.seen_by("somebody"), ids[0]), (bench, asked.run_id), (bench, "r-0")):
        for verb in ("get", "rows", "save"):
            with pytest.raises(NoSuchRun):
                getattr(other.optimizations, verb)(run_id)
        with pytest.raises(NoSuchRun):
            other.optimizations.compare(run_id, run_id)


def test_optimizations_and_versions_are_compared_row_by_row(bench):
    run = bench.optimize("adder", "sums", Trial(rounds=5))
    run.result(60)
    before = {"question": "20 + 3", "answer": 24, "split": "val"}  # right for the one that is wrong
    bench.datasets.create("others", [*sums(6), before])
    evaluated = bench.optimize("adder@2", "others", EVALUATE)
    evaluated.result(60)
    for names in (("adder@1", "adder@2"), (f"{run.run_id}:adder@1", evaluated.run_id), ("adder", run.run_id)):
        found = bench.optimizations.compare(*names, limit=1)
        assert [side.name for side in found.sides] == list(names)
        assert [(side.score, side.difference) for side in found.sides] == [(0, 0), (1, 1)]
        (row,) = found.rows
        assert (row.scores, row.differences) == ([0, 1], [0, 1])
        assert row.found[0] != row.found[1] == row.expected
        assert found.cursor == 1
        last = bench.optimizations.compare(*names, cursor=found.total - 1)
        assert (len(last.rows), last.cursor) == (1, None)
    assert (found.total, [side.left_out for side in found.sides]) == (4, [0, 0])
    newest = bench.optimizations.compare("adder@1", "adder@2").sides
    assert [(side.run_id, side.left_out) for side in newest] == [(run.run_id, 2), (evaluated.run_id, 1)]
    assert newest[1].instructions == {"self": ADVICE}
    bench.optimize("adder@1", "others", EVALUATE).result(60)
    mixed = bench.optimizations.compare("adder@2", "adder@1")
    assert sorted(row.differences[1] for row in mixed.rows) == [-1, -1, 1]
    assert mixed.sides[1].difference == pytest.approx(-1 / 3)


def test_what_cannot_be_compared_is_said(bench):
    run = bench.optimize("adder", "sums", EVALUATE)
    run.result(60)
    bench.programs.save("other", dspy.Predict("question -> answer: int"))
    for names, why in (
        ([run.run_id], "two to 5"), ([run.run_id] * 6, "two to 5"),
        (["adder", "other"], "other@1 was not scored on val"),
        ([run.run_id, f"{run.run_id}:candidate 1"], "has scored no candidate 1"),
    ):  # fmt: skip
        with pytest.raises(BadRequest, match=why):
            bench.optimizations.compare(*names)
    with pytest.raises(BadRequest, match="was not scored on test"):
        bench.optimizations.compare("adder", "adder", split="test")
    bench.datasets.create("elsewhere", [{"question": "7 + 8", "answer": 15, "split": "val"}])
    other = bench.optimize("other", "elsewhere", EVALUATE)
    other.result(60)
    with pytest.raises(BadRequest, match="have no row of val in common"):
        bench.optimizations.compare("adder", other.run_id)
    assert len(bench.optimizations.compare(*["adder"] * 5).sides) == 5


def test_candidates_of_a_run_that_was_stopped_are_kept_and_can_become_a_version(bench, engine):
    with held(engine, "the last scores") as line:
        run = bench.optimize("adder", "sums", Trial(rounds=5))
        assert line.is_there.wait(30)
        run.cancel()
        line.is_free.set()
        assert run.result(60).status == "cancelled"
    assert len(bench.programs.versions("adder")) == 1
    found = bench.optimizations.get(run.run_id)
    assert (found.status, found.best, found.candidate().scores) == ("cancelled", "candidate 1", {"val": 1.0})
    made = bench.optimizations.save(run.run_id)
    assert (made.label, made.parent, made.is_approved, made.scores) == ("adder@2", 1, False, {"val": 1.0})
    assert (made.run_id, made.candidate, made.dataset) == (run.run_id, "candidate 1", "sums")
    assert bench.optimizations.save(run.run_id, "candidate 1") == made
    assert bench.optimizations.save(run.run_id, "adder@1").label == "adder@1"
    assert bench.optimizations.get(run.run_id).candidate().version == "adder@2"
    assert (answer(bench), answer(bench, "adder@2")) == ("6", "5")


def test_with_the_same_key_a_program_is_run_and_optimized_once(bench, engine):
    inputs = {"question": "2 + 3"}
    begun = [
        lambda **more: bench.run("adder", inputs, key="k 1", **more),
        lambda **more: bench.optimize("adder", "sums", EVALUATE, key="k 2", **more),
    ]
    for begin in begun:
        first = begin()
        ended = first.result(60)
        count = engine.calls
        again = begin(limits=Limits(calls=3))
        assert (again.run_id, again.result(60)) == (first.run_id, ended)
        assert list(again.trace.events) == list(first.trace.events)
        assert engine.calls == count
    other = Definition(signature="question -> answer: int", instructions="Do.")
    bench.programs.save("another", other)
    for attempt in (
        lambda: bench.run("adder", {"question": "3 + 3"}, key="k 1"), lambda: bench.run("another", inputs, key="k 1"),
        lambda: bench.run("adder", inputs, key="k 2"), lambda: bench.optimize("adder", "sums", EVALUATE, key="k 1"),
        lambda: bench.optimize("another", "sums", EVALUATE, key="k 2"),
        lambda: bench.optimize("adder", "sums", key="k 2"),
        lambda: bench.run("ask", {"question": "x", "context": "y"}, key="k 1"),
    ):  # fmt: skip
        with pytest.raises(KeyReused, match="stands for another request already"):
            attempt()


def test_a_key_is_one_of_its_session(bench):
    session_id = bench.sessions.create("s").session_id
    inputs = {"question": "2 + 3"}
    runs = [bench.run("adder", inputs, key="k", session_id=where).run_id for where in (session_id, None, session_id)]
    assert runs[0] == runs[2] != runs[1]
