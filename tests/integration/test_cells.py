"""Cells of the user's own through the Workbench: state, values in and out, errors, clock, and where they may run."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator

import pytest

from fleet_rlm_jupyter.domain.errors import BadRequest, CellFailed, SandboxLost
from fleet_rlm_jupyter.domain.events import ArtifactWritten, SandboxChanged
from fleet_rlm_jupyter.domain.question import Question
from fleet_rlm_jupyter.settings import SandboxSettings, Settings, StoreSettings
from fleet_rlm_jupyter.verbs.cells import Cells
from fleet_rlm_jupyter.workbench import Workbench


@pytest.fixture(scope="module")
def bench(tmp_path_factory) -> Iterator[Workbench]:
    store = StoreSettings(url=f"sqlite:///{tmp_path_factory.mktemp('store')}/fleet.db")
    settings = Settings(sandbox=SandboxSettings(cell_seconds=60, allow_unisolated=True), store=store)
    made = Workbench(settings)
    yield made
    made.close()


@pytest.fixture
def cells(bench: Workbench) -> Cells:
    made = bench.cells()
    made.start()
    return made


def test_variables_stay_and_one_session_has_one_repl(bench: Workbench, cells: Cells) -> None:
    cells.execute("kept = 41")
    assert bench.cells() is cells
    assert cells.start() is None
    assert cells.execute("kept + 1").text == "42"


def test_lines_come_while_the_cell_runs(cells: Cells) -> None:
    seen: list[tuple[str, str, float]] = []
    code = "import sys, time\nprint('first', flush=True)\ntime.sleep(1)\nprint('second', file=sys.stderr)\n'third'"
    done = cells.execute(code, on_output=lambda stream, text: seen.append((stream, text, time.monotonic())))
    first, second = (next(at for _, text, at in seen if word in text) for word in ("first", "second"))
    assert second - first > 0.5
    assert {stream for stream, text, _ in seen if "second" in text} == {"stderr"}
    assert done.text.split() == ["first", "second", "third"]


def test_output_is_bounded(cells: Cells) -> None:
    text = cells.execute("for n in range(200_000): print('line', n)").text
    assert len(text) < 110_000
    assert text.startswith("line 0\n")
    assert text.endswith("line 199999")


def test_values_go_in_and_come_out(cells: Cells) -> None:
    cells.execute("doubled = [n * 2 for n in given]\nlen(doubled)", {"given": [1, 2, 3]})
    assert cells.pull("_") == 3
    assert cells.pull("doubled") == [2, 4, 6]
    assert cells.execute("SUBMIT(output=doubled)").submitted == {"output": [2, 4, 6]}


def test_what_a_cell_without_a_value_ends_with_is_nothing(cells: Cells) -> None:
    cells.execute("1 + 1")
    cells.execute("x = 3")
    assert cells.pull("_") is None


@pytest.mark.parametrize(
    ("code", "last", "trace"),
    [
        ("print('before')\n1 / 0", "ZeroDivisionError: division by zero", 'File "<cell'),
        ("a b", "SyntaxError: invalid syntax", "a b"),
        ("raise SystemExit(3)", "SystemExit: 3", "raise SystemExit(3)"),
    ],
)
def test_what_the_code_raises_is_one_line_and_the_sandboxs_traceback(cells: Cells, code, last, trace) -> None:
    with pytest.raises(CellFailed) as caught:
        cells.execute(code)
    assert caught.value.text == last
    assert trace in caught.value.trace
    assert "before" not in caught.value.trace.splitlines()[0]


def test_a_cell_that_takes_too_long_is_stopped_and_its_variables_stay(cells: Cells) -> None:
    begun = time.monotonic()
    with pytest.raises(CellFailed, match=r"longer than 0\.5 s"):
        cells.execute("kept = 7\nimport time\ntime.sleep(50)", seconds=0.5)
    assert time.monotonic() - begun < 10
    assert cells.is_alive()
    assert cells.execute("kept").text == "7"


@pytest.mark.parametrize("seconds", [0, -1, 61, float("nan")])
def test_seconds_that_cannot_be_had_are_refused(cells: Cells, seconds: float) -> None:
    with pytest.raises(BadRequest, match="at most 60"):
        cells.execute("1", seconds=seconds)


def test_files_that_a_cell_wrote_are_told_with_their_digest_also_where_it_failed(cells: Cells) -> None:
    told: list[ArtifactWritten] = []
    cells.execute(
        "open('artifacts/a.txt', 'w').write('one')\nopen('other.txt', 'w').write('x')", on_artifact=told.append
    )
    with pytest.raises(CellFailed):
        cells.execute("open('artifacts/b.txt', 'w').write('two')\n1 / 0", on_artifact=told.append)
    cells.execute("open('artifacts/a.txt', 'w').write('one')", on_artifact=told.append)  # the same again
    assert [(one.path, one.bytes, one.sha256) for one in told] == [
        ("artifacts/a.txt", 3, hashlib.sha256(b"one").hexdigest()),
        ("artifacts/b.txt", 3, hashlib.sha256(b"two").hexdigest()),
    ]


def test_what_cannot_travel_is_said(cells: Cells) -> None:
    with pytest.raises(BadRequest, match="cannot travel"):
        cells.execute("1", {"given": open})
    with pytest.raises(CellFailed, match="nowhere cannot come out: NameError"):
        cells.pull("nowhere")
    cells.execute("lambda: 1")
    with pytest.raises(CellFailed, match="the value cannot come out"):
        cells.pull("_")


def test_after_the_sandbox_s_python_has_ended_the_next_cell_begins_anew(bench: Workbench, cells: Cells) -> None:
    cells.execute("kept = 1\nopen('note', 'w').write('here')")
    with pytest.raises(SandboxLost, match="ended"):
        cells.execute("import os\nos._exit(3)")
    changed = cells.start()
    assert changed is not None
    assert changed.state == "reused"
    assert cells.execute("print('kept' in globals(), open('note').read())").text == "False here"


def test_a_question_runs_in_the_sandbox_of_the_cells_and_leaves_their_variables(tmp_path) -> None:
    store = StoreSettings(url=f"sqlite:///{tmp_path}/fleet.db")
    bench = Workbench(Settings(model="offline/recipes", store=store))
    try:
        cells = bench.cells()
        first = cells.start()
        cells.execute("kept = 1")
        live = bench.ask(Question("How many lines are there?", context="one\ntwo\nthree"))
        assert live.result(60).status == "done"
        facts = [event.fact for event in live.trace.events]
        (opened, closed) = [fact for fact in facts if isinstance(fact, SandboxChanged)]
        assert first is not None
        assert (opened.sandbox_id, opened.state, opened.is_degraded) == (first.sandbox_id, "reused", False)
        assert closed.state == "detached"
        assert cells.execute("kept").text == "1"
    finally:
        bench.close()


def test_where_no_isolation_is_allowed_for_models_the_users_own_code_runs_and_the_label_says_so() -> None:
    bench = Workbench(Settings(model="openai/none", sandbox=SandboxSettings(level="L1")))
    try:
        changed = bench.cells().start()
        assert changed is not None
        assert "NOT isolated" in changed.isolation
        assert bench.cells().execute("6 * 7").text == "42"
    finally:
        bench.close()
