"""The magics in a real kernel: outputs, interrupt, errors, completion, and what a saved notebook gives away."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from pathlib import Path

import nbformat
import pytest
from jupyter_client.manager import start_new_kernel
from nbclient import NotebookClient
from nbconvert import HTMLExporter

MIME = "application/vnd.fleet-rlm.run+json"
KEY = "planted-key-that-nobody-may-see"
LOG = "".join(f"level={'ERROR' if n % 7 == 0 else 'INFO'} service=s{n % 5} n={n}\\n" for n in range(500))
SLOW = """
from fleet_rlm_jupyter.kernel import handles
from fleet_rlm_jupyter.testing import code, scripted_workbench
FIRST, SECOND = code("print('found: half of it')"), code("import time; time.sleep(60)")
slow = scripted_workbench(lambda prompt: FIRST if "iteration ## ]]\\n1/" in prompt else SECOND)
handles.notebook().bench = lambda settings=None: slow
"""


@pytest.fixture(scope="module")
def kernel():
    environ = {**os.environ, "OPENAI_API_KEY": KEY, "FLEET_MODEL": "offline/recipes"}
    manager, client = start_new_kernel(kernel_name="python3", env=environ)
    run(client, f"%load_ext fleet_rlm_jupyter\nimport fleet_rlm_jupyter as fleet\nlog = '''{LOG}'''")
    yield manager, client
    client.stop_channels()
    manager.shutdown_kernel(now=True)


@pytest.fixture(scope="module")
def slow():
    """A kernel whose questions take long: their first step finds half of the answer, the second sleeps."""
    manager, client = start_new_kernel(kernel_name="python3")
    run(client, "%load_ext fleet_rlm_jupyter\nimport fleet_rlm_jupyter as fleet\n" + SLOW)
    yield manager, client
    client.stop_channels()
    manager.shutdown_kernel(now=True)


def run(client, code: str, also=lambda message: None) -> list[dict]:
    """The outputs of a cell, updates of a display applied; `also` sees each message."""
    outputs: list[dict] = []

    def see(message) -> None:
        also(message)
        kind, content = message["header"]["msg_type"], message["content"]
        if kind == "update_display_data":
            known = content["transient"]["display_id"]
            for output in outputs:
                if output.get("transient", {}).get("display_id") == known:
                    output.update(content)
        elif kind in ("stream", "display_data", "execute_result", "error"):
            outputs.append({"kind": kind, **content})

    client.execute_interactive(code, output_hook=see, timeout=60)
    return outputs


def text_of(outputs) -> str:
    return "".join(output.get("text", "") or "\n".join(output.get("traceback", [])) for output in outputs)


def test_a_question_leaves_one_display_and_a_result(kernel):
    _, client = kernel
    outputs = run(client, "%%fleet --var log -o result\nWhich service has the most errors?")
    assert [output["kind"] for output in outputs] == ["display_data"]
    data = outputs[0]["data"]
    assert set(data) == {"text/plain", "text/html", MIME}
    assert set(data[MIME]) == {
        "schema", "run_id", "session_id", "status", "question", "answer", "model", "sandbox", "usage", "events"
    }  # fmt: skip
    assert data[MIME]["status"] == "done"
    assert "Recursion tree" in data["text/html"]
    shown = run(
        client, "print(result.status, result.answer[:2], result.usage.calls, len(result.tree.calls), len(result.trace))"
    )
    assert shown[0]["text"].startswith("done s")
    assert "RLM depth 1" in run(client, "result.tree")[0]["data"]["text/plain"]


def test_errors_are_one_line_and_the_next_step(kernel):
    _, client = kernel
    for cell, says in (
        ("%%fleet --var logg\nq", "did you mean log?"),
        ("%%fleet --moed x\nq", "did you mean --mode?"),
        ("%fleet config budget.cals 3", "did you mean budget.calls?"),
        ("%fleet config api_key secret", "environment"),
        ("%fleet replay r-none", "%fleet runs"),
        ("f = open('/dev/null')", ""),
        ("%%fleet --var f\nq", "f.read()"),
    ):
        text = text_of(run(client, cell))
        assert says in text
        assert "Traceback" not in text


def test_tab_completes_options_and_variables(kernel):
    _, client = kernel

    def complete(code: str) -> list[str]:
        return client.complete(code, len(code), reply=True, timeout=20)["content"]["matches"]

    assert complete("%%fleet --mo") == ["--mode", "--model"]
    assert complete("%%fleet --var lo") == ["log"]
    assert complete("%%fleet --recipe to") == ["top_k"]
    assert complete("%%fleet -o lo") == ["log"]
    assert complete("%%fleet --mode di") == ["direct"]
    assert complete("%%fleet --recipe count --slot un") == ["unit="]
    assert complete("%%fleet_rlm --set budget.cal") == ["budget.calls="]
    assert complete("%fleet st") == ["status"]
    assert complete("%fleet config budget.cal") == ["budget.calls"]
    assert "--mode" not in complete("%%fleet --var log\nWhat --mo")


def test_tab_offers_data_and_the_runs_of_this_kernel(kernel):
    _, client = kernel
    run(client, "import json, fleet_rlm_jupyter as fleet\ndef lookup(): pass\nlooked = 1")
    run_id = text_of(run(client, "print(fleet.start('How many records are there?', log).result().run_id)")).strip()
    for code, says in (("%%fleet --var loo", ["looked"]), (f"%fleet replay {run_id[:6]}", [run_id])):
        assert client.complete(code, len(code), reply=True, timeout=20)["content"]["matches"] == says


@pytest.mark.parametrize(("asked", "says"), [("%fleet?", "replay"), ("%%fleet?", "--var NAME"), ("%%fleet_rlm?", "-o")])
def test_a_question_mark_shows_the_help(kernel, asked, says):
    _, client = kernel
    reply = client.execute_interactive(asked, output_hook=lambda message: None, timeout=20)
    (page,) = reply["content"]["payload"]
    assert says in page["data"]["text/plain"]


def test_help_and_subcommands_answer(kernel):
    _, client = kernel
    assert "--var NAME" in text_of(run(client, "%%fleet --help\nq"))
    assert "replay" in text_of(run(client, "%fleet help"))
    assert "offline" in text_of(run(client, "%fleet status"))
    for command in ("doctor", "config", "runs", "sandboxes"):
        text = text_of(run(client, f"%fleet {command}"))
        assert text.strip()
        assert KEY not in text


def test_a_handle_can_be_awaited(kernel):
    _, client = kernel
    cell = "import fleet_rlm_jupyter as fleet\nprint((await fleet.start('How many records are there?', log)).status)"
    assert "done" in text_of(run(client, cell))


KINDS = {
    "log": "500 lines",
    "log.encode()": "500 lines",
    "log.splitlines()": "500 lines",
    "dict(a=log, b=log)": "1,000 lines",
    "pd.DataFrame(dict(n=range(20), level='INFO'))": "21 lines",
    "pd.Series(range(20), name='n')": "21 lines",
    "np.arange(20)": "20 lines",
    "path": "500 lines",
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_variable_is_a_context(kernel, tmp_path, kind):
    _, client = kernel
    given = f"import numpy as np, pandas as pd, pathlib\npath = pathlib.Path({str(tmp_path)!r}, 'log.txt')\n"
    run(client, f"{given}path.write_text(log)\nvalue = {kind}")
    outputs = run(client, "%%fleet --var value --recipe count --slot unit=lines\nHow many lines?")
    assert KINDS[kind].split()[0] in outputs[-1]["data"][MIME]["answer"]


def test_a_run_is_shown_again_and_at_its_own_pace(kernel):
    _, client = kernel
    asked = run(client, "%%fleet --var log -o result\nHow many records are there?")[0]["data"]
    assert run(client, "%fleet replay")[0]["data"] == asked
    run_id = asked[MIME]["run_id"]
    *lines, shown = run(client, f"%fleet replay {run_id} --speed 1000")
    assert shown["data"] == asked
    assert "RLM" in text_of(lines)
    assert run_id in text_of(run(client, "%fleet runs"))
    assert run_id in text_of(run(client, "%fleet runs how many RECORDS"))
    assert "no run is kept" in text_of(run(client, "%fleet runs nothing like that"))
    for speed in ("0", "-1", "fast", ""):
        assert "number above 0" in text_of(run(client, f"%fleet replay --speed {speed}"))


TALE = "The keeper lit the lamp.\\n\\nNobody saw the boat.\\n\\nThe lamp burned, the keeper slept.\\n"


def test_the_slots_of_a_recipe_are_corrected_in_the_next_cell(kernel):
    _, client = kernel
    run(client, f"tale = '{TALE}'")

    def answer(cell: str) -> str:
        run(client, f"%%fleet -o result {cell}")
        return text_of(run(client, "print(result.status, result.answer)"))

    assert "The mean of n is 249.5" in answer("--var log --recipe stats --slot field=n\nWhat is the mean?")
    corrected = answer(
        "--var log --recipe stats --slot field=n --slot of=max --slot by=service --slot order=lowest --slot k=1\n"
        "What is the mean?"
    )
    assert "s0" in corrected
    assert "495" in corrected
    quoted = answer("--var tale --recipe search --slot query=lamp\nWhat of the lamp?")
    assert "“The keeper lit the lamp.”" in quoted
    assert "burned" in quoted
    quoted = answer("--var tale --recipe search --slot query='\"lamp burned\"' --slot strict=yes\nWhat of the lamp?")
    assert "“The lamp burned, the keeper slept.”" in quoted
    assert "lit" not in quoted
    for slot, says in (("fild=n", "its slots are field, of, by"), ("of=n", "field")):
        wrong = text_of(run(client, f"%%fleet --var log --recipe stats --slot {slot}\nWhat is the mean?"))
        assert says in wrong
        assert "Traceback" not in wrong


def test_settings_of_the_notebook_hold_until_they_are_reset(kernel):
    _, client = kernel
    run(client, "%fleet config budget.calls 33")
    assert text_of(run(client, "%fleet config budget.calls")).split() == ["budget.calls", "33", "argument"]
    assert "budget.calls" in text_of(run(client, "%fleet doctor"))
    run(client, "%fleet config reset")
    assert "argument" not in text_of(run(client, "%fleet config budget.calls"))


def test_a_handle_gives_the_result_and_says_when_it_has_none_yet(kernel):
    _, client = kernel
    cell = "handle = fleet.start('How many records are there?', log, recipe='count', slots={'unit': 'records'})\n"
    outputs = run(client, f"import fleet_rlm_jupyter as fleet\n{cell}handle.result(30)")
    assert set(outputs[0]["data"]) == {"text/plain", "text/html", MIME}
    assert "500" in text_of(run(client, "print(handle.result().answer, handle.status)"))
    for call, says in (
        ("fleet.start('')", "empty"),
        ("fleet.start('q', open)", "code, not data"),
        ("fleet.start('q', log, cals=3)", "there is no option cals"),
        ("fleet.start('q', log, calls='many')", "calls cannot be"),
        ("fleet.Workbench().runs.get('r-none')", "r-none"),
    ):
        (error,) = run(client, call)
        assert says in error["traceback"][0]
        assert [line.split(":")[0] for line in error["traceback"]] == ["error", "next"]
    run(client, "fleet.start('q', open)")
    assert "Traceback" in text_of(run(client, "%tb"))
    run(client, "%%fleet --var logg\nq")
    assert "in _find" in text_of(run(client, "%tb"))


def test_an_error_shows_no_key_and_a_program_by_name_is_none_of_ones_own(kernel):
    _, client = kernel
    shown = text_of(run(client, f"fleet.start('q', log, on='{KEY}')"))
    assert "on is server or kernel" in shown
    assert KEY not in shown
    outputs = run(client, "fleet.run('ask', context=log.splitlines(), question='How many records are there?')")
    assert "in this kernel" in outputs[-1]["data"]["text/plain"]
    assert "of your own" not in outputs[-1]["data"]["text/plain"]


def interrupted_at(manager, word: str):
    """Interrupts the kernel, once, when `word` is in what it shows."""
    seen: list[bool] = []

    def see(message) -> None:
        if not seen and word in str(message["content"].get("text", "")) + str(message["content"].get("data", "")):
            seen.append(True)
            manager.interrupt_kernel()

    return see


def test_an_interrupt_cancels_and_keeps_what_was_found(slow):
    manager, client = slow
    begun = time.monotonic()
    outputs = run(client, "%%fleet_rlm -o partial\nanything?", interrupted_at(manager, "step 2/"))
    assert time.monotonic() - begun < 15
    assert outputs[0]["data"][MIME]["status"] == "cancelled"
    assert outputs[-1]["ename"] == "FleetInterrupted"
    assert "partial" in text_of(outputs)
    assert "cancelled found: half" in text_of(run(client, "print(partial.status, partial.found)"))


MOMENTS = """
import threading
from fleet_rlm_jupyter.kernel import handles
from fleet_rlm_jupyter.kernel.display import LiveLines
from fleet_rlm_jupyter.testing import UnisolatedSandboxes, code, scripted_workbench
from fleet_rlm_jupyter.verbs.live import LiveRun
moment, fifo, waits_for = {moment!r}, {fifo!r}, {waits_for}
asked, held, lock = [], [], threading.Lock()
follows, release = threading.Event(), threading.Event()

def hold():
    with lock:
        held.append(1)
        is_there = len(held) == waits_for
    if is_there:
        follows.wait(30)
        open(fifo, "w").close()  # somebody reads it, and interrupts
    release.wait(30)

class Slow(UnisolatedSandboxes):
    def open(self, *given):
        if moment == "before the first LM call":
            hold()
        return super().open(*given)

def policy(prompt):
    asked.append(prompt)
    if moment == "in a batch" and "variables_info" in prompt:
        return code("print(llm_query_batched([str(n) for n in range(40)]))")
    hold()
    return code("SUBMIT(answer='late')")

def cancel(self, call_id=None):
    cancel_before(self, call_id)
    release.set()  # from now on the run could go on

def show(self, events):
    follows.set()
    show_before(self, events)

slow_before, cancel_before, LiveRun.cancel = handles.notebook().bench, LiveRun.cancel, cancel
show_before, LiveLines._show_until_end = LiveLines._show_until_end, show
held_bench = scripted_workbench(policy, home=Slow())
handles.notebook().bench = lambda settings=None: held_bench
"""


@pytest.mark.parametrize(
    ("moment", "calls"), [("before the first LM call", 0), ("in an LM call", 1), ("in a batch", 17)]
)
def test_an_interrupt_stops_a_run_at_any_moment_and_no_lm_call_starts_after_it(slow, tmp_path, moment, calls):
    manager, client = slow
    fifo = tmp_path / "reached"
    os.mkfifo(fifo)
    run(client, MOMENTS.format(moment=moment, fifo=str(fifo), waits_for=16 if moment == "in a batch" else 1))

    def interrupt_when_reached() -> None:
        fifo.read_bytes()  # waits until it is written
        manager.interrupt_kernel()

    stopper = threading.Thread(target=interrupt_when_reached, daemon=True)
    stopper.start()
    outputs = run(client, "%%fleet_rlm -o partial\nanything?")
    stopper.join(30)
    assert outputs[-1]["ename"] == "FleetInterrupted", text_of(outputs)
    run(client, "held_bench.close()\nhandles.notebook().bench, LiveRun.cancel = slow_before, cancel_before")
    run(client, "LiveLines._show_until_end = show_before")
    assert text_of(run(client, "print(partial.status, len(asked))")) == f"cancelled {calls}\n"


AWAITED = """
from fleet_rlm_jupyter.domain.lines import progress_line
handle = fleet.start("anything?", "x" * 1000, mode="rlm_only")
def tell(event):
    if "step 2/" in (progress_line(event) or ""):
        print("reached", flush=True)
asyncio.get_running_loop().call_soon(handle.live.watch, tell)  # when the cell waits, not before
"""


def test_an_interrupt_of_an_awaited_handle_cancels_and_keeps_what_was_found(slow):
    manager, client = slow
    outputs = run(client, f"import asyncio{AWAITED}await handle", interrupted_at(manager, "reached"))
    assert outputs[-1]["kind"] == "error"
    shown = text_of(run(client, "partial = handle.result(20)\nprint(handle.status, partial.status, partial.found)"))
    assert shown.startswith("cancelled cancelled found: half of it")


def test_an_interrupt_of_a_wait_for_a_result_cancels_and_keeps_what_was_found(slow):
    manager, client = slow
    cell = AWAITED.replace("asyncio.get_running_loop().call_soon(handle.live.watch, tell)", "handle.live.watch(tell)")
    outputs = run(client, f"{cell}handle.result()", interrupted_at(manager, "reached"))
    assert outputs[-1]["ename"] == "KeyboardInterrupt"
    shown = text_of(run(client, "partial = handle.result(20)\nprint(handle.status, partial.status, partial.found)"))
    assert shown.startswith("cancelled cancelled found: half of it")


def test_a_task_that_awaits_a_handle_can_be_cancelled_and_what_was_found_is_kept(slow):
    _, client = slow
    cell = f"""import asyncio
reached = asyncio.Event(){AWAITED.replace('print("reached", flush=True)', "loop.call_soon_threadsafe(reached.set)")}
loop = asyncio.get_running_loop()
async def wait(): return await handle
task = asyncio.create_task(wait())
await reached.wait()
task.cancel()
try: await task
except asyncio.CancelledError: print("task cancelled")
partial = handle.result(20)
print(partial.status, partial.found)
"""
    assert text_of(run(client, cell)).startswith("task cancelled\ncancelled found: half of it")


def test_a_saved_notebook_shows_all_and_gives_nothing_away(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("FLEET_MODEL", "offline/recipes")
    cells = [
        "%load_ext fleet_rlm_jupyter",
        "import pathlib\n"
        f"text = 'level=ERROR service={KEY} path=' + str(pathlib.Path.home()) + '/x\\n'\ntext = text * 20",
        "%%fleet --var text\nHow many records are there per service?",
    ]
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    NotebookClient(book, timeout=60, kernel_name="python3").execute()
    outputs = json.dumps([cell.outputs for cell in book.cells])
    assert KEY not in outputs
    assert f"{Path.home()}/x" not in outputs
    html, _ = HTMLExporter().from_notebook_node(book)
    assert "Recursion tree" in html
    assert "20" in book.cells[-1].outputs[0].data["text/plain"]


def test_twenty_megabytes_travel(kernel):
    _, client = kernel
    run(client, "big = log * (20_000_000 // len(log))")
    outputs = run(client, "%%fleet --var big -o counted --recipe count --slot unit=lines\nHow many lines?")
    assert outputs[-1]["data"][MIME]["status"] == "done"


OWN = """
import dspy
import fleet_rlm_jupyter as fleet
from fleet_rlm_jupyter.kernel import handles
from fleet_rlm_jupyter.testing import code, scripted_workbench

class Twice(dspy.Module):
    def __init__(self):
        super().__init__()
        self.first = dspy.Predict("topic -> answer")
        self.rlm = dspy.RLM("notes, question -> answer")

    def forward(self, topic):
        found = self.first(topic=topic).answer
        return self.rlm(notes=found, question=topic)

def script(prompt):
    if "notes" not in prompt:
        return "[[ ## answer ## ]]\\nsome notes\\n\\n[[ ## completed ## ]]"
    return code("print(len(notes))") if "iteration ## ]]\\n1/" in prompt else code("SUBMIT(answer=notes.upper())")

own = scripted_workbench(script)
handles.notebook().bench = lambda settings=None: own
"""


def test_a_program_of_ones_own_runs_on_the_notebooks_budget_with_its_display():
    manager, client = start_new_kernel(kernel_name="python3")
    try:
        run(client, "%load_ext fleet_rlm_jupyter\n" + OWN)
        outputs = run(client, "result = fleet.run(Twice(), topic='rivers', limits={'calls': 9})")
        assert [output["kind"] for output in outputs] == ["display_data"]
        assert outputs[0]["data"]["text/plain"].startswith("✓ done · 3 of 9 LM calls")
        (shown,) = run(client, "result")
        assert set(shown["data"]) == {"text/plain", "text/html", MIME}
        assert "SOME NOTES" in shown["data"]["text/plain"]
        assert "RLM depth 1" in shown["data"]["text/plain"]
        outputs = run(client, "fleet.run(Twice(), topic='rivers', limits={'calls': 2}).status")
        assert outputs[-1]["data"]["text/plain"] == "'over_budget'"
        assert "Twice" in text_of(run(client, "print(result.run.program)"))
        run(client, "own.programs.save('short', dspy.Predict('topic -> answer'))")
        cell = "result = fleet.run('short', topic='rivers')\nprint(result.answer, result.where)"
        told = "some notes in this kernel: short is kept in this kernel's store"
        assert told in text_of(run(client, cell))
        assert "the input topic is a set of this kernel" in text_of(
            run(client, "print(fleet.run('short', topic={1}).where)")
        )
        for call, says in (
            ("fleet.run('nothing', question='q')", "there is no program nothing"),
            ("fleet.run(Twice(), topic='x', limits={'cals': 3})", "there is no option cals"),
        ):
            assert says in text_of(run(client, call))
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def test_a_cell_runs_in_the_sandbox_with_values_in_and_out(kernel):
    _, client = kernel
    run(client, "numbers = [3, 4]")
    first = text_of(run(client, "%%fleet_sandbox --var numbers -o total\nimport os\nprint('hello')\nsum(numbers)"))
    assert first.startswith("in this kernel's sandbox ")
    assert first.endswith("\nhello\n7\n")
    again = run(client, "%%fleet_sandbox -o doubled\ndoubled = [n * 2 for n in numbers]")
    assert again == []
    assert text_of(run(client, "print(total, doubled, os.getpid() if 'os' in dir() else '')")).startswith("7 [6, 8]")
    streams = {
        output["name"]: output["text"]
        for output in run(client, "%%fleet_sandbox\nimport sys\nprint('e', file=sys.stderr)")
    }
    assert streams == {"stderr": "e\n"}
    assert KEY not in text_of(run(client, "%%fleet_sandbox\nprint(dict(os.environ))"))


def test_sandboxes_of_this_kernel_are_listed_and_stopped(kernel):
    _, client = kernel
    run(client, "%%fleet_sandbox\nkept = 1")
    (line,) = [line for line in text_of(run(client, "%fleet sandboxes")).splitlines() if " session of s-" in line]
    sandbox_id = line.split()[0]
    assert " started " in line
    text = text_of(run(client, f"%fleet sandboxes resize {sandbox_id} cpu=2 memory=1"))
    assert text.startswith(f"{sandbox_id} is resized, and stopped")
    assert "is archived; its session's next turn" in text_of(run(client, f"%fleet sandboxes archive {sandbox_id}"))
    assert f"{sandbox_id} is started" in text_of(run(client, f"%fleet sandboxes start {sandbox_id}"))
    for wrong, says in (("resize x 4", "'4' is no size"), ("melt x", "it is one of list, stop ID, archive ID")):
        assert says in text_of(run(client, f"%fleet sandboxes {wrong}"))
    assert "it was resized" in run(client, "%%fleet_sandbox\nkept")[0]["evalue"]
    assert sandbox_id[:12] in text_of(run(client, "%%fleet_sandbox\nkept = 1"))
    assert f"{sandbox_id} is stopped" in text_of(run(client, f"%fleet sandboxes stop {sandbox_id}"))
    assert sandbox_id not in text_of(run(client, "%fleet sandboxes"))
    again = run(client, f"%fleet sandboxes stop {sandbox_id}")[0]
    assert "there is no sandbox" in again["evalue"]
    assert text_of(run(client, "%fleet sandboxes prune")).startswith("0 sandboxes")
    assert "it takes --repo, --ref, --on" in text_of(run(client, "%fleet smoke everything"))
    assert "without repo_url" in text_of(run(client, "%fleet smoke --ref main"))
    assert "stopped by its user" in run(client, "%%fleet_sandbox\nkept")[0]["evalue"]
    assert "False" in text_of(run(client, "%%fleet_sandbox\n'kept' in globals()"))


def test_a_cell_that_fails_in_the_sandbox_says_so_in_one_line_after_its_traceback(kernel):
    _, client = kernel
    run(client, "numbers = [3, 4]")
    outputs = run(client, "%%fleet_sandbox\nprint('before')\ndef f(): return 1 / 0\nf()")
    assert text_of(outputs[:-1]).endswith("before\n")
    lines = outputs[-1]["traceback"]
    assert lines[0].startswith("Traceback")
    assert any("return 1 / 0" in line for line in lines)
    assert lines[-1] == "error: ZeroDivisionError: division by zero"
    for cell, says in (
        ("%%fleet_sandbox --secnds 3\n1", "did you mean --seconds"),
        ("%%fleet_sandbox --var numberz\n1", "did you mean numbers"),
        ("%%fleet_sandbox --seconds 1\nimport time; time.sleep(40)", "longer than 1 s"),
        ("%%fleet_sandbox -o f\ndef f(): pass", "f cannot come out"),
    ):
        assert says in text_of(run(client, cell))


def test_a_cell_in_the_sandbox_tells_which_artifacts_it_wrote_also_where_it_failed(kernel):
    _, client = kernel
    run(client, "%%fleet_sandbox\n1")
    wrote = f"3 bytes, sha256 {hashlib.sha256(b'one').hexdigest()[:12]}\n"
    told = text_of(run(client, "%%fleet_sandbox\nx = open('artifacts/a', 'w').write('one')\nprint('in line', end='')"))
    assert told == f"in line\nartifacts/a was written: {wrote}"
    failed = run(client, "%%fleet_sandbox\nopen('artifacts/b', 'w').write('one')\n1 / 0")
    assert text_of(failed[:-1]) == f"artifacts/b was written: {wrote}"
    many = "%%fleet_sandbox\nfor n in range(23): x = open(f'artifacts/n{n}', 'w').write('one')"
    lines = text_of(run(client, many)).splitlines()
    assert (len(lines), lines[-1]) == (21, "and 3 files more were written")


def test_an_interrupt_stops_a_cell_in_the_sandbox_and_keeps_its_variables(kernel):
    manager, client = kernel
    run(client, "%%fleet_sandbox\nkept = 12")
    begun = time.monotonic()
    stopper = threading.Timer(2, manager.interrupt_kernel)
    stopper.start()
    outputs = run(client, "%%fleet_sandbox\nimport time\ntime.sleep(50)")
    assert time.monotonic() - begun < 15
    assert text_of(outputs[-1:]) == "interrupted: the cell was stopped, the sandbox's variables are kept"
    assert text_of(run(client, "%%fleet_sandbox\nkept")) == "12\n"


def test_tab_completes_the_options_of_a_sandbox_cell(kernel):
    _, client = kernel
    run(client, "numbers = [3, 4]")
    for line, wanted in (("%%fleet_sandbox --se", "--seconds"), ("%%fleet_sandbox --var num", "numbers")):
        client.complete(line, len(line))
        matches = client.get_shell_msg(timeout=10)["content"]["matches"]
        assert wanted in matches
        assert "--set" not in matches


def test_what_is_remembered_is_added_reviewed_and_forgotten(kernel):
    _, client = kernel
    added = text_of(run(client, "%fleet memory add preference: Answers in Dutch, please."))
    memory_id = added.split()[0]
    assert "approved  preference: Answers in Dutch, please." in added
    assert "rejected  preference: Answers in Dutch" in text_of(run(client, f"%fleet memory reject {memory_id[:9]}"))
    assert memory_id in text_of(run(client, "%fleet memory"))
    assert "approved" in text_of(run(client, f"%fleet memory approve {memory_id}"))
    assert f"{memory_id} forgotten" in text_of(run(client, f"%fleet memory delete {memory_id}"))
    assert memory_id not in text_of(run(client, "%fleet memory list"))
    assert "there is no item" in text_of(run(client, f"%fleet memory delete {memory_id}"))
    assert "it is list, add" in text_of(run(client, "%fleet memory frobnicate"))


def test_a_session_of_before_is_gone_on_with(kernel):
    _, client = kernel
    made = "session = fleet.kernel.handles.notebook().bench().sessions.create('of before').session_id; print(session)"
    session_id = text_of(run(client, made)).strip()
    resumed = text_of(run(client, "%fleet resume"))
    assert f"session {session_id}: of before" in resumed
    assert "0 turns that a model is told of" in resumed
    run(client, "%%fleet --var log -o again\nHow many lines are there?")
    assert session_id in text_of(run(client, "print(again.run.session_id)"))
    assert "1 turn that" in text_of(run(client, f"%fleet resume {session_id[:12]}"))
    assert "of this kernel's own" in text_of(run(client, "%fleet resume off"))
    run(client, "%%fleet --var log -o again\nHow many lines are there?")
    assert session_id not in text_of(run(client, "print(again.run.session_id)"))
    assert "there is no session s-nobody" in text_of(run(client, "%fleet resume s-nobody"))


def test_a_session_is_exported_beside_the_notebook_or_where_it_is_said(kernel, tmp_path):
    _, client = kernel
    run(client, f"%cd -q {tmp_path}")
    run(client, "%%fleet --var log -o first\nHow many lines are there?")
    own = text_of(run(client, "print(first.run.session_id)")).strip()
    assert f"session {own} is in {own}.json" in text_of(run(client, "%fleet export"))
    read = f"import json; print('How many lines' in json.dumps(json.load(open('{own}.json'))))"
    assert text_of(run(client, read)).strip() == "True"
    assert f"session {own} is in named.json" in text_of(run(client, f"%fleet export {own[:12]} named.json"))
    assert "cannot be written" in text_of(run(client, "%fleet export gone/away.json"))
    assert "there is no session" in text_of(run(client, "%fleet export s-nobody"))
    assert "one session is exported" in text_of(run(client, "%fleet export a b c.json"))
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([f"{own}.json", "named.json"])
    run(client, "%cd -q -")
