"""Sandboxes side by side in one run: ours at each level, and DSPy's interpreters as far as they are installed.

`python tests/bench/sandboxes.py [REPEATS]` runs this part alone. Medians of REPEATS (10); the makers take turns, and
the load is printed with each row. A dash: it cannot do that, or at a cost that is in the comment beside it.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any

import dspy
from dspy.primitives.code_interpreter import CodeInterpreterError
from peer_packages import python_interpreter

from fleet_rlm_jupyter.domain.errors import FleetError
from fleet_rlm_jupyter.domain.ports import Role
from fleet_rlm_jupyter.sandbox.daytona import DaytonaSandboxes
from fleet_rlm_jupyter.settings import SandboxSettings, Settings
from fleet_rlm_jupyter.testing import ScriptedEngine, code

MB = 1_000_000
ROLE = Role("s-bench", "r-bench", "bench", 1)
PARALLEL = """
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(16) as pool: assert len(list(pool.map(lambda n: slow(n=n), range(16)))) == 16
"""

_CALM = 1.0
"""Seconds after which what is deleted in the background is gone, and not in the next one's figures."""

Make = Callable[[], Any]


@dataclass
class Contender:
    """Something that makes interpreters. `cold` makes one that nothing waits ready for."""

    name: str
    make: Make
    cold: Make
    has_threads: bool = True
    most_mb: int = 100
    close: Callable[[], None] = lambda: None
    ready: Callable[[], None] = lambda: None
    homes: list[DaytonaSandboxes] = field(default_factory=list)


def sandbox_table(repeats: int = 10) -> None:
    """Print the table."""
    contenders = [*filter(None, map(_ours, ("L3", "L2", "L1"))), _local(), *filter(None, (_deno(), _monty()))]
    print("{:<34}".format("sandboxes") + "".join(f"{one.name:>12}" for one in contenders) + "  aim")
    try:
        _rows(contenders, repeats)
    finally:
        for one in contenders:
            one.close()


def _rows(contenders: list[Contender], repeats: int) -> None:
    ours = [one for one in contenders if one.homes]
    _row("start to ready, cold", contenders, lambda one: _start(one.cold), repeats, "")
    _row("start to ready, from the pool", ours, _from_pool, repeats, "<= 100 ms", contenders)
    _row("trivial cell", contenders, _cell, max(1, repeats // 5), "<= 2 ms")
    _row("tool round trip", contenders, _callback, max(1, repeats // 5), "<= 1 ms")
    threaded = [one for one in contenders if one.has_threads]
    _row("16 parallel calls of 50 ms", threaded, _parallel, repeats, "", contenders)
    for size in (1, 10, 100):
        able = [one for one in contenders if one.most_mb >= size]
        text = "x" * (size * MB)
        again: dict[str, list[float]] = {one.name: [] for one in able}
        rebuilt: dict[str, list[float]] = {one.name: [] for one in able}

        def once(one: Contender, text: str = text, again: Any = again, rebuilt: Any = rebuilt) -> list[float]:
            first, more, equal = _inject(one.make, text)
            again[one.name].append(more)
            rebuilt[one.name].append(equal)
            return [first]

        _row(f"{size} MB of text, once", able, once, repeats, "<= 1.2 s" if size == 100 else "", contenders)
        _print(f"{size} MB of text, again", again, "<= 10 ms" if size == 100 else "", contenders)
        _print(f"{size} MB of text, equal but rebuilt", rebuilt, "", contenders)
    able = [one for one in contenders if one.most_mb >= 100]
    text = "x" * (100 * MB)
    found = _row(
        "RLM of 6 iterations over 100 MB", able, lambda one: [_rlm(one.make, text)], repeats, "5 x", contenders
    )
    for one in ours:
        print(f"  ({one.name}: {found['Local'] / found[one.name]:.1f} times as fast as LocalInterpreter)")
    private: dict[str, list[float]] = {one.name: [] for one in contenders}

    def memory(one: Contender) -> list[float]:
        whole, own = _memory(one)
        private[one.name].append(own)
        return [whole]

    _row("idle memory of one, MB", contenders, memory, 1, "<= 10", scale=1)
    _print("  of that in no other process, MB", private, "", contenders, scale=1)
    _row("20 in parallel, all ready", contenders, _twenty, max(3, repeats // 3), "<= 1 s")


def _ours(level: str) -> Contender | None:
    def home(warm: int) -> DaytonaSandboxes:
        made = DaytonaSandboxes(Settings(sandbox=SandboxSettings(level=level, allow_unisolated=True, warm=warm)))
        assert made.isolation.level == level
        made.open(ROLE).execute("1")  # the server runs, the SDK is imported
        return made

    try:
        pooled, cold = home(4), home(0)
    except FleetError as err:
        print(f"({level} is not offered here: {err})")
        return None
    print(f"({level}: {pooled.isolation.reason})")

    def close() -> None:
        pooled.close()
        cold.close()

    return Contender(
        level, lambda: pooled.open(ROLE), lambda: cold.open(ROLE), close=close,
        ready=lambda: _filled(pooled), homes=[pooled, cold],
    )  # fmt: skip


def _filled(home: DaytonaSandboxes) -> None:
    while len(home._pool._warm) < home._pool._most:
        time.sleep(0.01)
    wait(list(home._pool._warm), 30)


def _local() -> Contender:
    return Contender("Local", dspy.LocalInterpreter, dspy.LocalInterpreter)


def _deno() -> Contender | None:
    if importlib.util.find_spec("deno") is None:
        print("(Deno is not installed: make bench installs it)")
        return None
    try:
        _start(python_interpreter)
    except CodeInterpreterError as err:
        print(f"(Deno does not run here: {err})")
        return None
    # 100 MB cost it about 15 CPU seconds a step and 5 GB.
    return Contender("Deno", python_interpreter, python_interpreter, has_threads=False, most_mb=10)


def _monty() -> Contender | None:
    if importlib.util.find_spec("dspy_monty_interpreter") is None:
        print("(Monty is not installed: make bench installs it)")
        return None
    monty = importlib.import_module("dspy_monty_interpreter").MontyInterpreter
    make = lambda: monty(resource_limits={"max_suspensions": 10**9})  # noqa: E731 - 1,000 host calls by default
    return Contender("Monty", make, make, has_threads=False, most_mb=10)


def _start(make: Make) -> list[float]:
    interpreter = make()
    begun = time.perf_counter()
    interpreter.start()
    taken = time.perf_counter() - begun
    interpreter.shutdown()
    return [taken]


def _from_pool(one: Contender) -> list[float]:
    one.ready()
    return _start(one.make)


def _cell(one: Contender) -> list[float]:
    with _open(one.make) as interpreter:
        return [_taken(lambda: interpreter.execute("1")) for _ in range(100)]


def _callback(one: Contender) -> list[float]:
    with _open(one.make) as interpreter:
        interpreter.tools["echo"] = lambda text: text
        interpreter.execute("echo(text='x')")
        return [_taken(lambda: interpreter.execute("for n in range(200):\n    echo(text='x')")) / 200 for _ in range(5)]


def _parallel(one: Contender) -> list[float]:
    with _open(one.make) as interpreter:
        interpreter.tools["slow"] = lambda n: time.sleep(0.05)
        interpreter.execute(PARALLEL)
        return [_taken(lambda: interpreter.execute(PARALLEL))]


def _inject(make: Make, text: str) -> tuple[float, float, float]:
    with _open(make) as interpreter:
        first = _taken(lambda: interpreter.execute("len(context)", {"context": text}))
        again = _taken(lambda: interpreter.execute("len(context)", {"context": text}))
        equal = text[:-1] + text[-1:]
        return first, again, _taken(lambda: interpreter.execute("len(context)", {"context": equal}))


def _rlm(make: Make, text: str) -> float:
    steps = [code("print(len(context))")] * 5 + [code("SUBMIT(answer='done')")]
    lm = dspy.LM("scripted/bench", engine=ScriptedEngine(steps), cache=False)
    with dspy.context(lm=lm, trace=None, max_history_size=0):
        rlm = dspy.RLM("context, question -> answer", interpreter_factory=make)
        return _taken(lambda: rlm(context=text, question="how long?"))


def _memory(one: Contender) -> tuple[float, float]:
    """MB that five more interpreters take, by one: in all, and of that what is in one process only.

    In all is the sum of proportional set sizes: a page that a sandbox's processes share is counted once, one that they
    share with the server only as far as it becomes theirs.
    """
    before = _resident()
    opened = [one.cold() for _ in range(5)]
    for interpreter in opened:
        interpreter.start()
    after = _resident()
    for interpreter in opened:
        interpreter.shutdown()
    time.sleep(_CALM)
    return (after[0] - before[0]) / 5, (after[1] - before[1]) / 5


def _resident() -> tuple[float, float]:
    """MB of all descendants of this process: proportional, and private."""
    parents: dict[int, int] = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/stat") as stat:
            parents[int(pid)] = int(stat.read().rpartition(")")[2].split()[1])
    ours = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in ours} - ours:
        ours |= more
    whole = private = 0
    for pid in ours - {os.getpid()}:
        with contextlib.suppress(OSError), open(f"/proc/{pid}/smaps_rollup") as rollup:
            for name, size in (line.split()[:2] for line in rollup.readlines()[1:]):
                whole += int(size) if name == "Pss:" else 0
                private += int(size) if name.startswith("Private_") else 0
    return whole / 1024, private / 1024


def _twenty(one: Contender) -> list[float]:
    opened = [one.cold() for _ in range(20)]
    with ThreadPoolExecutor(20) as pool:
        taken = _taken(lambda: list(pool.map(lambda interpreter: interpreter.start(), opened)))
        list(pool.map(lambda interpreter: interpreter.shutdown(), opened))
    time.sleep(_CALM)
    return [taken]


@contextlib.contextmanager
def _open(make: Make) -> Any:
    interpreter = make()
    try:
        interpreter.execute("1")
        yield interpreter
    finally:
        interpreter.shutdown()


def _taken(work: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def _row(
    name: str,
    able: list[Contender],
    measure: Callable[[Contender], list[float]],
    repeats: int,
    aim: str,
    shown: list[Contender] | None = None,
    scale: float = 1000,
) -> dict[str, float]:
    found: dict[str, list[float]] = {one.name: [] for one in able}
    for _ in range(repeats):
        for one in able:
            found[one.name] += measure(one)
    return _print(name, found, aim, shown or able, scale)


def _print(
    name: str, found: dict[str, list[float]], aim: str, shown: list[Contender], scale: float = 1000
) -> dict[str, float]:
    medians = {who: statistics.median(values) for who, values in found.items()}
    cells = [f"{medians[one.name] * scale:>12,.1f}" if one.name in medians else f"{'—':>12}" for one in shown]
    unit = " ms" if scale == 1000 else ""
    print(f"{name + unit:<34}" + "".join(cells) + f"  {aim:<10} load {os.getloadavg()[0]:.1f}", flush=True)
    return medians


if __name__ == "__main__":
    sandbox_table(int(sys.argv[1]) if len(sys.argv) > 1 else 10)
