"""The Workbench's verbs: sessions and their memory, keys, owners, parts of a run stopped, questions asked back."""

from __future__ import annotations

import hashlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import dspy
import pytest

from fleet_rlm_jupyter.domain.errors import (
    BadRequest,
    BadSettings,
    KeyReused,
    NoSuchRun,
    NoSuchSession,
    SessionBusy,
)
from fleet_rlm_jupyter.domain.events import Limits, QuestionAsked
from fleet_rlm_jupyter.settings import Settings
from fleet_rlm_jupyter.testing import ScriptedEngine, UnisolatedSandboxes, code, scripted_models
from fleet_rlm_jupyter.verbs.settings_view import CHANGED
from fleet_rlm_jupyter.workbench import Question, Workbench

ANSWER = "[[ ## answer ## ]]\n42\n\n[[ ## completed ## ]]"
FIRST = "iteration ## ]]\n1/"


@pytest.fixture
def make(tmp_path):
    made = []

    def workbench(script=lambda prompt: ANSWER, **limits) -> Workbench:
        settings = Settings.model_validate(
            {"budget": Limits(**limits), "store": {"url": f"sqlite:///{tmp_path}/fleet.db"}}
        )
        engine = script if isinstance(script, ScriptedEngine) else ScriptedEngine(script)
        made.append(Workbench(settings, UnisolatedSandboxes(), scripted_models(engine)))
        return made[-1]

    yield workbench
    for bench in made:
        bench.close()


def first_of(live, kind, where=lambda event: True):
    """Its first event of that kind."""
    return next(event for event in live.trace.follow(timeout=30) if event.fact.type == kind and where(event))


class Gate:
    """A script that answers when it is let."""

    def __init__(self) -> None:
        self.is_open = threading.Event()
        self.prompts: list[str] = []

    def __call__(self, prompt: str) -> str:
        self.prompts.append(prompt)
        self.is_open.wait(30)
        return ANSWER


# --- sessions ----------------------------------------------------------------------------------------------------


def test_a_session_remembers_its_turns_and_tells_the_next_one_of_them(make):
    engine = ScriptedEngine(lambda prompt: ANSWER)
    bench = make(engine)
    session = bench.sessions.create("numbers")
    for text in ("how many?", "and why?"):
        bench.ask(Question(text, context="x", session_id=session.session_id)).result(30)
    assert "Earlier in this conversation" not in engine.prompts[0]
    assert "Q: how many?\nA: 42" in engine.prompts[1]
    kept = bench.sessions.transcript(session.session_id)
    assert [turn.message for turn in kept.turns] == ["how many?", "and why?"]
    assert kept == bench.session(session.session_id)
    assert (bench.sessions.get(session.session_id).title, bench.sessions.get(session.session_id).turns) == (
        "numbers",
        2,
    )
    stats = bench.sessions.stats(session.session_id)
    assert (stats.turns, stats.by_status, stats.usage.calls) == (2, {"done": 2}, 2)


def test_the_memory_of_a_session_is_bounded(make):
    engine = ScriptedEngine(lambda prompt: f"[[ ## answer ## ]]\n{'y' * 5000}\n\n[[ ## completed ## ]]")
    bench = make(engine)
    session_id = bench.sessions.create().session_id
    for _ in range(12):
        bench.ask(Question("x" * 3000, context="c", session_id=session_id)).result(30)
    assert len(engine.prompts[-1]) - len(engine.prompts[0]) < 8200


def test_what_is_asked_without_a_session_brings_no_memory_along(make):
    engine = ScriptedEngine(lambda prompt: ANSWER)
    bench = make(engine)
    for _ in range(2):
        bench.ask(Question("how many?", context="x")).result(30)
    assert len(bench.session().turns) == 2
    assert not any("Earlier" in prompt for prompt in engine.prompts)


def test_sessions_are_listed_searched_paged_renamed_archived_restored_and_deleted(make):
    bench = make()
    made = [bench.sessions.create(f"topic {number}") for number in range(5)]
    page, cursor = bench.sessions.list(limit=2)
    assert [one.title for one in page] == ["topic 4", "topic 3"]
    page, cursor = bench.sessions.list(limit=2, cursor=cursor)
    assert [one.title for one in page] == ["topic 2", "topic 1"]
    page, cursor = bench.sessions.list(limit=2, cursor=cursor)
    assert ([one.title for one in page], cursor) == (["topic 0"], None)
    assert bench.sessions.rename(made[0].session_id, "100 % other").title == "100 % other"
    assert [one.title for one in bench.sessions.list("100 %")[0]] == ["100 % other"]
    assert bench.sessions.list("_")[0] == []
    bench.sessions.archive(made[0].session_id)
    assert len(bench.sessions.list()[0]) == 4
    assert [one.session_id for one in bench.sessions.list(is_archived=True)[0]] == [made[0].session_id]
    assert bench.sessions.restore(made[0].session_id).archived_at is None
    bench.sessions.delete(made[0].session_id)
    for verb in ("get", "delete", "archive", "restore", "transcript", "stats", "export", "artifacts", "feedback"):
        with pytest.raises(NoSuchSession):
            getattr(bench.sessions, verb)(made[0].session_id)
    with pytest.raises(BadRequest, match="no place"):
        bench.sessions.list(cursor="somewhere")


def test_a_session_goes_out_as_json_and_comes_back_the_same(make):
    bench = make([code("x = 'y' * 5000; print(x)"), code("SUBMIT(answer='42')")])
    session_id = bench.sessions.create("numbers").session_id
    live = bench.ask(Question("how many?", context="x", session_id=session_id, mode="rlm_only"))
    run = live.result(60)
    bench.runs.feedback(run.run_id, 1, expected="42", comment="good")
    text = bench.sessions.export(session_id)
    other = bench.seen_by("ada")
    back = other.sessions.import_(text)
    assert (back.title, back.turns) == ("numbers", 1)
    (turn,) = other.sessions.transcript(back.session_id).turns
    ids = {"run_id": turn.run.run_id, "session_id": back.session_id}
    assert turn.run == run.model_copy(update=ids)
    there = [event.model_copy(update=ids) for event in live.trace.events]
    assert list(other.follow(turn.run.run_id)) == there
    assert [(item.rating, item.expected) for item in other.sessions.feedback(back.session_id)] == [(1, "42")]
    assert len(other.runs.list()) == 1
    with pytest.raises(NoSuchRun):
        bench.runs.get(turn.run.run_id)


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"version": 9}', "x" * 100])
def test_what_is_no_exported_session_is_refused(make, text):
    bench = make()
    with pytest.raises(BadRequest):
        bench.sessions.import_(text)
    assert bench.sessions.list()[0] == []


def test_an_export_of_another_version_or_with_a_gap_is_refused_as_a_whole(make):
    bench = make()
    session_id = bench.sessions.create().session_id
    bench.ask(Question("how many?", context="x", session_id=session_id)).result(30)
    text = bench.sessions.export(session_id)
    with pytest.raises(BadRequest, match="version 7"):
        bench.sessions.import_(text.replace('"version": 1', '"version": 7'))
    with pytest.raises(BadRequest, match="gap"):
        bench.sessions.import_(text.replace(r"\"seq\":1,", r"\"seq\":8,"))
    assert len(bench.sessions.list()[0]) == 1


def test_a_session_is_not_deleted_while_one_of_its_runs_goes_on(make):
    gate = Gate()
    bench = make(gate)
    session_id = bench.sessions.create().session_id
    live = bench.ask(Question("how many?", context="x", session_id=session_id))
    first_of(live, "run.started")
    with pytest.raises(SessionBusy):
        bench.sessions.delete(session_id)
    assert bench.sessions.prune(time.time() + 10) == 0
    gate.is_open.set()
    live.result(30)
    assert bench.sessions.prune(time.time() + 10) == 1
    assert bench.runs.list() == []


def test_in_a_busy_session_a_question_is_refused_or_waits_for_its_turn(make):
    gate = Gate()
    bench = make(gate)
    session_id = bench.sessions.create().session_id
    first = bench.ask(Question("first", context="x", session_id=session_id))
    first_of(first, "call.started")
    with pytest.raises(SessionBusy):
        bench.ask(Question("second", context="x", session_id=session_id))
    second = bench.ask(Question("second", context="x", session_id=session_id, when_busy="queue"))
    third = bench.ask(Question("third", context="x", session_id=session_id, when_busy="queue"))
    assert second.trace.events == ()
    third.cancel()
    gate.is_open.set()
    assert second.result(30).status == "done"
    assert third.result(30).status == "cancelled"
    assert len(gate.prompts) == 2
    assert "Q: first\nA: 42" in gate.prompts[1]
    assert [turn.message for turn in bench.session(session_id).turns] in (
        ["first", "second", "third"],
        ["third", "first", "second"],
        ["first", "third", "second"],
    )


def test_another_process_that_works_in_the_session_makes_it_busy(make):
    gate = Gate()
    first, second = make(gate), make()
    session_id = first.sessions.create().session_id
    live = first.ask(Question("first", context="x", session_id=session_id))
    first_of(live, "run.started")
    with pytest.raises(SessionBusy):
        second.ask(Question("second", context="x", session_id=session_id))
    waiting = second.ask(Question("second", context="x", session_id=session_id, when_busy="queue"))
    followed = threading.Thread(target=lambda: seen.extend(second.follow(live.run_id)))
    seen = []
    followed.start()
    with pytest.raises(BadRequest, match="another process"):
        second.cancel(live.run_id)
    gate.is_open.set()
    assert waiting.result(30).status == "done"
    followed.join(30)
    assert seen == list(live.trace.events)
    messages = [turn.message for turn in second.session(session_id).turns]
    assert messages == ["first", "second"]


# --- keys --------------------------------------------------------------------------------------------------------


def test_a_key_never_runs_twice_also_not_in_another_process_or_at_the_same_time(make):
    engine = ScriptedEngine(lambda prompt: ANSWER)
    benches = [make(engine), make(engine)]
    barrier = threading.Barrier(16)

    def ask(number: int) -> list[str]:
        barrier.wait()
        mine = [benches[number % 2].ask(Question(f"question {key}", context="x", key=f"key {key}")) for key in range(5)]
        return [live.result(60).run_id for live in mine]

    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(ask, range(16)))
    assert all(run_ids == found[0] for run_ids in found)
    assert engine.calls == 5
    again = make(engine).ask(Question("question 3", context="x", key="key 3"))
    assert (again.run_id, again.result(30).answer) == (found[0][3], "42")
    assert len(again.trace.events) > 3
    assert engine.calls == 5


def test_a_key_that_stands_for_something_else_is_an_error(make):
    bench = make()
    bench.ask(Question("how many?", context="x", key="k")).result(30)
    for other in (Question("how much?", context="x", key="k"), Question("how many?", context="y", key="k")):
        for where in (bench, make()):
            with pytest.raises(KeyReused, match="another request"):
                where.ask(other)
    assert len(bench.runs.list()) == 1


def test_a_program_of_ones_own_runs_once_for_its_key_and_one_that_differs_in_a_word_is_another(make):
    engine = ScriptedEngine(lambda prompt: ANSWER)
    inputs = {"question": "how many?"}
    runs = [make(engine).run(dspy.Predict("question -> answer"), inputs, key="k") for _ in range(2)]
    assert [live.result(30).answer for live in runs] == ["42", "42"]
    assert runs[0].run_id == runs[1].run_id
    told = dspy.Predict(dspy.Signature("question -> answer", "Be brief."))
    for program, given in ((told, inputs), (dspy.Predict("question -> answer"), {"question": "how much?"})):
        with pytest.raises(KeyReused):
            make(engine).run(program, given, key="k")
    assert engine.calls == 1


def test_the_same_key_in_another_session_or_of_another_user_is_another_key(make):
    bench = make()
    session_id = bench.sessions.create().session_id
    asked = [
        bench.ask(Question("a", context="x", key="k")),
        bench.ask(Question("b", context="x", key="k", session_id=session_id)),
        bench.seen_by("ada").ask(Question("c", context="x", key="k")),
    ]
    assert len({live.result(30).run_id for live in asked}) == 3


def test_the_key_of_a_run_that_goes_on_gives_that_run_also_in_a_busy_session(make):
    gate = Gate()
    bench = make(gate)
    question = Question("a", context="x", key="k", session_id=bench.sessions.create().session_id)
    first = bench.ask(question)
    assert bench.ask(question) is first
    gate.is_open.set()
    first.result(30)


# --- owners ------------------------------------------------------------------------------------------------------


def test_what_belongs_to_another_user_looks_as_if_it_were_not_there(make):
    bench = make()
    ada, bob = bench.seen_by("ada"), bench.seen_by("bob")
    session_id = ada.sessions.create("mine").session_id
    run_id = ada.ask(Question("how many?", context="x", session_id=session_id)).result(30).run_id
    value = {"sha256": hashlib.sha256(b"text").hexdigest(), "pieces": [b"text"]}
    ada.contexts.put(**value)
    for other in (bob, bench):
        assert other.runs.list() == other.sessions.list()[0] == []
        assert other.session().turns == ()
        for verb in (other.follow, other.cancel, other.runs.get, other.runs.find, other.runs.tree, other.runs.record):
            with pytest.raises(NoSuchRun):
                verb(run_id)
        with pytest.raises(NoSuchRun):
            other.runs.value(run_id, "c", "outputs")
        with pytest.raises(NoSuchRun):
            list(other.runs.export(run_id))
        with pytest.raises(NoSuchRun):
            other.runs.feedback(run_id, 1)
        for verb in (other.session, other.sessions.get, other.sessions.delete, other.sessions.export):
            with pytest.raises(NoSuchSession):
                verb(session_id)
        with pytest.raises(NoSuchSession):
            other.ask(Question("how many?", context="x", session_id=session_id))
        assert not other.contexts.has(value["sha256"])
        assert other.runs.prune(time.time() + 10) == other.sessions.prune(time.time() + 10) == 0
    assert ada.runs.record(run_id).answer == "42"
    assert ada.contexts.get(value["sha256"]) == b"text"


def test_a_run_that_goes_on_is_hidden_from_other_users_too(make):
    gate = Gate()
    bench = make(gate)
    live = bench.seen_by("ada").ask(Question("a", context="x"))
    with pytest.raises(NoSuchRun):
        bench.seen_by("bob").cancel(live.run_id)
    with pytest.raises(NoSuchRun):
        bench.seen_by("bob").answer(live.run_id, "c", "yes")
    gate.is_open.set()
    assert live.result(30).status == "done"


# --- stopping a part ---------------------------------------------------------------------------------------------


def test_cancelling_one_child_leaves_its_siblings_alone(make):
    waits = threading.Event()

    def script(prompt: str) -> str:
        if "the root's question" in prompt:
            if FIRST in prompt:
                return code("rs = sub_rlm_batched(prompts=['slow', 'good', 'good'], contexts=['', '', '']); print(rs)")
            return code("SUBMIT(answer=repr([r if isinstance(r, str) else r['error']['code'] for r in rs]))")
        if "slow" in prompt:
            waits.wait(30)
        return code("SUBMIT(answer='fine')")

    engine = ScriptedEngine(script)
    bench = make(engine)
    live = bench.ask(Question("the root's question", context="x", mode="rlm_only"))
    child = first_of(live, "call.started", lambda event: event.fact.inputs.get("question") == "slow")
    first_of(live, "call.started", lambda event: event.fact.parent_id == child.call_id and event.fact.kind == "lm")
    bench.cancel(live.run_id, child.call_id)
    run = live.result(30)
    waits.set()
    assert run.status == "done"
    assert run.answer == "['call_cancelled', 'fine', 'fine']"
    with pytest.raises(BadRequest, match="no call"):
        live.cancel("c-unknown")


def test_cancelling_a_child_whose_cell_computes_interrupts_the_cell_and_asks_no_model_again(make):
    def script(prompt: str) -> str:
        if "the root's question" in prompt:
            if FIRST in prompt:
                return code(
                    "try:\n    r = sub_rlm(prompt='slow')\nexcept Exception as err:\n    r = str(err)\nprint(r)"
                )
            return code("SUBMIT(answer=r)")
        return code("while True: pass")

    engine = ScriptedEngine(script)
    bench = make(engine)
    live = bench.ask(Question("the root's question", context="x", mode="rlm_only"))
    child = first_of(live, "call.started", lambda event: event.fact.kind == "rlm" and event.fact.depth == 2)
    first_of(live, "call.started", lambda event: event.fact.parent_id == child.call_id and event.fact.kind == "code")
    bench.cancel(live.run_id, child.call_id)
    run = live.result(30)
    assert run.status == "done"
    assert "cancelled by the user" in (run.answer or "")
    assert engine.calls == 3, "the child's model was not asked again"


def test_cancelling_one_lm_call_of_a_batch_leaves_the_others(make):
    waits = threading.Event()

    def script(prompt: str) -> str:
        if "variables_info" not in prompt:
            if "slow" in prompt:
                waits.wait(30)
            return "yes"
        if FIRST in prompt:
            return code("try:\n    print(llm_query(prompt='slow'))\nexcept Exception as err:\n    print(err)\nx = 1")
        return code("SUBMIT(answer=llm_query(prompt='quick'))")

    bench = make(script)
    live = bench.ask(Question("q", context="x", mode="rlm_only"))
    slow = first_of(live, "call.started", lambda event: event.fact.inputs.get("prompt") == "slow")
    bench.cancel(live.run_id, slow.call_id)
    assert live.result(30).answer == "yes"
    waits.set()


def test_cancelling_the_root_cancels_the_run(make):
    gate = Gate()
    bench = make(gate)
    live = bench.ask(Question("q", context="x", mode="rlm_only"))
    root = first_of(live, "call.started")
    bench.cancel(live.run_id, root.call_id)
    assert live.result(30).status == "cancelled"
    gate.is_open.set()


# --- asking back -------------------------------------------------------------------------------------------------


def asks_back(prompt: str) -> str:
    if FIRST in prompt:
        return code("said = ask_user(question='which year?', options=['2024', '2025']); print(said)")
    return code("SUBMIT(answer='in ' + said)")


def test_a_run_may_ask_its_user_and_goes_on_with_the_answer(make):
    bench = make(asks_back)
    live = bench.ask(Question("q", context="x", mode="rlm_only", can_answer=True))
    asked = first_of(live, "question.asked")
    assert asked.fact == QuestionAsked(text="which year?", options=["2024", "2025"])
    bench.answer(live.run_id, asked.call_id, "2025")
    assert live.result(30).answer == "in 2025"
    with pytest.raises(BadRequest, match="asks nothing"):
        bench.answer(live.run_id, asked.call_id, "2026")


def test_a_run_that_nobody_can_answer_has_no_such_tool(make):
    engine = ScriptedEngine([code("SUBMIT(answer=str('ask_user' in globals()))")])
    run = make(engine).ask(Question("q", context="x", mode="rlm_only")).result(30)
    assert run.answer == "False"
    assert "ask_user" not in engine.prompts[0].replace("'ask_user' in globals", "")


@pytest.mark.parametrize("way", ["cancel", "deadline", "its call"])
def test_a_question_that_is_not_answered_ends_with_its_run(make, way):
    bench = make(asks_back, **({"seconds": 4} if way == "deadline" else {}))
    live = bench.ask(Question("q", context="x", mode="rlm_only", can_answer=True))
    asked = first_of(live, "question.asked")
    if way == "cancel":
        live.cancel()
    if way == "its call":
        live.cancel(asked.call_id)
    run = live.result(30)
    assert run.status == {"cancel": "cancelled", "deadline": "over_budget", "its call": "failed"}[way]
    with pytest.raises(BadRequest):
        live.answer(asked.call_id, "late")


# --- programs ----------------------------------------------------------------------------------------------------


class Doubtful(dspy.Module):
    """Asks twice, the second time with an LM of its own."""

    def __init__(self, own: dspy.LM | None = None) -> None:
        super().__init__()
        self.first = dspy.Predict("question -> answer")
        self.second = dspy.Predict("question -> answer")
        if own is not None:
            self.second.lm = own

    def forward(self, question: str) -> dspy.Prediction:
        return dspy.Prediction(answer=self.first(question=question).answer, doubt=self.second(question="sure?").answer)


def test_a_module_of_ones_own_runs_on_one_budget_its_own_lm_included(make):
    engine, own = ScriptedEngine(lambda prompt: ANSWER), ScriptedEngine(lambda prompt: ANSWER)
    bench = make(engine)
    program = Doubtful(dspy.LM("scripted/own", engine=own, cache=False))
    run = bench.run(program, {"question": "how many?"}).result(30)
    assert (run.program, run.question, run.answer, run.outputs) == ("Doubtful", "how many?", "42", {"doubt": "42"})
    assert (engine.calls, own.calls, run.usage.calls) == (1, 1, 2)
    short = bench.run(program, {"question": "how many?"}, Limits(calls=1)).result(30)
    assert short.status == "over_budget"
    assert own.calls == 1


def test_an_rlm_of_ones_own_takes_its_sandbox_from_the_run(make):
    bench = make([code("x = llm_query('hm?')"), "yes", code("SUBMIT(answer=x)")])

    def never() -> None:
        raise AssertionError("the run gives the interpreter")

    program = dspy.RLM("question -> answer", interpreter_factory=never)
    live = bench.run(program, {"question": "how many?"})
    assert live.result(30).answer == "yes"
    assert "sandbox.changed" in [event.fact.type for event in live.trace.events]
    assert live.tree().spent.sub_calls == 1


def test_a_program_by_its_name_and_one_that_is_not_there(make):
    bench = make()
    assert bench.run("ask", {"context": "x", "question": "how many?"}).result(30).answer == "42"
    assert [program.name for program in bench.programs.list()] == ["ask"]
    with pytest.raises(BadRequest, match="no program magic"):
        bench.run("magic", {})
    with pytest.raises(BadRequest, match="takes context and question"):
        bench.run("ask", {"question": "how many?"})


# --- values, contexts, settings ----------------------------------------------------------------------------------


def test_the_full_value_behind_a_preview_is_fetched_by_its_name(make):
    big = "".join(f"line {number}\n" for number in range(5000))
    bench = make([code("print(context)"), code("SUBMIT(answer='seen')")])
    live = bench.ask(Question("q", context=big, mode="rlm_only"))
    live.result(60)
    root, planner, cell = (
        next(call for call in live.tree().calls.values() if call.kind == kind) for kind in ("rlm", "lm", "code")
    )
    assert bench.runs.value(live.run_id, root.id, "context") == big
    assert len(root.inputs["context"]) < 2100
    assert bench.runs.value(live.run_id, root.id, "question") == "q"
    assert len(bench.runs.value(live.run_id, planner.id, "prompt")) > 2000
    assert bench.runs.value(live.run_id, cell.id, "outputs").count("line") > 4000
    with pytest.raises(BadRequest, match="no value"):
        bench.runs.value(live.run_id, cell.id, "nothing")
    with pytest.raises(BadRequest, match="no value"):
        bench.runs.value(live.run_id, "c-unknown", "outputs")


def test_a_context_is_kept_once_by_its_digest_and_sending_may_go_on_where_it_broke_off(make, tmp_path):
    bench = make()
    raw = b"text " * 1000
    digest = hashlib.sha256(raw).hexdigest()
    assert not bench.contexts.has(digest)
    with pytest.raises(BadRequest, match="another one"):
        bench.contexts.put(digest, [b"something else"])
    assert bench.contexts.received(digest) == 0

    def breaks_off():
        yield raw[:2000]
        raise ConnectionError

    with pytest.raises(ConnectionError):
        bench.contexts.put(digest, breaks_off())
    assert bench.contexts.received(digest) == 2000
    with pytest.raises(BadRequest, match="2000 bytes are here"):
        bench.contexts.put(digest, [b""], begin=100)
    bench.contexts.put(digest, [raw[2000:]], begin=2000)
    assert bench.contexts.get(digest) == raw
    assert make().contexts.has(digest)
    bench.contexts.put(digest, [b"not read"])
    for name in ("../../etc/passwd", "A" * 64, "a" * 63, ""):
        with pytest.raises(BadRequest, match="SHA-256"):
            bench.contexts.has(name)
    assert bench.contexts.prune(time.time() + 10) == 1
    with pytest.raises(BadRequest, match="not here"):
        bench.contexts.get(digest)


def test_a_context_above_the_limit_is_refused(tmp_path):
    settings = Settings.model_validate({"context": {"max_mb": 1}, "store": {"url": f"sqlite:///{tmp_path}/x.db"}})
    bench = Workbench(settings, UnisolatedSandboxes(), scripted_models(ScriptedEngine([])))
    raw = b"x" * 1_000_001
    with pytest.raises(BadRequest, match="more than 1,000,000 bytes"):
        bench.contexts.put(hashlib.sha256(raw).hexdigest(), [raw])
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    bench.close()


def test_settings_are_shown_masked_and_changed_where_that_is_allowed(tmp_path):
    url = f"sqlite:///{tmp_path}/x.db"
    settings = Settings.model_validate({"model": "offline/recipes", "api_key": "plum-7519-key", "store": {"url": url}})
    bench = Workbench(settings, UnisolatedSandboxes())
    shown = {one.name: one for one in bench.settings_view.get()}
    assert "plum-7519-key" not in repr(shown)
    assert shown["budget.calls"].value == 150
    bench.settings_view.patch({"budget.calls": 7, "api_base": "http://127.0.0.1:9/v1"})
    assert bench.settings.budget.calls == 7
    for bad in ({"budget.calls": 9, "budget.depth": -1}, {"api_key": "x"}, {"store.url": "sqlite:////x"}, {"nope": 1}):
        with pytest.raises(BadSettings):
            bench.settings_view.patch(bad)
    assert bench.settings.budget.calls == 7
    assert bench.settings.model == "offline/recipes"
    assert {one.name: one.source for one in bench.settings_view.get()}["budget.calls"] == CHANGED
    bench.close()


def test_settings_that_do_not_load_change_nothing(tmp_path):
    bench = Workbench(
        Settings.model_validate({"model": "offline/recipes", "store": {"url": f"sqlite:///{tmp_path}/x"}})
    )
    with pytest.raises(BadSettings, match="key"):
        bench.settings_view.patch({"budget.calls": 9, "model": "openai/gpt-5"})
    assert (bench.settings.budget.calls, bench.settings.model) == (150, "offline/recipes")
    bench.close()


def test_feedback_is_kept_on_a_turn_and_replaced(make):
    bench = make()
    run = bench.ask(Question("how many?", context="x")).result(30)
    bench.runs.feedback(run.run_id, -1, comment="no")
    bench.runs.feedback(run.run_id, 1, expected="42")
    (kept,) = bench.sessions.feedback(run.session_id)
    assert (kept.rating, kept.expected, kept.comment) == (1, "42", "")
    with pytest.raises(BadRequest, match="rating"):
        bench.runs.feedback(run.run_id, 5)


def test_a_run_that_the_end_of_its_process_cuts_off_has_failed_and_not_been_cancelled(make):
    begun, go_on = threading.Event(), threading.Event()

    def policy(prompt: str) -> str:
        begun.set()
        go_on.wait(20)
        return code("SUBMIT(answer='late')")

    bench = make(policy)
    run = bench.ask(Question("what?", mode="rlm_only"))
    assert begun.wait(20)
    bench.close()
    ended = run.result(20)
    go_on.set()
    assert ended.error is not None
    assert (ended.status, ended.error.code) == ("failed", "interrupted")
