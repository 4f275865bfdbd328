"""`make bench`: what it costs, beside DSPy's own LocalInterpreter in the same run. Prints a table; asserts nothing.

`python run.py [FOLDER]` has the other interpreters in the table of sandboxes, too: FOLDER is where they are installed.

Wall times on a shared machine are upper bounds: the load is printed, medians are shown, ours and the peer take turns.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dspy
from kernel import kernel_figures
from peer_packages import install
from sandboxes import sandbox_table
from table import seconds, timed

from fleet_rlm_jupyter.domain.ports import Role
from fleet_rlm_jupyter.sandbox.daytona import DaytonaSandboxes
from fleet_rlm_jupyter.settings import Settings
from fleet_rlm_jupyter.testing import ScriptedEngine, UnisolatedSandboxes, code, scripted_workbench
from fleet_rlm_jupyter.workbench import Question

BIN = Path(sys.executable).parent
MB = 1_000_000
ROLE = Role("s-bench", "r-bench", "bench", 1)

Make = Callable[[], Any]


def main() -> None:
    print(f"python {sys.version.split()[0]}, dspy {dspy.__version__}, {os.cpu_count()} cores, load {_load()}\n")
    _row("figure", "ours", "LocalInterpreter", "ratio", "aim")
    _processes()
    for (name, taken), aim in zip(kernel_figures().items(), ("≤ 0.3 s", "≤ 8 s"), strict=True):
        _figure(name, taken, None, aim)
    home = DaytonaSandboxes(Settings())
    print(f"(sandboxes: {home.isolation.label})")
    try:
        ours: Make = lambda: home.open(ROLE)  # noqa: E731 - two factories side by side
        _sandbox_figures(ours, dspy.LocalInterpreter)
        _context_figures(ours, dspy.LocalInterpreter)
        _batch_figures(home)
    finally:
        home.close()
    sandbox_table()
    print(f"\nload at the end {_load()}")


def _processes() -> None:
    script = (
        "import resource; r = resource.getrusage; b = r(0); import fleet_rlm_jupyter; a = r(0)\n"
        "print(a.ru_utime + a.ru_stime - b.ru_utime - b.ru_stime)"
    )
    cpu = [float(subprocess.check_output([sys.executable, "-c", script])) for _ in range(5)]
    _figure("import of the package, CPU", cpu, None, "≤ 0.15 s")
    _figure("fleet --help", timed(lambda: _fleet("--help"), 5), None, "≤ 0.4 s")
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "small.log")
        levels = ("error", *("info",) * 6)
        log.write_text("".join(f"level={levels[i % 7]} service=s{i % 5} n={i}\n" for i in range(500)))
        ask = ("ask", "Which service has the most errors?", "--file", str(log), "--json", "--model", "offline/recipes")
        _figure("fleet ask, small file, to the answer", timed(lambda: _fleet(*ask), 5), None, "≤ 6 s")


def _sandbox_figures(ours: Make, peer: Make) -> None:
    _compare("sandbox start to first cell", ours, peer, _start, 7, "")
    _compare("trivial cell", ours, peer, _cell, 1, "")
    _compare("callback", ours, peer, _callback, 1, "")


def _context_figures(ours: Make, peer: Make) -> None:
    for size in (10, 100):
        text = "x" * (size * MB)
        _compare(f"{size} MB text, first cell", ours, peer, lambda make, t=text: [_inject(make, t)[0]], 3, "")
        _compare(
            f"{size} MB text, further cells",
            ours,
            peer,
            lambda make, t=text: _inject(make, t)[1],
            1,
            "≤ 10 ms above 1 kB" if size == 100 else "",
        )
    small = statistics.median(_inject(ours, "x" * 1000)[1])
    print(f"  (1 kB text, further cells, ours: {small * 1000:.2f} ms)")
    texts = {f"file{i}.py": "x" * 5000 for i in range(20_000)}
    _compare("100 MB in 20,000 files, first cell", ours, peer, lambda make: [_inject(make, texts)[0]], 1, "")
    _compare("100 MB in 20,000 files, further cells", ours, peer, lambda make: _inject(make, texts)[1], 1, "")
    text = "x" * (100 * MB)
    _compare("RLM of 6 iterations over 100 MB", ours, peer, lambda make: [_rlm(make, text)], 1, "")


def _batch_figures(home: Any) -> None:
    for name, script, ideal in (
        ("16 × 0.5 s llm_query_batched", _batch, 0.5),
        ("8 children × 0.5 s, 4 at a time", _children, 1.0),
    ):
        times = {}
        for label, where in (("ours", home), ("peer", UnisolatedSandboxes())):
            times[label] = [_batched(script, where) for _ in range(3)]
        _figure(name, times["ours"], times["peer"], f"ideal {ideal} s, efficiency ≥ 0.9")
        print(f"  (parallel efficiency, ours: {ideal / statistics.median(times['ours']):.2f})")
    peer = [_dspy_batch() for _ in range(3)]
    print(f"  (the same 16 through dspy.RLM's own llm_query_batched: {statistics.median(peer):.2f} s)")


def _start(make: Make) -> list[float]:
    begun = time.perf_counter()
    interpreter = make()
    interpreter.execute("1")
    taken = time.perf_counter() - begun
    interpreter.shutdown()
    return [taken]


def _cell(make: Make) -> list[float]:
    interpreter = make()
    try:
        interpreter.execute("1")
        return timed(lambda: interpreter.execute("1"), 200)
    finally:
        interpreter.shutdown()


def _callback(make: Make) -> list[float]:
    interpreter = make()
    interpreter.tools["echo"] = lambda text: text
    try:
        interpreter.execute("1")
        loop = "import time\nb = time.perf_counter()\nfor _ in range(200): echo(text='x')\n"
        timed = loop + "print((time.perf_counter() - b) / 200)"
        return [float(interpreter.execute(timed))]
    finally:
        interpreter.shutdown()


def _inject(make: Make, value: Any) -> tuple[float, list[float]]:
    interpreter = make()
    try:
        interpreter.execute("1")
        begun = time.perf_counter()
        interpreter.execute("len(context)", {"context": value})
        first = time.perf_counter() - begun
        return first, timed(lambda: interpreter.execute("len(context)", {"context": value}), 5)
    finally:
        interpreter.shutdown()


def _rlm(make: Make, text: str) -> float:
    steps = [code("print(len(context))")] * 5 + [code("SUBMIT(answer='done')")]
    lm = dspy.LM("scripted/bench", engine=ScriptedEngine(steps), cache=False)
    with dspy.context(lm=lm, trace=None, max_history_size=0):
        begun = time.perf_counter()
        dspy.RLM("context, question -> answer", interpreter_factory=make)(context=text, question="how long?")
        return time.perf_counter() - begun


def _batch(prompt: str) -> str:
    if "variables_info" not in prompt:
        time.sleep(0.5)
        return "x"
    return code("b=llm_query_batched(prompts=[str(i) for i in range(16)])\nSUBMIT(answer=str(len(b)))")


def _children(prompt: str) -> str:
    time.sleep(0.5)  # every call of the model takes as long, the planner's own too
    if "the whole" not in prompt:
        return code("SUBMIT(answer='x')")
    return code("b=sub_rlm_batched(prompts=[f'part {i}' for i in range(8)])\nSUBMIT(answer=str(len(b)))")


def _batched(script: Callable[[str], str], home: Any) -> float:
    """Seconds that the calls below the planner's own step took."""
    bench = scripted_workbench(ScriptedEngine(script), home=home)
    live = bench.ask(Question("the whole", context="x", mode="rlm_only"))
    live.result(60)
    tool = next(call for call in live.tree().calls.values() if call.kind == "tool")
    time.sleep(1)  # what follows a run in the background is not to be in the next one's time
    return tool.seconds or 0.0


def _dspy_batch() -> float:
    lm = dspy.LM("scripted/bench", engine=ScriptedEngine(_batch), cache=False)
    with dspy.context(lm=lm, trace=None, max_history_size=0):
        begun = time.perf_counter()
        dspy.RLM("context, question -> answer", interpreter_factory=dspy.LocalInterpreter)(context="x", question="y")
        return time.perf_counter() - begun


def _compare(name: str, ours: Make, peer: Make, measure: Callable[[Make], list[float]], repeats: int, aim: str) -> None:
    mine: list[float] = []
    theirs: list[float] = []
    for _ in range(repeats):
        mine += measure(ours)
        theirs += measure(peer)
    _figure(name, mine, theirs, aim)


def _figure(name: str, ours: list[float], peer: list[float] | None, aim: str) -> None:
    if peer is None:
        _row(name, seconds(ours), "", "", aim)
        return
    ratio = statistics.median(peer) / statistics.median(ours)
    _row(name, seconds(ours), seconds(peer), f"{ratio:.1f} ×", aim)


def _row(*columns: str) -> None:
    print("{:<42}{:>12}{:>18}{:>10}  {}".format(*columns), flush=True)


def _fleet(*arguments: str) -> None:
    subprocess.run([BIN / "fleet", *arguments], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _load() -> str:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return f"{os.getloadavg()[0]:.1f} (this process: {peak} MB)"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="fleet-bench-", ignore_cleanup_errors=True) as folder:
        os.environ["JUPYTER_DATA_DIR"] = folder  # not among the user's own runs
        if sys.argv[1:]:
            install(Path(sys.argv[1]))
        main()
