"""What is remembered, and who is told of it: one suite for a Workbench here and for one that a server holds."""

from __future__ import annotations

import pytest

from fleet_rlm_jupyter.domain.errors import BadRequest, NoSuchMemory, NoSuchSession
from fleet_rlm_jupyter.domain.events import MemoryRecalled
from fleet_rlm_jupyter.domain.memory import MEMORY_CHARS, the_one
from fleet_rlm_jupyter.domain.question import Question
from fleet_rlm_jupyter.engine.ask import TOLD_OF_MEMORY
from fleet_rlm_jupyter.engine.offline import recipes_lm
from fleet_rlm_jupyter.settings import Settings, StoreSettings
from fleet_rlm_jupyter.testing import ScriptedEngine, UnisolatedSandboxes, code, scripted_models
from fleet_rlm_jupyter.workbench import Workbench

pytest_plugins = ["contract.workbenches_fixture"]

PLAIN = "[[ ## answer ## ]]\n42\n\n[[ ## completed ## ]]"
KEY = "sk-" + "abcdefgh" * 4


def reply(prompt: str) -> str:
    """A plain answer, or a planner that hands its question to a child, or one that proposes what it was told to."""
    if "[[ ## code ## ]]" not in prompt:
        return PLAIN
    if "hand it on" in prompt:
        return code("SUBMIT(answer=sub_rlm(prompt='a child asks', context='c'))")
    if "suggest notes" in prompt:
        return code("said = [propose_memory(text=text) for text in context]\nSUBMIT(answer=str(said))")
    return code("SUBMIT(answer='42')")


@pytest.fixture
def prompts(bench, engine):
    """What the model is sent for a question."""

    def ask(text="how many?", by=bench, **more):
        before = engine.calls
        run = by.ask(Question(text, context=more.pop("context", "x"), **more))
        assert run.result(60).status == "done"
        return engine.prompts[before:], run

    return ask


def test_a_note_is_added_reviewed_listed_and_forgotten(bench):
    added = bench.memory.add("  The fiscal year begins in April.\n", kind="fact")
    assert (added.text, added.kind, added.state) == ("The fiscal year begins in April.", "fact", "approved")
    assert (added.session_id, added.run_id) == (None, "")
    assert bench.memory.get(added.memory_id) == added
    second = bench.memory.add("Answers in Dutch, please.", kind="preference")
    assert bench.memory.list() == [second, added]
    rejected = bench.memory.reject(added.memory_id)
    assert (rejected.state, rejected.text) == ("rejected", added.text)
    assert bench.memory.list("approved") == [second]
    assert bench.memory.list("rejected") == [rejected]
    assert bench.memory.approve(added.memory_id).state == "approved"
    assert len(bench.memory.list(limit=1)) == 1
    bench.memory.delete(added.memory_id)
    assert bench.memory.list() == [second]
    for verb in ("get", "approve", "reject", "delete"):
        with pytest.raises(NoSuchMemory):
            getattr(bench.memory, verb)(added.memory_id)


def test_what_cannot_be_remembered_is_said(bench):
    for text in ("", "  \n"):
        with pytest.raises(BadRequest, match="nothing to remember"):
            bench.memory.add(text)
    assert bench.memory.add("x" * MEMORY_CHARS).text == "x" * MEMORY_CHARS
    with pytest.raises(BadRequest, match="at most 1000 characters"):
        bench.memory.add("x" * (MEMORY_CHARS + 1))
    with pytest.raises(NoSuchSession):
        bench.memory.add("x", session_id="s-nobody")


def test_a_key_in_a_note_is_masked(bench):
    assert KEY not in bench.memory.add(f"the key is {KEY}").text


@pytest.mark.parametrize("mode", ["direct", "rlm_only"])
def test_an_approved_note_reaches_the_prompt_marked_as_the_users_and_no_other_does(bench, seen, prompts, mode):
    kept = bench.memory.add("Totals are in\nthousands.", kind="fact")
    bench.memory.reject(bench.memory.add("Rejected words.").memory_id)
    seen("somebody else").memory.add("Words of a stranger.")
    sent, run = prompts(mode=mode)
    assert f"{TOLD_OF_MEMORY} - (fact) Totals are in thousands. " in " ".join(sent[0].split())  # DSPy indents it
    assert "Rejected words" not in sent[0]
    assert "stranger" not in sent[0]
    (told,) = [event.fact for event in bench.follow(run.run_id) if isinstance(event.fact, MemoryRecalled)]
    assert told == MemoryRecalled(items={kept.memory_id: "(fact) Totals are in thousands."})
    bench.memory.delete(kept.memory_id)
    sent, run = prompts(mode=mode)
    assert TOLD_OF_MEMORY not in sent[0]
    assert not any(isinstance(event.fact, MemoryRecalled) for event in bench.follow(run.run_id))


def test_a_note_of_a_session_holds_there_and_nowhere_else_and_ends_with_it(bench, prompts):
    one, other = bench.sessions.create("one"), bench.sessions.create("other")
    bench.memory.add("Only here.", session_id=one.session_id)
    bench.memory.add("Everywhere.")
    assert "Only here." in prompts(session_id=one.session_id)[0][0]
    elsewhere = prompts(session_id=other.session_id)[0][0]
    assert "Everywhere." in elsewhere
    assert "Only here." not in elsewhere
    assert "Only here." not in prompts()[0][0]
    assert [item.text for item in bench.memory.list(session_id=other.session_id)] == ["Everywhere."]
    bench.sessions.delete(one.session_id)
    assert [item.text for item in bench.memory.list()] == ["Everywhere."]


def test_notes_of_a_session_travel_with_it_and_wait_for_a_review_there(bench, seen, prompts):
    session_id = bench.sessions.create("numbers").session_id
    bench.memory.add("Only here.", kind="fact", session_id=session_id)
    bench.memory.add("Everywhere.")
    other = seen("somebody else")
    back = other.sessions.import_(bench.sessions.export(session_id))
    (item,) = other.memory.list()
    assert (item.text, item.kind, item.state, item.session_id) == ("Only here.", "fact", "proposed", back.session_id)
    assert "Only here." not in prompts(by=other, session_id=back.session_id)[0][0]


def test_notes_are_for_whoever_is_asked_and_not_for_its_children(bench, prompts):
    bench.memory.add("Totals are in thousands.")
    sent, _ = prompts("hand it on", mode="rlm_only")
    assert ["Totals" in prompt for prompt in sent] == [True, False]


def test_what_a_run_proposes_waits_for_its_user(bench, seen, prompts):
    run = prompts("suggest notes", mode="rlm_only", context={"The log is in UTC.": ""})[1]
    (item,) = bench.memory.list("proposed")
    assert (item.text, item.kind, item.run_id) == ("The log is in UTC.", "note", run.run_id)
    assert "nobody is told of it" in (run.result(0).answer or "")
    assert "The log is in UTC." not in "".join(prompts()[0])
    assert seen("somebody else").memory.list() == []
    with pytest.raises(NoSuchMemory):
        seen("somebody else").memory.approve(item.memory_id)
    bench.memory.reject(item.memory_id)
    prompts("suggest notes", mode="rlm_only", context={"The log is in UTC.": ""})
    assert [again.state for again in bench.memory.list()] == ["rejected"]
    bench.memory.approve(item.memory_id)
    assert "The log is in UTC." in prompts()[0][0]


def test_a_run_proposes_a_few_notes_and_not_a_flood(bench):
    run = bench.ask(Question("suggest notes", context={f"note {number}": "" for number in range(9)}, mode="rlm_only"))
    events = list(bench.follow(run.run_id))
    assert len(bench.memory.list("proposed")) == 5
    assert any("at most 5 notes" in event.encode() for event in events)


def test_an_item_is_found_by_the_beginning_of_its_id(bench):
    items = [bench.memory.add(f"note {number}") for number in range(40)]
    assert the_one(items, items[0].memory_id[:12]) == items[0]
    with pytest.raises(BadRequest, match="more than one"):
        the_one(items, "m-")
    for prefix in ("", "m-nothing"):
        with pytest.raises(NoSuchMemory):
            the_one(items, prefix)


# --- what the settings say ---------------------------------------------------------------------------------------


@pytest.fixture
def bounded(tmp_path):
    made = []

    def workbench(engine, models=None, **memory):
        store = StoreSettings(url=f"sqlite:///{tmp_path}/fleet.db")
        settings = Settings.model_validate({"store": store, "memory": memory})
        made.append(Workbench(settings, UnisolatedSandboxes(), models or scripted_models(engine)))
        return made[-1]

    yield workbench
    for bench in made:
        bench.close()


def told_by(bench, engine, **more):
    run = bench.ask(Question("how many?", context="x", **more))
    run.result(60)
    recalled = [event.fact for event in run.trace.events if isinstance(event.fact, MemoryRecalled)]
    return engine.prompts[-1], recalled[0] if recalled else None


def test_the_newest_notes_come_along_as_far_as_there_is_room(bounded):
    engine = ScriptedEngine(lambda prompt: PLAIN)
    bench = bounded(engine, items=3, chars=100)
    for number in range(5):
        bench.memory.add(f"note {number} " + "y" * (90 if number == 4 else 10))
    prompt, recalled = told_by(bench, engine)
    assert [text[:13] for text in recalled.items.values()] == ["(note) note 4"]
    assert recalled.left_out == 4
    bench.memory.delete(bench.memory.list()[0].memory_id)
    prompt, recalled = told_by(bench, engine)
    assert [text[7:13] for text in recalled.items.values()] == ["note 3", "note 2", "note 1"]
    assert recalled.left_out == 1
    assert "note 0" not in prompt


def test_memory_can_be_turned_off(bounded):
    engine = ScriptedEngine(reply)
    bench = bounded(engine, items=0, propose=False)
    bench.memory.add("Totals are in thousands.")
    prompt, recalled = told_by(bench, engine, mode="rlm_only")
    assert "Totals" not in prompt
    assert "propose_memory" not in prompt
    assert recalled is None


def test_recipes_are_told_nothing_and_propose_nothing(bounded):
    lm = recipes_lm()
    asked = scripted_models(ScriptedEngine([]))
    models = type(asked)(lm, lm, "offline", "test", is_offline=True, signature=asked.signature)
    engine = ScriptedEngine([])
    bench = bounded(engine, models)
    bench.memory.add("How many lines are there?")
    run = bench.ask(Question('How many lines contain "a"?', context="a\nb\na\n"))
    ended = run.result(60)
    assert ended.status in ("done", "abstained")
    assert not any(isinstance(event.fact, MemoryRecalled) for event in run.trace.events)
    assert not any("propose_memory" in event.encode() for event in run.trace.events)


def test_a_store_that_fails_costs_the_notes_and_not_the_answer(bounded, tmp_path):
    engine = ScriptedEngine(lambda prompt: PLAIN)
    bench = bounded(engine)
    bench.memory.add("Totals are in thousands.")
    (tmp_path / "fleet.db").unlink()
    (tmp_path / "fleet.db").mkdir()
    assert bench.ask(Question("how many?", context="x")).result(60).answer == "42"
