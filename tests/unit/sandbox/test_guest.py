"""What a cell may expect of the REPL: on a guest over a terminal of this machine."""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import datetime
import decimal
import math
import os
import pty
import subprocess
import sys
import threading
import time
from collections import OrderedDict, namedtuple

import pydantic
import pytest
from dspy.primitives.code_interpreter import CodeExecutionError, CodeInterpreterError, FinalOutput
from unit.sandbox.pty_machine import SECONDS, PtyMachine, local_interpreter

from fleet_rlm_jupyter.domain.errors import SandboxLost
from fleet_rlm_jupyter.sandbox.codec import encode
from fleet_rlm_jupyter.sandbox.interpreter import SandboxInterpreter
from fleet_rlm_jupyter.sandbox.kernel_link import guest_archive
from fleet_rlm_jupyter.settings import SandboxSettings

Point = namedtuple("Point", "x y")


@pytest.fixture(scope="module")
def shared():
    """One REPL for the tests that leave it as they found it."""
    made = local_interpreter()
    made.start()
    yield made
    made.shutdown()


@pytest.fixture
def repl(shared):
    shared.tools.clear()
    shared.output_fields = None
    yield shared
    assert shared.execute("'alive'") == "alive"


@pytest.fixture
def own():
    """A REPL for one test, which may break it."""
    made = local_interpreter()
    yield made
    made.shutdown()


def in_background(work) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def once_running(interpreter: SandboxInterpreter, act) -> threading.Thread:
    """`act()` as soon as the running cell calls the tool `running`."""
    begun = threading.Event()
    interpreter.tools["running"] = begun.set

    def work() -> None:
        assert begun.wait(SECONDS)
        act()

    return in_background(work)


# --- what comes back ------------------------------------------------------------------------------------------------


def test_prints_and_the_last_value_are_both_kept(repl):
    assert repl.execute("print('printed')\n6 * 7") == "printed\n42"


def test_nothing_printed_is_none(repl):
    assert repl.execute("x = 1") is None
    assert repl.execute("") is None
    assert repl.execute("None") is None


def test_what_was_printed_before_an_exception_is_kept(repl):
    with pytest.raises(CodeExecutionError) as caught:
        repl.execute("print('before')\n1 / 0")
    assert str(caught.value).startswith("before\n")
    assert "ZeroDivisionError: division by zero" in str(caught.value)


def test_a_traceback_shows_the_cell_and_not_our_own_frames(repl):
    with pytest.raises(CodeExecutionError) as caught:
        repl.execute("def f():\n    return missing\n\nf()")
    text = str(caught.value)
    assert "return missing" in text
    assert "line 2, in f" in text
    assert "guest.py" not in text


def test_variables_imports_and_functions_stay(repl):
    repl.execute("import math as m\nkept = [1]\ndef double(n): return 2 * n")
    assert repl.execute("kept.append(double(m.floor(2.5)))\nkept") == "[1, 4]"


def test_annotations_are_what_they_are_in_a_script(repl):
    assert repl.execute("def f(x: int): ...\nf.__annotations__") == "{'x': <class 'int'>}"


def test_classes_of_cells_can_be_pickled_and_their_hints_resolved(repl):
    code = """
import pickle, typing, dataclasses
@dataclasses.dataclass
class Row:
    n: 'int'
print(pickle.loads(pickle.dumps(Row(3))), typing.get_type_hints(Row))
"""
    assert repl.execute(code) == "Row(n=3) {'n': <class 'int'>}"


def test_a_syntax_error_is_one_and_the_next_cell_runs(repl):
    with pytest.raises(SyntaxError):
        repl.execute("def f(:\n  pass")
    assert repl.execute("1 + 1") == "2"


def test_code_that_no_parser_takes_is_a_syntax_error(repl):
    with pytest.raises((SyntaxError, CodeExecutionError)):
        repl.execute("x = '\0'")
    with pytest.raises((SyntaxError, CodeExecutionError)):
        repl.execute("(" * 5000)
    assert repl.execute("1 + 1") == "2"


def test_a_surrogate_in_code_and_output_arrives(repl):
    assert repl.execute("print('\\ud800')") == "\ud800"


@pytest.mark.parametrize(
    "code",
    [
        "class Bad(Exception):\n    def __str__(self): raise ValueError('no')\nraise Bad",
        "class Bad:\n    def __repr__(self): raise ValueError('no')\nBad()",
        "raise ValueError('x' * 5_000_000)",
        "def deep(n): return deep(n + 1)\ndeep(0)",
        "raise KeyboardInterrupt",
        "raise BaseException('plain')",
        "raise ExceptionGroup('many', [ValueError(1), KeyError(2)])",
        "import sys\nsys.exit(3)",
        "exit()",
        "x = 1\nx[0]",
    ],
)
def test_any_exception_is_one_the_model_reads_and_the_session_goes_on(repl, code):
    repl.execute("kept = 'state'")
    with pytest.raises(CodeExecutionError) as caught:
        repl.execute(code)
    assert 0 < len(str(caught.value)) < 100_000
    assert repl.execute("kept") == "state"


def test_code_that_is_too_long_is_said_and_does_not_hang(repl):
    with pytest.raises(CodeExecutionError, match="too long"):
        repl.execute("x = 1\n" * 500_000)
    assert repl.execute("1 + 1") == "2"


# --- output ---------------------------------------------------------------------------------------------------------


def test_output_is_bounded_to_head_and_tail():
    repl = local_interpreter(SandboxSettings(output_chars=2000))
    try:
        text = repl.execute("for i in range(200_000): print(i)")
        assert text.startswith("0\n1\n2\n")
        assert text.endswith("199998\n199999")
        assert "characters left out" in text
        assert len(text) < 2200
    finally:
        repl.shutdown()


def test_no_line_is_lost_below_the_bound():
    repl = local_interpreter(SandboxSettings(output_chars=3_000_000))
    try:
        text = repl.execute("for i in range(200_000): print(i)")
        assert text == "\n".join(map(str, range(200_000)))
    finally:
        repl.shutdown()


def test_one_huge_print_is_bounded_and_the_session_goes_on(repl):
    text = repl.execute("print('a' + 'y' * 5_000_000 + 'z')")
    assert text.startswith("ay")
    assert text.endswith("yz")
    assert len(text) < 101_000
    assert repl.execute("1") == "1"


def test_what_subprocesses_print_is_captured_in_its_place(repl):
    code = (
        "import os, subprocess\nprint('a')\nos.system('echo b')\nprint('c')\nsubprocess.run(['echo', 'd'])\nprint('e')"
    )
    assert repl.execute(code) == "a\nb\nc\nd\ne"


def test_what_subprocesses_say_on_stderr_is_captured(repl):
    text = repl.execute("import os\nos.system('echo gone wrong >&2; exit 3')")
    assert "gone wrong" in text


def test_output_of_threads_is_whole(repl):
    code = """
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(8) as pool:
    list(pool.map(lambda n: [print(f'<{n}:{i}>\\n', end='') for i in range(300)], range(8)))
"""
    lines = repl.execute(code).splitlines()
    assert sorted(lines) == sorted(f"<{n}:{i}>" for n in range(8) for i in range(300))


def test_output_is_told_while_the_cell_runs_in_the_callers_context():
    place = contextvars.ContextVar("place", default="nowhere")
    told: list[tuple[str, str, str]] = []
    heard = threading.Event()

    def listen(stream: str, text: str) -> None:
        told.append((place.get(), stream, text))
        heard.set()

    repl = local_interpreter(on_output=listen)
    repl.tools["wait"] = lambda: heard.wait(SECONDS)
    place.set("here")
    try:
        repl.execute("import sys\nprint('out')\nassert wait()\nprint('err', file=sys.stderr)")
    finally:
        repl.shutdown()
    assert ("here", "stdout", "out\n") in told
    assert ("here", "stderr", "err\n") in told


def test_input_has_an_end(repl):
    with pytest.raises(CodeExecutionError, match="EOFError"):
        repl.execute("input()")


# --- SUBMIT ---------------------------------------------------------------------------------------------------------


def test_submit_returns_the_fields(repl):
    repl.output_fields = [{"name": "answer", "type": "str"}, {"name": "count", "type": "int"}]
    assert repl.execute("SUBMIT('a', count=2)") == FinalOutput({"answer": "a", "count": 2})
    assert repl.execute("print('x')\nSUBMIT(count=2, answer='a')\nprint('not reached')").output["count"] == 2


@pytest.mark.parametrize("call", ["SUBMIT()", "SUBMIT('a')", "SUBMIT('a', 1, 2)", "SUBMIT('a', 1, b=2)", "SUBMIT(b=2)"])
def test_a_submit_of_wrong_arity_is_an_error_the_model_reads(repl, call):
    repl.output_fields = [{"name": "answer"}, {"name": "count"}]
    with pytest.raises(CodeExecutionError, match=r"(?s)TypeError.*(answer|count)"):
        repl.execute(call)


def test_submit_without_fields_takes_one_value(repl):
    assert repl.execute("SUBMIT(5)") == FinalOutput({"output": 5})


def test_no_handler_of_the_cell_swallows_a_submit(repl):
    assert repl.execute("try:\n    SUBMIT(5)\nexcept Exception:\n    pass\nprint(1)") == FinalOutput({"output": 5})


def test_what_cannot_be_submitted_is_said_and_the_session_goes_on(repl):
    with pytest.raises(CodeExecutionError, match="module"):
        repl.execute("import os\nSUBMIT(os)")
    assert repl.execute("1") == "1"


def test_a_large_submit_goes_by_file(repl):
    assert repl.execute("SUBMIT('é' * 2_000_000)").output["output"] == "é" * 2_000_000


def test_a_false_value_is_submitted_too(repl):
    assert repl.execute("SUBMIT(None)") == FinalOutput({"output": None})
    assert repl.execute("SUBMIT('')") == FinalOutput({"output": ""})


# --- tools ----------------------------------------------------------------------------------------------------------


class Model(pydantic.BaseModel):
    name: str
    when: datetime.date


@dataclasses.dataclass
class Row:
    a: int
    b: set[str]


VALUES = [
    None,
    True,
    0,
    -(2**200),
    1.5,
    math.inf,
    -math.inf,
    "",
    "text\x1e\0\n\ud800é",
    b"\0\xff",
    [1, [2]],
    (1, (2,)),
    {1, 2},
    frozenset({3}),
    {"a": 1, "~": 2},
    {1: "a", (2, 3): "b", None: "c"},
    datetime.datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=datetime.UTC),
    datetime.date(2026, 1, 2),
    datetime.time(1, 2),
    datetime.timedelta(days=-1, microseconds=3),
    decimal.Decimal("1.10"),
]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_a_value_comes_back_from_the_sandbox_as_it_was(repl, value):
    got: list[object] = []
    repl.tools["echo"] = lambda item: (got.append(item), item)[1]
    final = repl.execute("SUBMIT([given, echo(given)])", {"given": value}).output["output"]
    assert final == [value, value]
    assert got == [value]
    assert type(final[0]) is type(final[1]) is type(got[0]) is type(value)


def test_nan_travels(repl):
    assert math.isnan(repl.execute("SUBMIT(x)", {"x": math.nan}).output["output"])


def test_objects_that_the_sandbox_does_not_know_arrive_as_their_fields(repl):
    repl.tools["model"] = lambda: Model(name="n", when=datetime.date(2026, 1, 2))
    repl.tools["row"] = lambda: Row(1, {"x"})
    repl.tools["point"] = lambda: Point(1, 2)
    repl.tools["ordered"] = lambda: OrderedDict(b=1, a=2)
    assert repl.execute("model()") == "{'name': 'n', 'when': datetime.date(2026, 1, 2)}"
    assert repl.execute("row()") == "{'a': 1, 'b': {'x'}}"
    assert repl.execute("point()['y']") == "2"
    assert repl.execute("list(ordered())") == "['b', 'a']"


def test_views_ranges_and_subclasses_of_dates_travel_as_the_plain_thing(repl):
    code = """
import collections, datetime, enum
class Stamp(datetime.datetime): ...
class Color(enum.IntEnum):
    RED = 1
SUBMIT([{'a': 1}.values(), {'a': 1}.keys(), range(3), collections.deque([1]), Stamp(2026, 1, 2), Color.RED,
        (n for n in range(2))])
"""
    got = repl.execute(code).output["output"]
    assert got == [[1], ["a"], [0, 1, 2], [1], datetime.datetime(2026, 1, 2), 1, [0, 1]]


def test_a_tool_takes_positional_and_keyword_arguments(repl):
    def tool(a, b=2, *rest, c=3, **more):
        return [a, b, list(rest), c, more]

    repl.tools["tool"] = tool
    assert repl.execute("tool(1)") == "[1, 2, [], 3, {}]"
    assert repl.execute("tool(1, 5, 6, c=7, d=8)") == "[1, 5, [6], 7, {'d': 8}]"


def test_positional_arguments_reach_a_wrapper_that_takes_keywords_only(repl):
    import functools
    import inspect

    def real(first, second=0):
        """What DSPy's RLM wraps."""

    @functools.wraps(real)
    def wrapper(**named):
        return sorted(named)

    wrapper.__signature__ = inspect.signature(real)
    repl.tools["tool"] = wrapper
    assert repl.execute("tool('x', 1)") == "['first', 'second']"


@pytest.mark.parametrize("call", ["tool()", "tool(1, 2)", "tool(b=1)", "tool(1, a=1)"])
def test_arguments_that_do_not_fit_are_an_error_the_model_reads(repl, call):
    repl.tools["tool"] = lambda a: a
    with pytest.raises(CodeExecutionError, match="TypeError"):
        repl.execute(call)
    assert repl.execute("tool(1)") == "1"


def test_an_error_of_a_tool_can_be_caught_by_the_cell(repl):
    def fails():
        raise KeyError("absent")

    repl.tools["fails"] = fails
    assert repl.execute("try:\n    fails()\nexcept Exception as err:\n    print(err)") == "KeyError: 'absent'"
    with pytest.raises(CodeExecutionError, match="KeyError: 'absent'"):
        repl.execute("fails()")


def test_a_result_that_cannot_travel_is_an_error_the_model_reads(repl):
    repl.tools["tool"] = lambda: object()
    with pytest.raises(CodeExecutionError, match="object cannot travel"):
        repl.execute("tool()")


def test_none_is_none(repl):
    repl.tools["nothing"] = lambda: None
    assert repl.execute("print(nothing() is None)") == "True"


def test_large_arguments_and_results_go_by_file_and_leave_none_behind(repl):
    repl.tools["double"] = lambda text: text * 2
    assert repl.execute("print(len(double('x' * 3_000_000)))") == "6000000"
    assert repl.execute("import os\nsorted(n for n in os.listdir('.fleet') if n != 'fleet_guest.zip')") == "[]"


def test_awaitable_tools_are_awaited(repl):
    async def tool(n):
        return n + 1

    repl.tools["tool"] = tool
    assert repl.execute("tool(1)") == "2"


def test_calls_from_threads_run_in_parallel(repl):
    def slow(n):
        time.sleep(0.05)
        return n

    repl.tools["slow"] = slow
    code = """
import time
from concurrent.futures import ThreadPoolExecutor
begun = time.monotonic()
with ThreadPoolExecutor(16) as pool:
    assert list(pool.map(slow, range(16))) == list(range(16))
print(time.monotonic() - begun)
"""
    assert float(repl.execute(code)) < 0.5


def test_many_large_calls_at_once_all_arrive(repl):
    repl.tools["size"] = len
    code = """
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(80) as pool:
    print(set(pool.map(lambda n: size('x' * 200_000), range(80))))
"""
    assert repl.execute(code) == "{200000}"


def test_a_tool_runs_in_the_callers_context(repl):
    place = contextvars.ContextVar("place", default="nowhere")
    place.set("here")
    repl.tools["where"] = place.get
    assert repl.execute("where()") == "here"


def test_a_tool_that_is_gone_is_an_error_the_model_reads(repl):
    repl.tools["tool"] = lambda: 1
    repl.execute("f = tool\nf()")
    del repl.tools["tool"]
    with pytest.raises(CodeExecutionError, match="tool"):
        repl.execute("f()")


def test_a_tool_replaced_under_its_name_is_the_new_one(repl):
    repl.tools["tool"] = lambda: 1
    assert repl.execute("tool()") == "1"
    repl.tools["tool"] = lambda: 2
    assert repl.execute("tool()") == "2"


def test_a_name_that_a_cell_took_from_a_tool_is_the_tools_again(repl):
    repl.tools["tool"] = lambda: 1
    repl.execute("tool = 5\nSUBMIT = 6")
    assert repl.execute("tool()") == "1"
    assert repl.execute("SUBMIT(1)") == FinalOutput({"output": 1})


def test_a_tool_cannot_run_a_cell_in_the_same_sandbox(repl):
    repl.tools["again"] = lambda: repl.execute("1")
    with pytest.raises(CodeExecutionError, match="running already"):
        repl.execute("again()")
    assert repl.execute("1") == "1"


class Stop(BaseException):
    pass


def test_a_base_exception_of_a_tool_ends_the_cell_and_reaches_the_caller(repl):
    def stops():
        raise Stop("now")

    repl.tools["stops"] = stops
    repl.execute("kept = 1")
    with pytest.raises(Stop, match="now"):
        repl.execute("stops()\nprint('not reached')")
    assert repl.execute("kept") == "1"


def test_threads_may_outlive_their_cell_and_call_later(repl):
    repl.tools["tool"] = lambda n: n + 1
    repl.execute("import threading\ngo = threading.Event()\ngot = []")
    repl.execute("thread = threading.Thread(target=lambda: (go.wait(), got.append(tool(1))))\nthread.start()")
    assert repl.execute("go.set()\nthread.join(10)\ngot") == "[2]"


# --- stopping -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "loop",
    ["while True: pass", "import time\ntime.sleep(60)", "import threading\nthreading.Event().wait()", "block()"],
)
def test_an_interrupt_stops_the_cell_and_keeps_its_variables(repl, loop):
    release = threading.Event()
    repl.tools["block"] = lambda: release.wait(SECONDS)
    once_running(repl, repl.interrupt)
    begun = time.monotonic()
    try:
        with pytest.raises(CodeExecutionError, match="KeyboardInterrupt"):
            repl.execute(f"kept = 'yes'\nprint('begun')\nrunning()\n{loop}")
    finally:
        release.set()
    assert time.monotonic() - begun < 2
    assert repl.execute("kept") == "yes"


def test_an_interrupt_of_a_printing_loop_never_tears_the_line(repl):
    for _ in range(25):
        once_running(repl, repl.interrupt)
        with pytest.raises(CodeExecutionError, match="KeyboardInterrupt"):
            repl.execute("running()\nwhile True: print('line')")
        assert repl.execute("1 + 1") == "2"


def test_an_interrupt_of_a_calling_loop_never_tears_the_line(repl):
    repl.tools["echo"] = lambda text: text
    for _ in range(25):
        once_running(repl, repl.interrupt)
        with pytest.raises(CodeExecutionError, match="KeyboardInterrupt"):
            repl.execute("running()\nwhile True: echo('x' * 1000)")
        assert repl.execute("1 + 1") == "2"


def test_an_interrupt_just_after_a_call_is_not_put_off(repl):
    for _ in range(100):
        once_running(repl, repl.interrupt)
        begun = time.monotonic()
        with pytest.raises(CodeExecutionError, match="KeyboardInterrupt"):
            repl.execute("running()\nimport threading\nthreading.Event().wait()")
        assert time.monotonic() - begun < 2


def test_an_interrupt_just_when_a_cell_begins_is_not_put_off(repl):
    for _ in range(50):
        over = threading.Event()

        def press(over: threading.Event = over) -> None:
            while not over.wait(0.001):
                repl.interrupt()

        thread = in_background(press)
        begun = time.monotonic()
        with pytest.raises(CodeExecutionError, match="KeyboardInterrupt"):
            repl.execute("import threading\nthreading.Event().wait()")
        over.set()
        thread.join(SECONDS)
        assert time.monotonic() - begun < 2


def test_an_interrupt_reaches_calls_that_wait_in_threads(repl):
    release = threading.Event()
    repl.tools["block"] = lambda: release.wait(SECONDS)
    once_running(repl, repl.interrupt)
    code = """
from concurrent.futures import ThreadPoolExecutor
running()
with ThreadPoolExecutor(4) as pool:
    list(pool.map(lambda n: block(), range(4)))
"""
    try:
        with pytest.raises(CodeExecutionError, match="KeyboardInterrupt"):
            repl.execute(code)
    finally:
        release.set()
    assert repl.execute("1") == "1"


def test_an_interrupt_without_a_cell_does_nothing(repl):
    repl.interrupt()
    assert repl.execute("1 + 1") == "2"


def test_an_interrupt_that_comes_late_does_not_hit_the_next_cell(repl):
    for _ in range(50):
        thread = in_background(repl.interrupt)
        with contextlib.suppress(CodeExecutionError):
            repl.execute("1")
        thread.join()
        assert repl.execute("sum(range(1000))") == "499500"


def test_a_cell_that_swallows_one_interrupt_is_stopped_by_the_next(own, monkeypatch):
    monkeypatch.setattr("fleet_rlm_jupyter.sandbox.cell.STEP_SECONDS", 0.3)
    own.execute("kept = 1")
    once_running(own, own.interrupt)
    with pytest.raises(CodeExecutionError, match="KeyboardInterrupt"):
        own.execute("try:\n    running()\n    while True: pass\nexcept KeyboardInterrupt:\n    pass\nwhile True: pass")
    assert own.execute("kept") == "1"


def test_a_cell_that_swallows_every_interrupt_costs_the_sandbox_and_that_is_said(own, monkeypatch):
    monkeypatch.setattr("fleet_rlm_jupyter.sandbox.cell.STEP_SECONDS", 0.3)
    once_running(own, own.interrupt)
    code = "while True:\n    try:\n        running()\n        while True: pass\n    except BaseException: pass"
    with pytest.raises(CodeInterpreterError) as caught:
        own.execute(code)
    assert not isinstance(caught.value, CodeExecutionError)
    assert isinstance(caught.value.__cause__, SandboxLost)
    with pytest.raises(CodeInterpreterError, match="over"):
        own.execute("1")


def test_a_cell_has_its_seconds_and_waiting_for_the_host_is_not_counted():
    repl = local_interpreter(SandboxSettings(cell_seconds=0.4))
    repl.tools["slow"] = lambda: time.sleep(0.6)
    try:
        assert repl.execute("slow()\n'done'") == "done"
        with pytest.raises(CodeExecutionError, match=r"0\.4 s"):
            repl.execute("kept = 1\nwhile True: pass")
        assert repl.execute("kept") == "1"
    finally:
        repl.shutdown()


def test_a_callback_may_take_longer_than_the_cell_and_longer_than_ten_minutes(monkeypatch):
    hours = 0.0
    real = time.monotonic
    monkeypatch.setattr("fleet_rlm_jupyter.sandbox.cell.time.monotonic", lambda: real() + hours * 3600)
    repl = local_interpreter(SandboxSettings(cell_seconds=300))

    def think() -> str:
        nonlocal hours
        hours += 2
        return "thought"

    repl.tools["think"] = think
    try:
        assert repl.execute("think(), think()") == "('thought', 'thought')"
    finally:
        repl.shutdown()


def test_a_call_of_an_earlier_cell_does_not_stop_the_clock_of_a_later_one():
    repl = local_interpreter(SandboxSettings(cell_seconds=0.4))
    release = threading.Event()
    repl.tools["block"] = lambda: release.wait(SECONDS)
    try:
        once_running(repl, repl.interrupt)
        with pytest.raises(CodeExecutionError):
            repl.execute("running()\nblock()")
        release.set()
        with pytest.raises(CodeExecutionError, match=r"0\.4 s"):
            repl.execute("while True: pass")
    finally:
        repl.shutdown()


def test_a_keyboard_interrupt_of_the_host_stops_the_cell_too(repl):
    class CtrlC(KeyboardInterrupt):
        pass

    def listen(stream: str, text: str) -> None:
        raise CtrlC  # as if the user had pressed it while the host waits for the cell

    machine_repl = local_interpreter(on_output=listen)
    try:
        machine_repl.execute("kept = 1")
        begun = time.monotonic()
        with pytest.raises(CtrlC):
            machine_repl.execute("print('x', flush=True)\nwhile True: pass")
        assert time.monotonic() - begun < 5
        assert machine_repl.execute("SUBMIT(kept)") == FinalOutput({"output": 1})
    finally:
        machine_repl.shutdown()


@pytest.mark.parametrize("end", ["import os\nos._exit(3)", "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"])
def test_the_end_of_the_process_ends_the_session_for_good(own, end):
    with pytest.raises(CodeInterpreterError) as caught:
        own.execute(end)
    assert not isinstance(caught.value, CodeExecutionError)
    assert isinstance(caught.value.__cause__, SandboxLost)
    with pytest.raises(CodeInterpreterError, match="over"):
        own.execute("1")


def test_shutting_down_while_a_cell_runs_wakes_it(own):
    once_running(own, own.shutdown)
    with pytest.raises(CodeInterpreterError):
        own.execute("running()\nwhile True: pass")


def test_shutting_down_twice_is_harmless(own):
    own.execute("1")
    own.shutdown()
    own.shutdown()
    with pytest.raises(CodeInterpreterError, match="shut down"):
        own.execute("1")


@pytest.mark.parametrize("code", ["", "import signal\nsignal.signal(signal.SIGHUP, signal.SIG_IGN)\nwhile True: pass"])
def test_a_guest_whose_terminal_is_gone_ends(tmp_path, code):
    package = tmp_path / "guest.zip"
    package.write_bytes(guest_archive())
    master, slave = pty.openpty()
    argv = [sys.executable, "-m", "fleet_guest.guest"]
    found = {**os.environ, "PYTHONPATH": str(package)}
    guest = subprocess.Popen(
        argv, stdin=slave, stdout=slave, stderr=slave, env=found, cwd=tmp_path, start_new_session=True
    )
    os.close(slave)
    said = b""
    while b'"ready"' not in said:
        said += os.read(master, 4096)
    if code:
        os.write(master, encode({"t": "exec", "c": "1", "code": f"print('runs', flush=True)\n{code}", "tools": []}))
        while b"runs" not in said:
            said += os.read(master, 4096)
    os.close(master)
    assert guest.wait(SECONDS) == 0


def test_a_guest_that_is_frozen_is_given_up_by_the_clock(monkeypatch):
    monkeypatch.setattr("fleet_rlm_jupyter.sandbox.cell.STEP_SECONDS", 0.2)
    repl = local_interpreter(SandboxSettings(cell_seconds=0.2))
    with pytest.raises(CodeInterpreterError) as caught:
        repl.execute("import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)")
    assert isinstance(caught.value.__cause__, SandboxLost)
    repl.shutdown()


# --- the line -------------------------------------------------------------------------------------------------------


def test_a_line_that_breaks_in_mid_cell_loses_nothing():
    opened: list[PtyMachine] = []

    def opening() -> PtyMachine:
        opened.append(PtyMachine())
        return opened[0]

    repl = SandboxInterpreter(opening, SandboxSettings())
    ticks: list[int] = []

    def tick(n):
        ticks.append(n)
        if n % 3 == 0:
            opened[0].cut()
            threading.Timer(0.05, opened[0].mend).start()
        return n

    repl.tools["tick"] = tick
    try:
        text = repl.execute("for n in range(10):\n    print('line', n)\n    assert tick(n) == n\nprint('end')")
        assert text.splitlines() == [f"line {n}" for n in range(10)] + ["end"]
        assert ticks == list(range(10))
    finally:
        repl.shutdown()


# --- functions that are there from the start ------------------------------------------------------------------------


def test_a_name_of_the_cell_an_input_or_a_host_function_wins_over_a_function_of_ours(repl):
    assert repl.execute("peek('abc', 1)") == "bc"
    assert repl.execute("peek", {"peek": "an input"}) == "an input"
    assert repl.execute("peek = 'mine'\npeek") == "mine"
    repl.tools["grep"] = lambda text: f"the host has {text}"
    assert repl.execute("grep('x')") == "the host has x"
    repl.tools.clear()
    assert repl.execute("del peek\npeek('abc', 1), grep('b', 'abc')[0].line") == "('bc', 1)"


def test_functions_of_ours_are_no_variables(repl):
    assert repl.execute("[name for name in globals() if name in ('run', 'grep', 'read_file', 'add_buffer')]") == "[]"
    with pytest.raises(CodeExecutionError, match="there is no variable grep"):
        repl.pull("grep")


def test_help_says_how_a_function_of_ours_is_used(repl):
    assert "Where a regular expression is" in repl.execute("help(grep)")


def test_an_error_of_such_a_function_shows_the_cells_lines_and_one_sentence(repl):
    with pytest.raises(CodeExecutionError) as caught:
        repl.execute("load_from_volume('memory/none.txt')")
    told = str(caught.value)
    assert "there is no memory/none.txt: list_files() and find_files() say what there is" in told
    assert "contextlib" not in told
    assert "guest_volume" not in told
    assert "during handling" not in told.lower()
