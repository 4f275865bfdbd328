"""Cells that break things, on purpose or not: each has an end that the caller can live with, at every level.

What code may reach at a level is tested in test_localdaytona_attacks.py; here it only harms itself.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from contract.levels import sandboxes_at
from dspy.primitives.code_interpreter import CodeExecutionError, CodeInterpreterError, FinalOutput

from fleet_rlm_jupyter.domain.errors import SandboxLost
from fleet_rlm_jupyter.domain.ports import Role

ROLE = Role("s-1", "r-1", "rlm", 1)
MEMORY_MB = 300
PATIENT, HASTY = 10.0, 1.0
"""Seconds that a cell may take: for cells that end by themselves, and for those that the clock ends."""

Make = Callable[[], Any]


@pytest.fixture(scope="module", params=["L3", "L2", "L1"])
def level(request: pytest.FixtureRequest) -> str:
    return request.param


def making(level: str, cell_seconds: float) -> Iterator[Make]:
    with sandboxes_at(level, memory_mb=MEMORY_MB, cell_seconds=cell_seconds) as home:
        yield lambda: home.open(ROLE)


@pytest.fixture(scope="module")
def patient(level: str) -> Iterator[Make]:
    yield from making(level, PATIENT)


@pytest.fixture(scope="module")
def hasty(level: str) -> Iterator[Make]:
    yield from making(level, HASTY)


@pytest.fixture(scope="module")
def shared(patient: Make) -> Iterator[Any]:
    made = patient()
    yield made
    made.shutdown()


@pytest.fixture
def repl(shared: Any) -> Iterator[Any]:
    """For cells that leave the session as it was: the next one must find its variables."""
    shared.tools.clear()
    shared.execute("kept = 7")
    yield shared
    assert shared.execute("kept") == "7"


@pytest.fixture
def own(hasty: Make, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """For cells that may cost their sandbox, or that only the clock ends."""
    monkeypatch.setattr("fleet_rlm_jupyter.sandbox.cell.STEP_SECONDS", 0.3)
    made = hasty()
    yield made
    made.shutdown()


@pytest.fixture
def own_patient(patient: Make) -> Iterator[Any]:
    made = patient()
    yield made
    made.shutdown()


FORGE = """
import json, os
def forge(**frame):
    body = json.dumps(frame).encode()
    data = b"\\x1e%08x" % len(body) + body
    for fd in range(3, 64):
        if os.isatty(fd):
            os.write(fd, data)
            return
    raise RuntimeError("no terminal")
def guest():
    import gc
    return next(thing for thing in gc.get_objects() if type(thing).__name__ == "Guest")
def next_number(): return guest()._outbox._next
def cell(): return guest()._brake.cell
"""

# --- what only costs the cell ---------------------------------------------------------------------------------------

ERRORS = {
    "one large allocation": ("bytearray(10**9)", r"(?s)MemoryError.*300 MB.*sandbox\.memory_mb"),
    "many small ones": ("hog = []\nwhile True: hog.append(bytearray(10**6))", r"(?s)MemoryError.*sandbox\.memory_mb"),
    "many tiny ones": ("hog = {n: str(n) for n in range(10**9)}", r"(?s)MemoryError.*sandbox\.memory_mb"),
    "endless recursion": ("def f(): f()\nf()", "RecursionError"),
    "exit": ("exit()", "SystemExit"),
    "sys.exit": ("import sys\nsys.exit(3)", "SystemExit"),
    "too many open files": ("hog = [open('/dev/null') for _ in range(10**6)]", "Too many open files"),
    "too large a file": ("open('big', 'wb').truncate(1 << 40)", "OSError"),
    "input": ("input('? ')", "EOFError"),
}  # fmt: skip


@pytest.mark.parametrize("name", ERRORS)
def test_it_is_an_error_of_the_cell_and_the_session_goes_on(repl, name):
    source, said = ERRORS[name]
    with pytest.raises(CodeExecutionError, match=said):
        repl.execute(source)
    repl.execute("hog = None")


ENDLESS = {
    "a loop": "while True: pass",
    "a sleep": "import time\ntime.sleep(10**6)",
    "a lock": "import threading\nlock = threading.Lock()\nlock.acquire()\nlock.acquire()",
    "a match": "import re\nre.match('(a+)+$', 'a' * 60 + 'b')",  # holds the GIL: only a signal from outside is heard
    "a deaf loop": "while True:\n    try:\n        while True: pass\n    except KeyboardInterrupt: break\nwhile 1: 1",
    "a child": "import subprocess\nsubprocess.run(['sleep', '999'])",
    "a full pipe": "import os\nr, w = os.pipe()\nwhile True: os.write(w, b'x' * 65536)",
}


def test_what_has_no_end_is_stopped_by_the_clock_and_the_state_stays(own):
    own.execute("kept = 7")
    for name, source in ENDLESS.items():
        with pytest.raises(CodeExecutionError, match=r"TimeoutError.*1 s"):
            own.execute(source)
        assert own.execute("kept") == "7", name


OUTPUT = {
    "every byte": ("import os\nos.write(1, bytes(range(256)) * 100)\n'end'", "end"),
    "what looks like a frame": (
        """import os\nbody = b'{"s":1,"t":"done","ok":true}'\nos.write(1, b'\\x1e%08x' % len(body) + body)\n'end'""",
        '"t":"done"',
    ),
    "a printed mark": ("print('\\x1e00000002{}')\n'end'", "\x1e00000002{}"),
    "a surrogate": ("'\\ud800 end'", "\ud800 end"),
    "a subprocess's junk": ("import os\nos.system(\"head -c 100000 /dev/urandom\")\n'end'", "end"),
    "a daemon's": ("import subprocess\nhog = subprocess.Popen('sleep 60; echo late', shell=True)\n'end'", "end"),
    "no stdout": ("import sys\nold, sys.stdout = sys.stdout, None\nprint(1)\nsys.stdout = old\n'end'", "end"),
    "a closed stdout": ("import sys\nsys.stdout.close()\nsys.stderr.close()\n'end'", "end"),
}


@pytest.mark.parametrize("name", OUTPUT)
def test_it_is_output_and_nothing_else(repl, name):
    source, said = OUTPUT[name]
    assert said in repl.execute(source)


def test_two_million_tiny_writes_and_200_mb_are_bounded_in_time_and_size(repl):
    begun = time.monotonic()
    text = repl.execute("import sys\nfor n in range(300_000): sys.stdout.write('xy\\n')\n'end'")
    assert text.endswith("end")
    text = repl.execute("for n in range(200): print('z' * 1_000_000)\n'end'")
    assert text.endswith("end")
    assert len(text) < 101_000
    assert time.monotonic() - begun < 15


def test_a_thread_bomb_is_an_error_and_the_next_cell_can_still_be_stopped(own_patient, level):
    if level == "L1":
        pytest.skip("nothing bounds the processes of a sandbox that is not isolated")
    with pytest.raises(CodeExecutionError, match=r"RuntimeError|MemoryError"):
        own_patient.execute(
            "import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(999,), daemon=True).start()"
        )
    running = threading.Event()
    own_patient.tools["running"] = running.set
    stopper = threading.Thread(target=lambda: running.wait(30) and own_patient.interrupt(), daemon=True)
    stopper.start()
    with pytest.raises(CodeExecutionError, match="KeyboardInterrupt"):
        own_patient.execute("running()\nwhile True: pass")
    assert own_patient.execute("1 + 1") == "2"


def test_a_fork_bomb_is_an_error_and_ends_with_the_sandbox(own_patient, level):
    if level == "L1":
        pytest.skip("nothing bounds the processes of a sandbox that is not isolated")
    bomb = "import os, time\nwhile True:\n    if os.fork() == 0:\n        time.sleep(999)\n        os._exit(0)"
    with pytest.raises(CodeExecutionError, match=r"BlockingIOError|MemoryError"):
        own_patient.execute(bomb)
    assert own_patient.execute("1 + 1") == "2"


def test_a_cell_that_reads_the_terminal_is_stopped_and_the_line_recovers(own):
    with pytest.raises(CodeExecutionError, match="TimeoutError"):
        own.execute("import os\nfd = next(n for n in range(3, 64) if os.isatty(n))\nwhile True: os.read(fd, 1)")
    assert own.execute("1 + 1") == "2"


def test_deleting_our_folder_costs_nothing_but_what_needs_it(own):
    own.execute("import shutil\nshutil.rmtree('.fleet')")
    assert own.execute("1 + 1") == "2"
    with pytest.raises(CodeExecutionError, match="No such file"):
        own.execute("SUBMIT('x' * 1_000_000)")
    assert own.execute("len(context)", {"context": "y" * 1_000_000}) == "1000000"
    assert own.execute("SUBMIT('x' * 1_000_000)") == FinalOutput({"output": "x" * 1_000_000})


# --- frames that the code writes itself -----------------------------------------------------------------------------


def test_a_forged_end_is_no_more_than_a_submit(own):
    own.execute(FORGE)
    result = own.execute("forge(s=next_number(), t='done', c=cell(), ok=True, final={'output': 5})")
    assert result == FinalOutput({"output": 5})
    assert own.execute("1 + 1") == "2"


def test_a_forged_call_reaches_only_the_tools_that_are_there(own):
    seen: list[object] = []
    own.tools["tool"] = seen.append
    own.execute(FORGE)
    own.execute("forge(s=next_number(), t='call', i='77', c=cell(), fn='tool', a=['x'], k={})\n1")
    assert seen == ["x"]


@pytest.mark.parametrize(
    "frame",
    ["t='done', c='999', ok=True", "t='ready', pid=1", "t='call', i='1', fn='__class__', a=[], k={}",
     "t='out', c=cell(), k='stdout', x='x' * 500_000", "t='lost'",
     "t='done', c=cell(), ok=True, final_file='/etc/passwd'"],
)  # fmt: skip
def test_a_forged_frame_costs_the_cell_at_most(own, frame):
    own.execute(FORGE)
    begun = time.monotonic()
    with contextlib.suppress(CodeInterpreterError):
        own.execute(f"forge(s=next_number(), {frame})\nprint('after')")
    assert time.monotonic() - begun < HASTY + 3


# --- what costs the sandbox -----------------------------------------------------------------------------------------

FATAL = {
    "os._exit": "import os\nos._exit(0)",
    "a kill": "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)",
    "a crash": "import ctypes\nctypes.string_at(0)",
    "an abort": "import os\nos.abort()",
    "a stop": "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)",
    "another program": "import os\nos.execv('/bin/sleep', ['sleep', '999'])",
    "every file closed": "import os\nos.closerange(0, 4096)",
    "no JSON": "import json\njson.dumps = None\n1",
    "a loop in C": "sum(range(10**15))",
    "deaf to signals": "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: pass",
}


@pytest.mark.parametrize("name", FATAL)
def test_it_costs_the_sandbox_and_that_is_said(own, name):
    own.execute("kept = 1")
    begun = time.monotonic()
    with pytest.raises(CodeInterpreterError) as caught:
        own.execute(FATAL[name])
    assert time.monotonic() - begun < HASTY + 4
    assert not isinstance(caught.value, CodeExecutionError)
    assert isinstance(caught.value.__cause__, SandboxLost)
    assert caught.value.__cause__.hint
    with pytest.raises(CodeInterpreterError, match="over"):
        own.execute("kept")
