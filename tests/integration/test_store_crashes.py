"""kill -9 at any point of a run, and a fault at any statement: the store opens, and nothing that was seen is lost."""

from __future__ import annotations

import itertools
import json
import sqlite3
import subprocess
import sys
import time

import pytest
import sqlalchemy as sa

from fleet_rlm_jupyter.domain.calls import fold
from fleet_rlm_jupyter.domain.program import Trial
from fleet_rlm_jupyter.settings import Settings
from fleet_rlm_jupyter.store.database import Database
from fleet_rlm_jupyter.store.runs import StoredRuns
from fleet_rlm_jupyter.store.store import Store
from fleet_rlm_jupyter.testing import ScriptedEngine, UnisolatedSandboxes, scripted_models
from fleet_rlm_jupyter.workbench import Question, Workbench

# One process imports everything and forks one run after the other: each is killed at its point, by its own hand right
# after an event was seen (even numbers) or by a clock that knows nothing of events (odd ones).
RUNNER = """
import os, random, signal, sys, threading, time
from fleet_rlm_jupyter.settings import Settings
from fleet_rlm_jupyter.store import archive, runs, sessions, store
from fleet_rlm_jupyter.testing import ScriptedEngine, UnisolatedSandboxes, code, scripted_models
from fleet_rlm_jupyter.workbench import Question, Workbench

FIRST = "iteration ## ]]\\n1/"

def family(prompt):
    if "variables_info" not in prompt:
        return "leaf"
    if "the root's question" in prompt:
        if FIRST in prompt:
            return code("rs = sub_rlm_batched(prompts=['child 1', 'child 2'], contexts=['x', 'x']); print(rs)")
        return code("SUBMIT(answer=str(rs))")
    if FIRST in prompt:
        return code("a = llm_query(prompt='leaf?'); print(a)")
    return code("SUBMIT(answer='child says ' + a)")

def run(point):
    settings = Settings.model_validate({"store": {"url": sys.argv[1]}})
    bench = Workbench(settings, UnisolatedSandboxes(), scripted_models(ScriptedEngine(family)))
    seen = os.open(f"{sys.argv[2]}/{point}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def watch(event):
        os.write(seen, f"{event.run_id} {event.seq}\\n".encode())
        if point % 2 == 0 and event.seq == point // 2 * 2:
            os.kill(os.getpid(), signal.SIGKILL)

    if point % 2:
        seconds = random.Random(point).random() * 0.6
        threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL)).start()
    question = Question("the root's question", context="x", mode="rlm_only", key=f"key {point}")
    bench.ask(question, watcher=watch).result(60)
    os.kill(os.getpid(), signal.SIGKILL)

for point in range(*map(int, sys.argv[3:6])):
    child = os.fork()
    if child == 0:
        run(point)
    os.waitpid(child, 0)
"""


@pytest.mark.parametrize(
    "points", [(0, 40, 5), pytest.param((0, 50, 1), marks=pytest.mark.soak)], ids=["8 points", "50 points"]
)
def test_killed_at_any_point_a_run_is_marked_failed_and_nothing_seen_is_lost(tmp_path, points):
    url, folder = f"sqlite:///{tmp_path}/fleet.db", tmp_path / "seen"
    folder.mkdir()
    Database(url).close()
    subprocess.run([sys.executable, "-c", RUNNER, url, str(folder), *map(str, points)], timeout=110, check=True)
    settings = Settings.model_validate({"store": {"url": url}})
    begun = time.monotonic()
    store = Store(settings.store)
    runs = store.runs("local")
    opened = time.monotonic() - begun
    killed = {run.run_id: run for run in runs.list(limit=100)}
    assert opened < 3
    assert all(run.status in ("failed", "done") for run in killed.values()), "none is left open"
    failed = 0
    for point in range(*points):
        seen = [line.split() for line in (folder / str(point)).read_text(encoding="ascii").splitlines()]
        for run_id in {run_id for run_id, _ in seen}:
            events = list(runs.events(run_id))
            assert [event.seq for event in events] == list(range(len(events)))
            assert len(events) > max(int(seq) for _, seq in seen), "an event was seen that is not kept"
            tree = fold(events)
            assert tree.status == killed[run_id].status
            assert all(call.ended_at is not None for call in tree.calls.values())
            turn = runs.turn(run_id)
            assert turn is not None
            assert turn.run.status == tree.status
            if tree.status == "failed":
                failed += 1
                assert tree.error is not None
                assert tree.error.code == "interrupted"
    assert failed >= len(range(*points)) // 2
    with store.database().reading() as connection:
        assert connection.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"
    store.close()
    # The same key after the crash: the outcome is told, and no model is asked again.
    engine = ScriptedEngine([])
    bench = Workbench(settings, UnisolatedSandboxes(), scripted_models(engine))
    question = Question("the root's question", context="x", mode="rlm_only", key="key 0")
    again = bench.ask(question).result(30)
    assert again.run_id in killed
    assert engine.calls == 0
    bench.close()


OPTIMIZER = """
import os, re, signal, sys, time
import dspy
from fleet_rlm_jupyter.domain.program import Trial
from fleet_rlm_jupyter.settings import Settings
from fleet_rlm_jupyter.testing import ScriptedEngine, UnisolatedSandboxes, scripted_models
from fleet_rlm_jupyter.workbench import Workbench

def reply(prompt):
    if "new_instruction" in prompt:
        return '{"new_instruction": "Add up carefully."}'
    numbers = [int(text) for text in re.findall(r"(\\d+) [+] 3", prompt)]
    if numbers[-1] % 3 == 2:  # the last scores, which it does not live to see
        time.sleep(1)
        os.kill(os.getpid(), signal.SIGKILL)
    total = numbers[-1] + 3 + ("carefully" not in prompt)
    return f"[[ ## answer ## ]]\\n{total}\\n\\n[[ ## completed ## ]]"

settings = Settings.model_validate({"store": {"url": sys.argv[1]}})
bench = Workbench(settings, UnisolatedSandboxes(), scripted_models(ScriptedEngine(reply)))
bench.programs.save("adder", dspy.Predict("question -> answer: int"))
rows = [{"question": f"{n} + 3", "answer": n + 3, "split": ("train", "val", "test")[n % 3]} for n in range(12)]
bench.datasets.create("sums", rows)
run = bench.optimize("adder", "sums", Trial(rounds=5), key="k")
print(run.run_id, flush=True)
run.result(60)
"""


def test_an_optimization_whose_process_dies_is_marked_failed_with_what_it_spent_and_found(tmp_path):
    url = f"sqlite:///{tmp_path}/fleet.db"
    killed = subprocess.run([sys.executable, "-c", OPTIMIZER, url], capture_output=True, text=True, timeout=110)
    run_id = killed.stdout.strip()
    engine = ScriptedEngine(lambda prompt: "[[ ## answer ## ]]\n5\n\n[[ ## completed ## ]]")
    settings = Settings.model_validate({"store": {"url": url}})
    for _ in range(2):  # to recover once more changes nothing
        bench = Workbench(settings, UnisolatedSandboxes(), scripted_models(engine))
        found = bench.optimizations.get(run_id)
        assert (found.status, found.phase, found.error and found.error.code) == ("failed", "test", "interrupted")
        assert found.usage.calls == 8 + 7, (
            "val twice, and a proposal on three rows: what came back, not what was under way"
        )
        assert [(one.name, one.scores) for one in found.candidates] == [
            ("adder@1", {"val": 0.0}), ("candidate 1", {"val": 1.0}),
        ]  # fmt: skip
        assert len(bench.optimizations.rows(run_id).rows) == 8
        made = bench.optimizations.save(run_id)
        assert (made.label, made.scores) == ("adder@2", {"val": 1.0})
        assert bench.optimize("adder", "sums", Trial(rounds=5), key="k").run_id == run_id
        bench.close()
    assert engine.calls == 0


KINDS = ("disk I/O error", "database or disk is full", "database is locked")


def test_a_fault_at_any_statement_costs_a_run_its_record_and_never_its_answer(tmp_path):
    settings = Settings.model_validate({"store": {"url": f"sqlite:///{tmp_path}/fleet.db"}})
    engine = ScriptedEngine(lambda prompt: "[[ ## answer ## ]]\n42\n\n[[ ## completed ## ]]")
    bench = Workbench(settings, UnisolatedSandboxes(), scripted_models(engine))
    database = bench._house.store().database()
    count = moment = 0
    what = ""

    def fault(*_) -> None:
        nonlocal count
        count += 1
        if count == moment:
            raise sqlite3.OperationalError(what)

    for name in ("do_execute", "do_executemany"):
        sa.event.listen(database.engine, name, fault)
    answered, lost = [], []
    for moment, what in zip(range(1, 31), itertools.cycle(KINDS), strict=False):  # noqa: B007
        count = 0
        run = bench.ask(Question("how many?", context="x")).result(30)
        answered.append(run.answer)
        if run.not_kept:
            assert what in run.not_kept
            lost.append(run.run_id)
    moment = 0
    assert answered == ["42"] * 30
    assert lost, "some faults hit"
    assert bench.ask(Question("how many?", context="x")).result(30).not_kept == ""
    bench.close()
    with sqlite3.connect(tmp_path / "fleet.db") as plain:
        assert plain.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    again = Database(f"sqlite:///{tmp_path}/fleet.db")
    runs = StoredRuns(again, "local")
    for run in runs.list(limit=100):
        assert [json.loads(line)["seq"] for line in runs.lines(run.run_id)] == list(
            range(sum(1 for _ in runs.lines(run.run_id)))
        )
        assert (run.status == "done") == (run.run_id not in lost)
    again.close()
