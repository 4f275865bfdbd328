"""Whole runs on a scripted model: recursion, one ledger, and every way to stop."""

from __future__ import annotations

import hashlib
import threading
import time

import pandas
import pytest

from fleet_rlm_jupyter.domain.calls import CallTree
from fleet_rlm_jupyter.domain.errors import BadRequest
from fleet_rlm_jupyter.domain.session import Run
from fleet_rlm_jupyter.kernel.variables import context_of
from fleet_rlm_jupyter.sandbox.daytona import DaytonaSandboxes
from fleet_rlm_jupyter.settings import ContextSettings, Settings
from fleet_rlm_jupyter.testing import ScriptedEngine, UnisolatedSandboxes, code, scripted_workbench
from fleet_rlm_jupyter.workbench import LiveRun, Question

FIRST = "iteration ## ]]\n1/"


@pytest.fixture(scope="module")
def isolated():
    real = DaytonaSandboxes(Settings())
    yield real
    real.close()


@pytest.fixture(params=["isolated", "plain process"])
def home(request):
    """Where code runs: both implementations of the engine's port."""
    return UnisolatedSandboxes() if request.param == "plain process" else request.getfixturevalue("isolated")


def is_planner(prompt: str) -> bool:
    return "variables_info" in prompt


def family(prompt: str) -> str:
    """A root that asks eight children, each of which asks one sub-query: 2 + 8 × 3 calls."""
    if not is_planner(prompt):
        return "leaf"
    if "the root's question" in prompt:
        if FIRST in prompt:
            return code("rs = sub_rlm_batched(prompts=[f'child {i}' for i in range(8)], contexts=['x'] * 8); print(rs)")
        return code("SUBMIT(answer=str(rs))")
    if FIRST in prompt:
        return code("a = llm_query(prompt='leaf?'); print(a)")
    return code("SUBMIT(answer='child says ' + a)")


def start(script, home, question="the root's question", **limits) -> tuple[LiveRun, ScriptedEngine]:
    engine = script if isinstance(script, ScriptedEngine) else ScriptedEngine(script)
    bench = scripted_workbench(engine, home=home, **limits)
    return bench.ask(Question(question, context="some text", mode="rlm_only")), engine


def finish(live: LiveRun) -> tuple[Run, CallTree]:
    run = live.result(60)
    events = live.trace.events
    assert [event.seq for event in events] == list(range(len(events))), "seq has no gaps"
    assert [event.fact.type for event in events].count("run.ended") == 1
    assert events[-1].fact.type == "run.ended"
    tree = live.tree()
    assert all(call.ended_at is not None for call in tree.calls.values()), "no call is left open"
    assert len(tree.roots) <= 1, "no call is an orphan"
    assert all(call.kind for call in tree.calls.values())
    return run, tree


def test_eight_children_four_at_a_time_answer_in_order(home):
    live, engine = start(ScriptedEngine(family, seconds=0.02), home)
    run, tree = finish(live)
    assert run.status == "done"
    assert run.answer == str(["child says leaf"] * 8)
    assert engine.calls == run.usage.calls == 26
    rlms = [call for call in tree.calls.values() if call.kind == "rlm"]
    assert sorted(call.depth for call in rlms) == [1] + [2] * 8
    assert tree.spent is not None
    assert tree.spent.sandboxes == 0, "every slot is given back"


def test_the_same_tree_under_a_budget_of_ten_makes_exactly_ten_calls(home):
    live, engine = start(ScriptedEngine(family, seconds=0.02), home, calls=10)
    run, _ = finish(live)
    assert run.status == "over_budget"
    assert run.error is not None
    assert run.error.code == "budget_exceeded"
    assert engine.calls == run.usage.calls == 10


def test_a_swallowed_refusal_does_not_let_generated_code_go_on(home):
    greedy = code("for i in range(50):\n    try:\n        llm_query(prompt='x')\n    except Exception:\n        pass")
    live, engine = start(lambda prompt: greedy if is_planner(prompt) else "y", home, calls=5)
    run, _ = finish(live)
    assert run.status == "over_budget"
    assert engine.calls == 5


def test_more_children_than_the_run_has_calls_are_refused_before_any_starts(home):
    def script(prompt: str) -> str:
        if FIRST in prompt:
            return code("sub_rlm_batched(prompts=['x'] * 1000)")
        assert "1000 prompts and this run has 20 LM calls" in prompt
        return code("SUBMIT(answer='fewer')")

    live, engine = start(script, home, calls=20)
    run, _ = finish(live)
    assert (run.answer, engine.calls) == ("fewer", 2), run.error


def test_running_out_of_sub_calls_is_an_error_the_planner_reads(home):
    def script(prompt: str) -> str:
        if not is_planner(prompt):
            return "yes"
        if FIRST in prompt:
            return code("llm_query_batched(prompts=['a', 'b', 'c', 'd'])")
        assert "4 sub-queries asked for, 3 of 3 left" in prompt
        return code("SUBMIT(answer=','.join(llm_query_batched(prompts=['a', 'b', 'c'])))")

    live, engine = start(script, home, sub_calls=3)
    run, _ = finish(live)
    assert run.answer == "yes,yes,yes"
    assert engine.calls == 5


def test_one_childs_failure_keeps_the_answers_of_its_siblings(home):
    def script(prompt: str) -> str:
        if "the root's question" in prompt:
            if FIRST in prompt:
                return code("rs = sub_rlm_batched(prompts=['good', 'bad', 'good'], contexts=['', '', '']); print(rs)")
            return code("SUBMIT(answer=repr([r if isinstance(r, str) else r['error']['code'] for r in rs]))")
        if "'bad'" in prompt or "bad\n" in prompt:
            return "[[ ## nonsense"
        return code("SUBMIT(answer='fine')")

    live, _ = start(script, home)
    run, _ = finish(live)
    assert run.answer == "['fine', 'model_failed', 'fine']"


def test_depth_is_refused_where_interpreters_are_made(home):
    def script(prompt: str) -> str:
        if FIRST in prompt:
            return code("print(sub_rlm(prompt='deeper', context='x'))")
        return code("SUBMIT(answer='depth_refused' if 'depth' in str(globals().get('__name__', '')) else 'went on')")

    live, _ = start(script, home, depth=1)
    run, tree = finish(live)
    assert run.status == "done"
    refused = [call for call in tree.calls.values() if call.kind == "rlm" and call.depth == 2]
    assert refused[0].error is not None
    assert refused[0].error.code == "depth_exceeded"


def test_live_sandboxes_never_exceed_their_limit():
    plain = UnisolatedSandboxes()
    live, _ = start(ScriptedEngine(family, seconds=0.02), plain, sandboxes=3)
    run, _ = finish(live)
    assert run.status == "done"
    assert (plain.most_live, plain.live) == (3, 0)


def test_code_that_goes_around_our_tools_meets_the_same_limits(home):
    def script(prompt: str) -> str:
        if FIRST in prompt:
            return code("import dspy\nr = dspy.RLM('context, question -> answer')(context='x', question='y')\nprint(r)")
        return code("SUBMIT(answer='no way around')")

    live, engine = start(script, home, calls=6, depth=1)
    run, tree = finish(live)
    assert engine.calls <= 6
    assert max(call.depth for call in tree.calls.values() if call.kind == "rlm" and call.error is None) == 1
    assert run.status in ("done", "over_budget")


def test_threads_of_generated_code_that_swallow_every_refusal_spend_no_more(home):
    greedy = code(
        "import threading\n"
        "def ask():\n"
        "    for _ in range(9):\n"
        "        try: llm_query(prompt='x')\n"
        "        except BaseException: pass\n"
        "threads = [threading.Thread(target=ask) for _ in range(20)]\n"
        "for thread in threads: thread.start()\n"
        "for thread in threads: thread.join()"
    )
    live, engine = start(lambda prompt: greedy if is_planner(prompt) else "y", home, calls=8)
    run, _ = finish(live)
    assert run.status == "over_budget"
    assert engine.calls == run.usage.calls == 8


def test_a_batch_runs_sixteen_at_a_time_by_default(home):
    def script(prompt: str) -> str:
        if not is_planner(prompt):
            return prompt.strip()[-2:]
        return code("SUBMIT(answer=' '.join(llm_query_batched(prompts=[f'q{i:02}' for i in range(32)])))")

    live, engine = start(ScriptedEngine(script, seconds=0.1), home)
    run, _ = finish(live)
    assert run.answer == " ".join(f"{i:02}" for i in range(32))
    assert engine.most_in_flight == 16


def test_a_table_of_the_notebook_is_one_in_the_sandbox_and_text_for_a_plain_call(isolated):
    frame = pandas.DataFrame({"n": [20, 22], "name": ["Ann", "Zoë"]})
    context = context_of(["sales"], {"sales": frame}, ContextSettings())
    frame.loc[0, "n"] = -1  # what the notebook does meanwhile is not seen
    planner = [code("print(type(context).__name__)"), code("SUBMIT(answer=str(sum(context['n'])))")]
    live = scripted_workbench(ScriptedEngine(planner), home=isolated).ask(
        Question("sum?", context=context, mode="rlm_only")
    )
    run, tree = finish(live)
    assert run.answer == "42"
    printed = "".join(call.texts.get("stdout", "") for call in tree.calls.values()).split()
    assert printed in (["DataFrame"], ["dict"]), "by the Python that the sandbox has"
    plain = ScriptedEngine(lambda _: "[[ ## answer ## ]]\nread\n\n[[ ## completed ## ]]")
    run, _ = finish(scripted_workbench(plain, home=isolated).ask(Question("?", context=context, mode="direct")))
    assert run.answer == "read"
    assert "20,Ann" in plain.prompts[0]
    assert "add_buffer" not in plain.prompts[0]


def test_a_model_that_writes_code_is_told_of_the_functions_in_its_sandbox_and_they_work(isolated):
    keep = code("add_buffer('seen', str(grep('b', context)[0].line))")
    engine = ScriptedEngine([keep, code("SUBMIT(answer=get_buffer('seen')[0])")])
    asked = Question("?", context="a\nb\n", mode="rlm_only")
    run, _ = finish(scripted_workbench(engine, home=isolated).ask(asked))
    assert run.answer == "2"
    assert "add_buffer(name, text)" in engine.prompts[0]


def test_a_cell_is_known_by_the_digest_of_all_its_code_and_by_how_it_ended(home):
    long = "text = '" + "x" * 40_000 + "'"
    cells = ["1 / 0", "def broken(:", long, "print('seen')", "SUBMIT(answer='done')"]

    def script(prompt: str) -> str:
        step = next(n for n in range(1, 20) if f"## ]]\n{n}/" in prompt)
        return code(cells[step - 1])

    run, tree = finish(start(script, home)[0])
    assert run.answer == "done"
    found = [call for call in tree.calls.values() if call.kind == "code"]
    assert [call.result for call in found] == ["exception", "exception", "nothing", "output", "final"]
    digests = [hashlib.sha256(text.encode()).hexdigest()[:16] for text in cells]
    assert [call.code_sha256 for call in found] == digests
    assert found[2].inputs["code"] != long
    errors = [call.error for call in found if call.error]
    assert [(error.code, error.phase) for error in errors] == [("sandbox_code_failed", "execute")] * 2
    assert "ZeroDivisionError" in errors[0].text
    assert {call.code_sha256 + call.result for call in tree.calls.values() if call.kind != "code"} == {""}


def test_a_run_whose_sandbox_is_lost_ends_with_the_phase_and_so_does_the_cell(isolated):
    run, tree = finish(start(lambda prompt: code("import os; os._exit(9)"), isolated)[0])
    assert run.error is not None
    cell = next(call for call in tree.calls.values() if call.kind == "code")
    assert cell.error is not None
    for error in (run.error, cell.error):
        assert (error.code, error.phase) == ("sandbox_lost", "execute")
        assert error.hint
    assert cell.result == ""


def test_cancel_while_a_cell_runs_ends_the_run_within_a_second(isolated):
    running = threading.Event()
    live, engine = start([code("print('before', flush=True)\nwhile True: pass")], isolated)
    live.watch(lambda event: running.set() if event.fact.type == "call.text" and "before" in event.fact.text else None)
    assert running.wait(30)
    begun = time.monotonic()
    live.cancel()
    run, tree = finish(live)
    assert time.monotonic() - begun < 1.5
    assert run.status == "cancelled"
    assert engine.calls == 1
    assert any("before" in call.texts.get("stdout", "") for call in tree.calls.values()), "what was printed is kept"


def test_cancel_of_a_cell_that_does_not_yield_ends_the_run_within_eight_seconds(isolated):
    running = threading.Event()
    live, engine = start([code("print('before', flush=True)\nsum(range(10**15))")], isolated)
    live.watch(lambda event: running.set() if event.fact.type == "call.text" and "before" in event.fact.text else None)
    assert running.wait(30)
    begun = time.monotonic()
    live.cancel()
    run, _ = finish(live)
    assert time.monotonic() - begun < 8
    assert run.status == "cancelled"
    assert engine.calls == 1


def test_cancel_while_the_model_answers_ends_the_run_and_no_call_starts_after_it(home):
    asked, release = threading.Event(), threading.Event()

    def slow(_: str) -> str:
        asked.set()
        release.wait(20)
        return code("SUBMIT(answer='too late')")

    live, engine = start(slow, home)
    assert asked.wait(30)
    begun = time.monotonic()
    live.cancel()
    run, _ = finish(live)
    release.set()
    assert time.monotonic() - begun < 1.5
    assert run.status == "cancelled"
    assert run.answer is None
    assert engine.calls == 1


def test_cancel_while_children_work_ends_the_whole_tree(isolated):
    deep, release = threading.Event(), threading.Event()

    def script(prompt: str) -> str:
        if not is_planner(prompt):
            deep.set()
            release.wait(20)
            return "late"
        return family(prompt)

    live, engine = start(script, isolated)
    assert deep.wait(30)
    live.cancel()
    run, _ = finish(live)
    made = engine.calls
    release.set()
    assert run.status == "cancelled"
    assert engine.calls == made


def test_the_deadline_ends_a_run_that_computes_forever(isolated):
    live, _ = start([code("while True: pass")], isolated, seconds=1.5)
    run, _ = finish(live)
    assert run.status == "over_budget"
    assert run.error is not None
    assert run.error.code == "deadline"


def test_a_planner_that_never_submits_is_asked_for_what_it_saw(home):
    def script(prompt: str) -> str:
        if is_planner(prompt) and "## code ## ]]" in prompt:
            return code("print('looking')")
        return "[[ ## answer ## ]]\nfrom what was seen\n\n[[ ## completed ## ]]"

    live, engine = start(script, home)
    run, _ = finish(live)
    assert run.status == "done"
    assert run.answer == "from what was seen"
    assert engine.calls == 21


def test_cancelling_a_run_that_has_ended_changes_nothing(home):
    live, _ = start([code("SUBMIT(answer='done')")], home)
    run, _ = finish(live)
    live.cancel()
    assert live.result() == run


def test_an_empty_question_is_refused_before_any_work():
    with pytest.raises(BadRequest, match="empty"):
        scripted_workbench([], home=UnisolatedSandboxes()).ask("   ")


def test_a_small_context_takes_a_plain_call_and_says_so():
    engine = ScriptedEngine(["[[ ## answer ## ]]\n42\n\n[[ ## completed ## ]]"])
    bench = scripted_workbench(engine, home=UnisolatedSandboxes())
    live = bench.ask(Question("how many?", context="there are 42"))
    run, tree = finish(live)
    assert run.answer == "42"
    assert engine.calls == 1
    assert tree.started is not None
    assert "direct" in tree.started.note
    assert bench.session().turns[0].run == run
