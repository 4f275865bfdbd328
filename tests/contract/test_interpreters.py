"""`Interpreter`: one suite over the real thing at each level of isolation and, where it promises the same, DSPy's own.

The finer points of cells, values and the line are tested on a terminal of this machine, in `unit/sandbox`.
"""

from __future__ import annotations

import functools
import inspect
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import dspy
import pandas
import pytest
from contract.levels import sandboxes_at
from dspy.primitives.code_interpreter import CodeExecutionError, CodeInterpreter, CodeInterpreterError, FinalOutput
from dspy.utils.callback import BaseCallback

from fleet_rlm_jupyter.domain.errors import SandboxLost
from fleet_rlm_jupyter.domain.ports import EXECUTION_INSTRUCTIONS, Role
from fleet_rlm_jupyter.testing import ScriptedEngine, code

ROLE = Role("s-1", "r-1", "rlm", 1)
SECONDS = 30

Make = Callable[[], Any]


def making(level: str) -> Iterator[Make]:
    if level == "DSPy":
        yield dspy.LocalInterpreter
        return
    with sandboxes_at(level) as home:
        yield lambda: home.open(ROLE)


@pytest.fixture(scope="module", params=["L3", "L1", "DSPy"])
def make(request: pytest.FixtureRequest) -> Iterator[Make]:
    """Interpreters of every kind: for what DSPy's own promises too."""
    yield from making(request.param)


@pytest.fixture(scope="module", params=["L3", "L1"])
def make_ours(request: pytest.FixtureRequest) -> Iterator[Make]:
    yield from making(request.param)


@pytest.fixture
def any_repl(make: Make) -> Iterator[Any]:
    made = make()
    yield made
    made.shutdown()


@pytest.fixture
def repl(make_ours: Make) -> Iterator[Any]:
    made = make_ours()
    yield made
    made.shutdown()


# --- what DSPy's own promises too -----------------------------------------------------------------------------------


def test_it_is_a_code_interpreter(any_repl):
    assert isinstance(any_repl, CodeInterpreter)


def test_state_stays_and_start_is_idempotent(any_repl):
    any_repl.start()
    any_repl.execute("x = 20\ndef more(n): return n + 1")
    any_repl.start()
    assert str(any_repl.execute("more(x) * 2")) == "42"


def test_variables_are_set_before_the_cell_and_anew_for_each(any_repl):
    given = {"context": {"a": [1, 2]}, "n": 3}
    assert str(any_repl.execute("print(sum(context['a']) + n)", given)).strip() == "6"
    any_repl.execute("context['a'].append(100)\nn = 0", given)
    assert str(any_repl.execute("print(sum(context['a']) + n)", given)).strip() == "6"


def test_nothing_shown_is_nothing(any_repl):
    assert not any_repl.execute("x = 1")


def test_tools_are_globals(any_repl):
    any_repl.tools["add"] = lambda a, b=1: a + b
    any_repl.execute("got = add(a=1, b=2)")
    assert str(any_repl.execute("print(got)")).strip() == "3"


def test_submit_ends_the_cell_with_the_fields(any_repl):
    any_repl.output_fields = [{"name": "answer", "type": "str"}, {"name": "n"}]
    assert any_repl.execute("SUBMIT(answer='x', n=[1])\nraise ValueError") == FinalOutput({"answer": "x", "n": [1]})


@pytest.mark.parametrize("source", ["def f(:", "x ="])
def test_a_syntax_error_is_one(any_repl, source):
    with pytest.raises(SyntaxError):
        any_repl.execute(source)
    assert str(any_repl.execute("1 + 1")) == "2"


@pytest.mark.parametrize("source", ["1 / 0", "missing", "import no_such_module", "tool()"])
def test_an_error_of_the_code_can_be_mended(any_repl, source):
    def tool() -> None:
        raise ValueError("a tool failed")

    any_repl.tools["tool"] = tool
    with pytest.raises(CodeExecutionError):
        any_repl.execute(source)
    assert str(any_repl.execute("1 + 1")) == "2"


def test_calls_are_served_in_parallel(any_repl):
    barrier = threading.Barrier(4, timeout=SECONDS)
    any_repl.tools["meet"] = lambda n: barrier.wait() is not None and n
    source = """
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(4) as pool:
    print(list(pool.map(lambda n: meet(n=n), range(4))))
"""
    assert str(any_repl.execute(source)).strip() == "[0, 1, 2, 3]"


def test_a_second_cell_at_the_same_time_is_refused(any_repl):
    any_repl.tools["again"] = lambda: any_repl.execute("1")
    with pytest.raises(CodeInterpreterError, match=r"(?i)running already|active execution"):
        any_repl.execute("again()")


class Stop(BaseException):
    pass


def test_a_base_exception_of_a_tool_reaches_the_caller(any_repl):
    def stops() -> None:
        raise Stop

    any_repl.tools["stops"] = stops
    with pytest.raises(Stop):
        any_repl.execute("stops()")


def test_the_end_of_the_process_is_terminal_and_nothing_restarts(any_repl):
    any_repl.execute("kept = 1")
    with pytest.raises(CodeInterpreterError) as caught:
        any_repl.execute("import os\nos._exit(3)")
    assert not isinstance(caught.value, CodeExecutionError)
    with pytest.raises(CodeInterpreterError):
        any_repl.execute("kept")


def test_after_shutdown_it_is_over(any_repl):
    any_repl.execute("1")
    any_repl.shutdown()
    any_repl.shutdown()
    with pytest.raises(CodeInterpreterError):
        any_repl.execute("1")


def test_callbacks_tell_of_everything(any_repl):
    told: list[str] = []

    class Listener(BaseCallback):
        def on_interpreter_startup_end(self, call_id, outputs, exception=None):
            told.append("start")

        def on_interpreter_execute_end(self, call_id, outputs, exception=None):
            told.append(f"execute {type(exception).__name__ if exception else outputs}")

        def on_interpreter_tool_call_start(self, call_id, instance, inputs):
            told.append(f"call {inputs['tool_name']}")

        def on_interpreter_shutdown_end(self, call_id, outputs, exception=None):
            told.append("shutdown")

    any_repl.tools["tool"] = lambda: 1
    with dspy.context(callbacks=[Listener()]):
        any_repl.execute("tool()")
        with pytest.raises(CodeExecutionError):
            any_repl.execute("1 / 0")
        any_repl.shutdown()
    assert told == ["start", "call tool", "execute 1", "execute CodeExecutionError", "shutdown"]


# --- what ours promises beyond that ---------------------------------------------------------------------------------


def test_prints_and_value_are_kept_also_before_an_error(repl):
    assert repl.execute("print('a')\n'b'") == "a\nb"
    with pytest.raises(CodeExecutionError, match=r"(?s)^a\n.*ZeroDivisionError"):
        repl.execute("print('a')\n1 / 0")


def test_positional_arguments_are_bound_by_the_tools_signature(repl):
    def real(query: str, limit: int = 3) -> list[object]:
        return [query, limit]

    @functools.wraps(real)
    def wrapper(**named: Any) -> list[object]:
        return real(**named)

    wrapper.__signature__ = inspect.signature(real)
    repl.tools["find"] = wrapper
    assert repl.execute("find('x'), find('x', 5), find(limit=1, query='y')") == "(['x', 3], ['x', 5], ['y', 1])"
    with pytest.raises(CodeExecutionError, match="TypeError"):
        repl.execute("find()")


def test_output_is_bounded_and_subprocesses_are_heard(repl):
    text = repl.execute(
        "import os\nos.system('echo from below')\nprint('y' * 5_000_000)\nfor n in range(200_000): print(n)"
    )
    assert text.startswith("from below\nyyy")
    assert text.endswith("199999")
    assert len(text) < 101_000


def test_sixteen_slow_calls_take_as_long_as_one(repl):
    repl.tools["slow"] = lambda n: time.sleep(0.05) or n
    source = """
import time
from concurrent.futures import ThreadPoolExecutor
begun = time.monotonic()
with ThreadPoolExecutor(16) as pool:
    assert list(pool.map(slow, range(16))) == list(range(16))
print(time.monotonic() - begun)
"""
    assert float(repl.execute(source)) < 0.3


def test_an_interrupt_keeps_the_state(repl):
    begun = threading.Event()
    repl.tools["begun"] = begun.set
    thread = threading.Thread(target=lambda: begun.wait(SECONDS) and repl.interrupt(), daemon=True)
    thread.start()
    with pytest.raises(CodeExecutionError, match="KeyboardInterrupt"):
        repl.execute("kept = 7\nbegun()\nwhile True: pass")
    assert repl.execute("kept") == "7"


def test_a_process_that_is_killed_is_lost_and_that_is_said(repl):
    with pytest.raises(CodeInterpreterError, match="killed") as caught:
        repl.execute("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    assert isinstance(caught.value.__cause__, SandboxLost)
    assert caught.value.__cause__.hint


def test_too_much_memory_is_an_error_of_the_cell():
    with sandboxes_at("L3", memory_mb=256) as home:
        repl = home.open(ROLE)
        with pytest.raises(CodeExecutionError, match="MemoryError"):
            repl.execute("x = bytearray(10**9)")
        assert repl.execute("1 + 1") == "2"
        with pytest.raises(CodeInterpreterError, match=r"(?s)inputs.*memory_mb") as caught:
            repl.execute("1", {"context": {str(n): "x" * 1000 for n in range(120_000)}})
        assert not isinstance(caught.value, CodeExecutionError)


def test_a_disk_that_is_full_is_an_error_of_the_cell(repl):
    with pytest.raises(CodeExecutionError, match=r"OSError|No space left"):
        repl.execute("with open('/dev/full', 'w') as file: file.write('x')")
    assert repl.execute("1") == "1"


def test_a_large_context_is_sent_once_and_bound_at_no_cost(repl):
    text = "x" * 20_000_000
    assert repl.execute("len(context)", {"context": text}) == "20000000"
    costs = []
    for _ in range(5):
        begun = time.perf_counter()
        repl.execute("context = None", {"context": text})
        costs.append(time.perf_counter() - begun)
    assert repl.execute("len(context)", {"context": text}) == "20000000"
    assert min(costs) < 0.03
    assert repl.execute("context[0], len(context)", {"context": "y" * 20_000_000}) == "('y', 20000000)"
    assert repl.execute("import os\nsorted(n for n in os.listdir('.fleet') if n != 'fleet_guest.zip')") == "[]"


@pytest.mark.parametrize("text", ["line\r\nend\rand\n" * 4000, "é\ud800\0" * 20_000, "", "x"])
def test_a_text_arrives_as_it_is(repl, text):
    assert repl.execute("SUBMIT(context)", {"context": text}).output["output"] == text


def test_sandboxes_of_one_home_do_not_see_each_other(make_ours):
    with ThreadPoolExecutor(4) as pool:
        repls = [make_ours() for _ in range(4)]
        list(
            pool.map(
                lambda pair: pair[1].execute(f"mine = {pair[0]}\nopen('f', 'w').write(str(mine))"), enumerate(repls)
            )
        )
        assert list(pool.map(lambda repl: repl.execute("open('f').read() + str(mine)"), repls)) == [
            "00",
            "11",
            "22",
            "33",
        ]
        list(pool.map(lambda repl: repl.shutdown(), repls))


def test_a_table_stays_one_where_the_sandbox_has_pandas_and_is_columns_elsewhere(repl):
    frame = pandas.DataFrame({"n": [1, 2], "name": ["Ann", "Zoë"]})
    has = repl.execute("import importlib.util\nprint(importlib.util.find_spec('pandas') is not None)")
    repl.execute("import sys\nseen = context", {"context": frame})
    if has == "True":
        pandas.testing.assert_frame_equal(repl.pull("seen"), frame)
    else:
        assert repl.pull("seen") == {"n": [1, 2], "name": ["Ann", "Zoë"]}


def test_a_value_comes_out_by_its_name_however_large(repl):
    repl.execute("found = {'pages': ['x' * 1000] * 2000, 'when': {1, 2}}")
    assert repl.pull("found") == {"pages": ["x" * 1000] * 2000, "when": {1, 2}}
    with pytest.raises(CodeExecutionError, match="NameError"):
        repl.pull("missing")
    assert repl.execute("import os\nlen(os.listdir('.fleet'))") == "1"


# --- inside dspy.RLM ------------------------------------------------------------------------------------------------


def run_rlm(make: Make, script: list[str], sub: str = "sub", **inputs: Any) -> tuple[Any, ScriptedEngine]:
    engine = ScriptedEngine(script)
    lm = dspy.LM("scripted/planner", engine=engine, cache=False)
    asked = dspy.LM("scripted/sub", engine=ScriptedEngine(lambda prompt: f"{sub}: {prompt}"), cache=False)
    with dspy.context(lm=lm):
        rlm = dspy.RLM("context, question -> answer", sub_lm=asked, interpreter_factory=make, max_iters=5)
        return rlm(**inputs), engine


def test_an_rlm_runs_to_its_answer(make_ours):
    script = [
        code("print(len(context))\ncontext = 'gone'"),
        code("print(context[:4])\nparts = llm_query_batched([f'q{n}' for n in range(3)])\none = llm_query('q')"),
        code("SUBMIT(parts[2] + ', ' + one)"),
    ]
    result, engine = run_rlm(make_ours, script, context="text" * 100_000, question="?")
    assert result.answer == "sub: q2, sub: q"
    outputs = [step["output"] for step in result.trajectory]
    assert outputs[0] == "400000"
    assert outputs[1] == "text"
    assert "dspy.Predict" not in engine.prompts[0], "the facade is refused, so the prompt does not offer it"


class Report(dspy.SandboxSerializable):
    """A value of DSPy's protocol: a file that the sandbox has, by its path."""

    sent = 0

    def sandbox_setup(self) -> str:
        return "import pathlib"

    def to_sandbox(self) -> bytes:
        Report.sent += 1
        return b"report.txt"

    def sandbox_assignment(self, var_name: str, data_expr: str) -> str:
        return f"pathlib.Path('report.txt').write_text('kept on a volume')\n{var_name} = pathlib.Path({data_expr})"

    def rlm_preview(self, max_chars: int = 500) -> str:
        return "a report on the volume"


def test_an_rlm_takes_a_handle_to_a_file_and_a_table(make_ours):
    Report.sent = 0
    script = [code("print(context.read_text())"), code("SUBMIT(answer=context.read_text())")]
    result, engine = run_rlm(make_ours, script, context=Report(), question="?")
    assert result.answer == "kept on a volume"
    assert Report.sent == 1
    assert "a report on the volume" in engine.prompts[0]
    frame = pandas.DataFrame({"n": [20, 22]})
    result, _ = run_rlm(make_ours, [code("SUBMIT(answer=str(sum(context['n'])))")], context=frame, question="?")
    assert result.answer == "42"


def test_an_rlm_reads_its_errors_and_goes_on(make_ours):
    script = [
        code("print('seen')\n1 / 0"),
        code("SUBMIT()"),
        code("x = ("),
        code("SUBMIT(answer=str(len(context)))"),
    ]
    result, _ = run_rlm(make_ours, script, context={"a": 1}, question="?")
    assert result.answer == "1"
    outputs = [step["output"] for step in result.trajectory]
    assert "seen" in outputs[0]
    assert "ZeroDivisionError" in outputs[0]
    assert "SUBMIT also needs answer" in outputs[1]
    assert "SyntaxError" in outputs[2]


def test_the_facade_is_refused_with_a_reason_and_without_starting_a_sandbox(make_ours):
    repl = make_ours()
    with pytest.raises(CodeExecutionError, match="sub_rlm or llm_query"):
        repl.execute("import dspy", {"__dspy_host_token": "x"})
    assert repl.sandbox_id == ""
    assert repl.execution_instructions == EXECUTION_INSTRUCTIONS
    repl.shutdown()


USES_FUNCTIONS = """
import os
home = os.getcwd()
os.chdir("/")
assert run("echo hi; exit 3") == (3, "hi\\n", "")
said = add_buffer("notes", "one\\ntwo")
kept = get_buffer("notes")
clear_buffer("notes")
save_to_volume("memory/deep/a.txt", "x\\nfind me\\n")
os.chdir(home)
print(said, kept, get_buffer("notes"))
print(find_files("a.txt"), list_files("memory/deep"), load_from_volume("memory/deep/a.txt") == "x\\nfind me\\n")
print(grep("find", "memory")[0].line, peek("memory/deep/a.txt", 2, 4), read_file("memory/deep/a.txt", 2))
write_file("src/a.py", "class A:\\n    def f(self): pass\\n")
write_file("src/a.py", "x = 1\\n", append=True)
quick, slow = start_process("echo quick; exit 3"), start_process("echo slow; sleep 60")
while (process := read_process(quick)).is_running or not read_process(slow).output:
    pass
print([one.name for one in outline("src")], tuple(process), tuple(stop_process(slow)))
print(REPO_PATH == home, list_files(MEMORY_ROOT + "/memory") == [MEMORY_ROOT + "/memory/deep/"])
"""


@pytest.mark.parametrize("level", ["L3", "L2", "L1"])
def test_the_functions_of_the_repl_work_at_every_level(level):
    with sandboxes_at(level) as home:
        said = home.open(ROLE).execute(USES_FUNCTIONS)
    assert said.splitlines() == [
        "buffers/notes/000001.txt: 7 bytes are in this sandbox and end with it, for it has no volume ['one\\ntwo'] []",
        "['memory/deep/a.txt'] ['memory/deep/a.txt'] True",
        "2 find find me",
        "",
        "['A', 'A.f'] (False, 3, 'quick\\n') (False, None, 'slow\\n')",
        "True True",
    ]
