"""One suite for a Workbench here and for one that a server holds."""

from __future__ import annotations

import hashlib
import queue
import re
import threading
import time

import dspy
import numpy
import pandas
import pyarrow
import pytest
from jupyter_process import wait_until
from unit.sandbox.pty_machine import local_interpreter
from worker_thread import WorkerThread

from fleet_rlm_jupyter.domain.calls import fold
from fleet_rlm_jupyter.domain.errors import (
    BadPath,
    BadRequest,
    BadSettings,
    FleetError,
    KeyReused,
    NoSuchDataset,
    NoSuchProgram,
    NoSuchRun,
    NoSuchSandbox,
    NoSuchSession,
    ServerUnavailable,
    SessionBusy,
)
from fleet_rlm_jupyter.domain.events import Limits
from fleet_rlm_jupyter.domain.ports import Listing
from fleet_rlm_jupyter.domain.program import Definition
from fleet_rlm_jupyter.domain.question import Question
from fleet_rlm_jupyter.kernel.variables import as_context
from fleet_rlm_jupyter.remote import RemoteWorkbench
from fleet_rlm_jupyter.settings import ContextSettings
from fleet_rlm_jupyter.testing import UnisolatedSandboxes, code, scripted_workbench
from fleet_rlm_jupyter.verbs import frames

pytest_plugins = ["contract.workbenches_fixture"]

ASK = "SUBMIT(answer=str(len(context)) if isinstance(context, str) else ','.join(sorted(context)))"

CELLS = {
    "ask back": "SUBMIT(answer=ask_user(question='which year?', options=['2001', '2002']))",
    "divide": "found = sub_rlm_batched(prompts=['go on ' + 'endlessly', 'how long?'], contexts=['', ''])\n"
              "SUBMIT(answer=','.join(one if isinstance(one, str) else one['error']['code'] for one in found))",
    "endlessly": "while True: pass",
}  # fmt: skip


def reply(prompt):
    """An RLM's planner, or a program that adds up: wrongly, unless it is told to be careful."""
    asked = re.findall(r"(\d+) \+ (\d+)", prompt)
    if not asked:
        return code(next((cell for word, cell in CELLS.items() if word in prompt), ASK))
    total = sum(map(int, asked[-1])) + (0 if "carefully" in prompt else 1)
    return f"[[ ## answer ## ]]\n{total}\n\n[[ ## completed ## ]]"


def ask(bench, text="how long?", **more):
    return bench.ask(Question(text, mode="rlm_only", **more))


def test_a_question_is_answered_and_seen_while_it_is_worked_on(bench):
    seen = []
    run = bench.ask(Question("how long?", context="x" * 1000, mode="rlm_only"), watcher=seen.append)
    ended = run.result(60)
    assert (ended.status, ended.answer, ended.question) == ("done", "1000", "how long?")
    assert ended.usage.calls == 1
    assert [event.seq for event in seen] == list(range(len(seen)))
    assert tuple(seen) == run.trace.events
    assert run.tree().answer == "1000"
    assert bench.runs.record(run.run_id) == ended


@pytest.mark.parametrize(
    ("context", "answer"),
    [("", "0"), ("ü☃" * 10, "20"), ({"a": "1", "b/ü.txt": "2"}, "a,b/ü.txt"), ("y" * 3_000_000, "3000000")],
    ids=["empty", "unicode", "texts by name", "three megabytes"],
)  # fmt: skip
def test_a_context_arrives_as_it_is(bench, context, answer):
    assert ask(bench, context=context).result(60).answer == answer


TABLE = pandas.DataFrame(
    {
        "when": pandas.to_datetime(["2026-11-25 10:00", None]),
        "zone": pandas.to_datetime(["2026-11-25", "2026-11-26"]).tz_localize("Europe/Berlin"),
        "size": pandas.Categorical(["small", "large"], ["small", "middle", "large"], ordered=True),
        "level": pandas.Categorical([3, 1], [5, 3, 1]),
        "count": pandas.array([1, None], dtype="Int64"),
        "is_on": [True, False],
        "x": numpy.array([0.1, 2], dtype="float32"),
        "code": ["007", "1e5"],
    },
    index=pandas.Index(["a", "b"], name="key"),
)
DESCRIBE = """
print({name: str(dtype) for name, dtype in context.dtypes.items()}, list(context["size"].cat.categories))
SUBMIT(answer=context.to_csv())
"""


class RealGuests(UnisolatedSandboxes):
    """The guest that sandboxes have, on a terminal of this machine: it has the libraries that the tests have."""

    def open(self, role, on_output=None, on_fact=None):
        return local_interpreter(on_output=on_output)


@pytest.fixture(scope="module")
def table_worker():
    plain = "[[ ## answer ## ]]\n{}\n\n[[ ## completed ## ]]"

    def script(prompt):
        return code(DESCRIBE) if "variables_info" in prompt else plain.format("007,1e5"[: 3 * prompt.count("a,2026")])

    thread = WorkerThread(scripted_workbench(script, home=RealGuests()))
    yield thread
    thread.close()


@pytest.fixture(params=["here", "remote"])
def table_bench(request, table_worker):
    user = f"{request.param} {request.node.name}"
    if request.param == "here":
        return table_worker.bench.seen_by(user)
    return RemoteWorkbench(table_worker.url, headers=table_worker.headers(user))


@pytest.mark.parametrize("libraries", [["numpy", "pandas", "pyarrow"], ["numpy", "pandas"]], ids=["arrow", "columns"])
def test_a_table_keeps_its_types_and_the_output_says_how_it_came(table_bench, libraries, monkeypatch):
    monkeypatch.setattr(frames, "libraries", lambda: list(libraries))
    run = ask(table_bench, context=as_context(TABLE, ContextSettings()))
    ended = run.result(60)
    assert (ended.status, ended.answer) == ("done", TABLE.to_csv())
    printed = "".join(call.texts.get("stdout", "") for call in run.tree().calls.values())
    types = {name: str(dtype) for name, dtype in TABLE.dtypes.items()}
    assert printed.strip() == f"{types} {list(TABLE['size'].cat.categories)}"
    note = run.trace.events[0].fact.note
    assert "1 file, 0.0 MB" in note
    assert "a DataFrame where the sandbox has pandas, else a dict of columns; CSV for recipes" in note
    kind = "arrow" if "pyarrow" in libraries else "columns"
    assert (f"it came with its types ({kind})" in note) == isinstance(table_bench, RemoteWorkbench)


def test_a_plain_call_and_a_program_by_its_name_get_a_table_too(table_bench):
    context = as_context(TABLE, ContextSettings())
    assert table_bench.ask(Question("which?", context=context, mode="direct")).result(60).answer == "007"
    assert table_bench.run("ask", {"context": context, "question": "which?"}).result(60).answer == "007"


def test_a_table_that_the_server_cannot_read_goes_as_csv_and_the_output_says_so(table_worker, monkeypatch):
    bench = RemoteWorkbench(table_worker.url, headers=table_worker.headers("csv"))

    def noted(frame):
        run = bench.ask(Question("?", context=as_context(frame, ContextSettings()), mode="direct"))
        assert run.result(60).status == "done"
        return run.trace.events[0].fact.note

    assert "a table without its types, as CSV: its values" in noted(pandas.DataFrame({"o": [object, 1]}))
    monkeypatch.setattr(frames, "libraries", list)
    assert "a table without its types, as CSV: the server has no pandas" in noted(TABLE)


def test_a_table_is_sent_once_and_its_csv_never(table_worker):
    bench = RemoteWorkbench(table_worker.url, headers=table_worker.headers("once"))
    frame = pandas.DataFrame({"n": numpy.arange(200_000) * 1_000_003, "name": "some text"})
    sent, send = [], bench.connection.send
    bench.connection.send = lambda *given: sent.append(given[3]["Content-Length"]) or send(*given)
    for _ in range(2):
        run = bench.ask(Question("?", context=as_context(frame, ContextSettings()), mode="direct"))
        assert run.result(60).status == "done"
    assert len(sent) == 1
    assert 200_000 * 8 < int(sent[0]) < len(frame.to_csv())


def stream_of(array):
    """Arrow's stream of one column, whatever is in its buffers."""
    batch = pyarrow.RecordBatch.from_arrays([array], ["a"])
    sink = pyarrow.BufferOutputStream()
    with pyarrow.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue().to_pybytes()


def hostile_tables():
    """What says that it is a table: what it is, kind, bytes."""
    kind, good = frames.packed(TABLE, frames.readers())
    yield "junk", kind, b"junk"
    yield "nothing", kind, b""
    yield "half of one", kind, good[: len(good) // 2]
    yield "one of another kind", "columns", good
    offsets = pyarrow.py_buffer(numpy.array([0, 2**30, 8], "int32").tobytes())
    texts = pyarrow.StringArray.from_buffers(2, offsets, pyarrow.py_buffer(b"abcdefgh"))
    yield "texts out of their buffer", kind, stream_of(texts)
    codes = pyarrow.py_buffer(numpy.array([0, 99], "int8").tobytes())
    indices = pyarrow.Int8Array.from_buffers(pyarrow.int8(), 2, [None, codes])
    yield "no such category", kind, stream_of(pyarrow.DictionaryArray.from_arrays(indices, ["a"], safe=False))
    yield "two billion rows of nothing", kind, stream_of(pyarrow.nulls(2**31 - 1))
    yield "the same in columns", *frames.packed(pandas.DataFrame(index=range(10**10)), ["pandas"])
    long = pandas.Categorical.from_codes(numpy.zeros(200_000, "int8"), ["x" * 10_000])
    yield "two gigabytes of CSV", *frames.packed(pandas.DataFrame({"t": long}), frames.readers())


def test_what_only_says_that_it_is_a_table_is_refused(table_worker):
    bench = RemoteWorkbench(table_worker.url, headers=table_worker.headers("mallory"))
    before = table_worker.bench.settings.context.max_mb
    table_worker.bench.settings_view.patch({"context.max_mb": 1})
    try:
        for what, kind, raw in hostile_tables():
            sha256 = hashlib.sha256(raw).hexdigest()
            bench.contexts.put(sha256, raw)
            body = {"question": "?", "context": {"sha256": sha256, "kind": kind}}
            assert table_worker.ask("POST", "/runs", "mallory", json=body).status_code == 400, what
    finally:
        table_worker.bench.settings_view.patch({"context.max_mb": before})


def test_files_become_a_context(bench, tmp_path):
    (tmp_path / "one.txt").write_text("1234", encoding="utf-8")
    assert ask(bench, paths=[tmp_path / "one.txt"]).result(60).answer == "4"


def test_files_are_staged_and_travel_by_content(bench, worker, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "one.bin").write_bytes(b"\0one")
    (tmp_path / "data" / "empty").write_bytes(b"")
    run = bench.ask(Question("q", context_paths=["data"]))
    assert run.result(60).status == "done"
    staging = worker.bench.sandboxes().opened[-1].staging
    found = {file.path: staging.places[file.sha256].read_bytes() for file in staging.manifest.files}
    assert found == {"01-data/empty": b"", "01-data/one.bin": b"\0one"}
    with pytest.raises(BadPath, match="none of the folders"):
        bench.ask(Question("q", context_paths=["/etc/hostname"]))


def test_a_run_is_followed_from_any_event_and_read_again(bench):
    run = ask(bench)
    events = list(bench.follow(run.run_id))
    run.result(60)
    assert [event.seq for event in events] == list(range(len(events)))
    assert list(bench.follow(run.run_id, 3)) == events[3:] == list(bench.runs.events(run.run_id, 3))
    assert bench.runs.tree(run.run_id) == fold(events)
    assert list(bench.runs.export(run.run_id)) == [event.encode() for event in events]


def test_a_run_is_stopped(bench, engine):
    engine._seconds = 0.5
    try:
        run = ask(bench)
        run.cancel()
        assert run.result(60).status == "cancelled"
    finally:
        engine._seconds = 0
    bench.cancel(run.run_id)


def test_a_run_that_asks_back_goes_on_with_the_answer(bench):
    run = ask(bench, "does it ask back?", can_answer=True)
    question = next(event for event in bench.follow(run.run_id) if event.fact.type == "question.asked")
    assert (question.fact.text, question.fact.options) == ("which year?", ["2001", "2002"])
    with pytest.raises(BadRequest):
        bench.answer(run.run_id, "c-nobody", "1999")
    bench.answer(run.run_id, question.call_id, "2001")
    assert run.result(60).answer == "2001"
    with pytest.raises(BadRequest):
        bench.answer(run.run_id, question.call_id, "2002")


def test_one_call_of_a_run_is_stopped_and_its_sibling_is_not(bench):
    run = ask(bench, "does it divide?")
    started = (event for event in bench.follow(run.run_id) if event.fact.type == "call.started")
    slow = next(one.call_id for one in started if one.fact.kind == "rlm" and "endlessly" in str(one.fact.inputs))
    bench.cancel(run.run_id, slow)
    assert run.result(60).answer == "call_cancelled,0"
    with pytest.raises(BadRequest):
        bench.cancel(ask(bench).run_id, "c-nobody")


def test_limits_are_heeded(bench):
    run = bench.ask(Question("q", mode="rlm_only"), Limits(seconds=0.000001))
    assert run.result(60).status == "over_budget"


def test_whoever_sees_the_end_finds_the_record_the_turn_and_a_free_session(bench):
    """At that very moment: where it is shown in the process that did the work, its thread may not have come so far."""
    session_id = bench.sessions.create("at the end").session_id
    found = queue.SimpleQueue()

    def look(event):
        if event.fact.type != "run.ended":
            return
        try:
            record = bench.runs.record(event.run_id)
            turns = [turn.run for turn in bench.session(session_id).turns]
            found.put((record, turns, bench.runs.get(event.run_id).status, ask(bench, session_id=session_id)))
        except FleetError as err:
            found.put(err)

    run = bench.ask(Question("how long?", context="x", mode="rlm_only", session_id=session_id), watcher=look)
    record, turns, status, another = found.get(timeout=60)
    assert (turns, status) == ([record], "done")
    assert run.result(60) == record
    assert another.result(60).status == "done"


def test_a_key_never_runs_twice(bench):
    first = ask(bench, key="k")
    first.result(60)
    again = ask(bench, key="k")
    assert again.run_id == first.run_id
    assert again.result(60).answer == "0"
    with pytest.raises(KeyReused):
        ask(bench, text="another", key="k")


def test_a_busy_session_refuses_or_queues(bench, engine):
    session_id = bench.sessions.create("busy").session_id
    engine._seconds = 0.3
    try:
        first = ask(bench, session_id=session_id)
        with pytest.raises(SessionBusy):
            ask(bench, session_id=session_id)
        second = ask(bench, session_id=session_id, when_busy="queue")
        assert second.result(60).status == "done"
        assert first.is_finished
    finally:
        engine._seconds = 0


def test_sessions_keep_what_was_said(bench):
    made = bench.sessions.create("a title")
    run = ask(bench, session_id=made.session_id)
    ended = run.result(60)
    assert [turn.run for turn in bench.session(made.session_id).turns] == [ended]
    assert bench.sessions.transcript(made.session_id) == bench.session(made.session_id)
    assert bench.sessions.stats(made.session_id).by_status == {"done": 1}
    assert bench.sessions.rename(made.session_id, "other").title == "other"
    found, cursor = bench.sessions.list(search="oth")
    assert ([line.session_id for line in found], cursor) == ([made.session_id], None)
    assert bench.sessions.archive(made.session_id).archived_at is not None
    assert bench.sessions.list()[0] == []
    assert bench.sessions.restore(made.session_id).archived_at is None
    assert bench.runs.feedback(run.run_id, 1, comment="good").rating == 1
    assert [given.comment for given in bench.sessions.feedback(made.session_id)] == ["good"]
    copy = bench.sessions.import_(bench.sessions.export(made.session_id))
    assert bench.session(copy.session_id).turns[0].message == "how long?"
    left = bench.sessions.delete(made.session_id)
    assert (left.volume, left.folder) == ("fleet-rlm", f"sessions/{made.session_id}")
    with pytest.raises(NoSuchSession):
        bench.sessions.get(made.session_id)


def test_what_is_not_there_is_told_alike(bench):
    with pytest.raises(NoSuchRun):
        bench.follow("r-0")
    for verb in (bench.cancel, bench.runs.get, bench.runs.record, bench.runs.tree):
        with pytest.raises(NoSuchRun):
            verb("r-0")
    with pytest.raises(NoSuchSession):
        bench.session("s-0")
    with pytest.raises(BadRequest):
        bench.ask(" ")
    with pytest.raises(BadRequest, match="without repo_url"):
        bench.ask(Question("q", repo_ref="main"))
    with pytest.raises(BadRequest, match=r"holds credentials|no repository"):
        bench.ask(Question("q", repo_url="https://me:word@example.org/x"))
    with pytest.raises(BadRequest, match="given twice"):
        bench.ask(Question("q", context="x", paths=["y"]))
    with pytest.raises(BadRequest):
        bench.answer(ask(bench).run_id, "c", "yes")


def test_values_are_fetched_by_their_id(bench):
    run = ask(bench)
    run.result(60)
    cell = next(call for call in run.tree().calls.values() if call.kind == "code")
    assert bench.runs.value(run.run_id, cell.id, "code") == ASK


def test_files_of_a_session_are_written_read_moved_and_deleted(bench):
    files = bench.files(bench.sessions.create("files").session_id)
    assert files.tree() == Listing([], False)
    data = bytes(range(256)) * 10_000
    files.write("artifacts/ü b/one&two.bin", data)
    assert files.read("artifacts/ü b/one&two.bin", 5_000_000) == data
    with pytest.raises(BadPath, match="2,560,000"):
        files.read("artifacts/ü b/one&two.bin")
    files.write("artifacts/empty", b"")
    assert files.read("artifacts/empty") == b""
    files.make_folder("memory/notes")
    files.move("artifacts/empty", "memory/notes/empty")
    found = {entry.path: (entry.kind, entry.bytes) for entry in files.tree().entries if "/" in entry.path}
    assert found.keys() == {"artifacts/ü b", "artifacts/ü b/one&two.bin", "memory/notes", "memory/notes/empty"}
    assert found["artifacts/ü b/one&two.bin"] == ("file", 2_560_000)
    assert files.tree(most=1).is_cut
    assert [entry.path for entry in files.tree("memory", depth=1).entries] == ["memory/notes"]
    files.delete("memory/notes")
    with pytest.raises(BadPath):
        files.read("memory/notes/empty")


@pytest.mark.parametrize("path", ["../x", "artifacts/../../x", "/etc/passwd", "artifacts//x", "x", "", "artifacts/\0"])
def test_no_path_leaves_the_files_of_a_session(bench, path):
    files = bench.files(bench.sessions.create("files").session_id)
    for act in (
        lambda: files.read(path),
        lambda: files.write(path, b"x"),
        lambda: files.make_folder(path),
        lambda: files.move(path, "artifacts/y"),
        lambda: files.move("artifacts/y", path),
        lambda: files.delete(path),
    ):
        with pytest.raises(BadPath):
            act()
    assert files.tree() == Listing([], False)


def test_files_of_a_session_that_is_not_there_are_not_there_either(bench):
    with pytest.raises(NoSuchSession):
        bench.files("s-0").tree()


def test_datasets_are_made_of_rows_listed_sampled_and_deleted(bench):
    text = "\n".join(f'{{"question": "{number}?", "answer": {number}}}' for number in range(30)) + "\nnonsense"
    made = bench.datasets.create("numbers", text, "numbers.jsonl")
    assert (made.rows, made.fields) == (30, ["question", "answer"])
    assert made.left_out == ["31: no JSON: Expecting value: line 1 column 1 (char 0)"]
    assert sum(made.splits.values()) == 30
    assert bench.datasets.list() == [made] == [bench.datasets.get("numbers")]
    sample = bench.datasets.sample("numbers", 5, "train")
    assert len(sample) == 5 == len({row.row_id for row in sample})
    assert sample == bench.datasets.sample("numbers", 5, "train")
    assert {(row.split, row.origin.split(":")[0]) for row in sample} == {("train", "numbers.jsonl")}
    assert bench.datasets.create("one", [{"a": 1}, 2, {"a": {3}}]).left_out[0] == "2: no object of named fields"
    with pytest.raises(BadRequest, match="already"):
        bench.datasets.create("numbers", text)
    for bad in ("../x", ".."):
        with pytest.raises(BadRequest, match="is no name"):
            bench.datasets.create(bad, text)
    with pytest.raises(BadRequest, match="nothing of it"):
        bench.datasets.create("nothing", "[]")
    bench.datasets.delete("numbers")
    for verb in (bench.datasets.get, bench.datasets.sample, bench.datasets.delete):
        with pytest.raises(NoSuchDataset):
            verb("numbers")


def test_a_dataset_comes_of_the_turns_that_were_judged(bench):
    session_id = bench.sessions.create("judged").session_id
    for text, rating, expected in (("good?", 1, ""), ("bad?", -1, ""), ("corrected?", -1, "so"), ("silent?", None, "")):
        run = ask(bench, text, session_id=session_id)
        run.result(60)
        if rating is not None:
            bench.runs.feedback(run.run_id, rating, expected)
    made = bench.datasets.from_session("judged", session_id)
    rows = {row.fields["question"]: row.fields["answer"] for row in bench.datasets.sample("judged")}
    assert rows == {"good?": "0", "corrected?": "so"}
    assert made.left_out == []
    with pytest.raises(BadRequest, match="called good or corrected"):
        bench.datasets.from_session("none", bench.sessions.create("empty").session_id)
    with pytest.raises(NoSuchSession):
        bench.datasets.from_session("none", "s-0")


def test_a_sandbox_is_listed_and_stopped_and_the_run_in_it_fails(bench, worker):
    assert bench.live_sandboxes.list() == []
    run = ask(bench, text="does it go on endlessly?")
    wait_until(bench.live_sandboxes.list)
    (one,) = bench.live_sandboxes.list()
    assert (one.session, one.run, one.role, one.depth) == (run.session_id, run.run_id, "rlm", 1)
    assert (one.state, abs(time.time() - one.created) < 60) == ("started", True)
    stranger = RemoteWorkbench(worker.url, headers=worker.headers("a stranger"))
    assert stranger.live_sandboxes.list() == []
    for who, guess in ((stranger, one.id), (bench, "plain-0"), (bench, ""), (bench, "../runs"), (bench, "..")):
        with pytest.raises(NoSuchSandbox):
            who.live_sandboxes.stop(guess)
    for guess in ("plain-0", ".."):
        for act in (bench.live_sandboxes.archive, bench.live_sandboxes.start):
            with pytest.raises(NoSuchSandbox):
                act(guess)
    bench.live_sandboxes.start(one.id)  # it is
    with pytest.raises(SessionBusy, match="works in it"):
        bench.live_sandboxes.archive(one.id)
    with pytest.raises(SessionBusy):
        bench.live_sandboxes.resize(one.id, cpu=2)
    bench.live_sandboxes.stop(one.id)
    assert run.result(60).status == "failed"
    assert bench.live_sandboxes.list() == []
    with pytest.raises(NoSuchSandbox):
        bench.live_sandboxes.stop(one.id)
    assert bench.live_sandboxes.prune() == 0


def test_programs_run_by_their_name(bench):
    assert [program.name for program in bench.programs.list()] == ["ask"]
    assert bench.programs.get("ask").outputs == ["answer"]
    assert bench.run("ask", {"context": "abc", "question": "q"}).result(60).status
    with pytest.raises(BadRequest):
        bench.run("nope", {})


def test_a_saved_program_runs_by_its_name_in_the_version_that_was_approved(bench):
    made = bench.programs.save("adder", dspy.Predict("question -> answer: int"))
    assert (made.name, made.version, made.is_approved, made.inputs, made.outputs) == (
        "adder", 1, True, ["question"], ["answer"],
    )  # fmt: skip

    def answer(name):
        run = bench.run(name, {"question": "2 + 3"})
        ended = run.result(60)
        assert (ended.status, ended.program) == ("done", name if "@" in name else ended.program)
        return ended.answer

    assert answer("adder") == "6"
    careful = Definition(signature="question -> answer: int", instructions="Add up carefully.")
    assert not bench.programs.save("adder", careful).is_approved
    assert answer("adder") == "6"
    assert answer("adder@2") == "5"
    assert bench.programs.approve("adder", 2).is_approved
    assert answer("adder") == "5"
    assert [(info.name, info.version) for info in bench.programs.list()] == [("ask", 0), ("adder", 2)]
    assert [info.version for info in bench.programs.versions("adder")] == [2, 1]
    bench.programs.approve("adder", 1)
    assert answer("adder") == "6"
    state = bench.programs.definition("adder@2").state
    assert state["signature"]["instructions"] == "Add up carefully."
    assert state["lm"] is None


def test_an_rlm_that_was_saved_runs_in_a_sandbox(bench):
    bench.programs.save("reader", dspy.RLM("context, question -> answer"))
    run = bench.run("reader", {"context": "x" * 77, "question": "how long?"})
    assert run.result(60).answer == "77"
    assert [call.kind for call in run.tree().roots] == ["rlm"]


def test_what_cannot_be_a_program_is_said(bench):
    for name in ("nope", "nope@1", "ask@1"):
        with pytest.raises(NoSuchProgram):
            bench.programs.get(name)
    with pytest.raises(NoSuchProgram):
        bench.programs.approve("nope", 1)
    with pytest.raises(BadRequest, match="is no version"):
        bench.programs.get("nope@x")
    with pytest.raises(BadRequest, match="comes with the package"):
        bench.programs.save("ask", dspy.Predict("a -> b"))
    with pytest.raises(BadRequest, match="comes with the package"):
        bench.programs.definition("ask")
    with pytest.raises(BadRequest, match="is no name"):
        bench.programs.save("a b", dspy.Predict("a -> b"))
    with pytest.raises(BadRequest, match="cannot be kept"):
        bench.programs.save("p", dspy.ReAct("a -> b", tools=[]))
    with pytest.raises(BadRequest, match="the type of b"):
        bench.programs.save("p", Definition(signature="a -> b: os"))
    bench.programs.save("p", dspy.Predict("a, b -> c"))
    with pytest.raises(BadRequest, match="p takes a and b"):
        bench.run("p", {"a": "x"})


def test_settings_are_shown_and_changed_as_a_whole_or_not_at_all(bench):
    def calls():
        return next(setting.value for setting in bench.settings_view.get() if setting.name == "budget.calls")

    before = calls()
    bench.settings_view.patch({"budget.calls": 77})
    assert calls() == 77
    with pytest.raises(BadSettings):
        bench.settings_view.patch({"budget.calls": 5, "model_seconds": -1})
    assert calls() == 77
    with pytest.raises(BadSettings):
        bench.settings_view.patch({"daytona.api_key": "x"})
    bench.settings_view.patch({"budget.calls": before})


def test_contexts_are_kept_by_their_digest(bench):
    raw = b"some text"
    sha256 = hashlib.sha256(raw).hexdigest()
    assert not bench.contexts.has(sha256)
    bench.contexts.put(sha256, raw if isinstance(bench, RemoteWorkbench) else [raw])
    assert bench.contexts.has(sha256)
    with pytest.raises(BadRequest):
        bench.contexts.put(hashlib.sha256(b"other").hexdigest(), raw if isinstance(bench, RemoteWorkbench) else [raw])


def test_checks_say_what_works(bench):
    assert {check.name for check in bench.check()} >= {"model", "sandbox", "store"}


def test_a_smoke_test_tells_each_phase_as_it_ends(bench, worker, monkeypatch):
    is_deleted = threading.Event()
    monkeypatch.setattr(worker.bench.sandboxes(), "is_gone", lambda sandbox_id, seconds: is_deleted.wait(30))
    phases = bench.smoke()
    assert [next(phases).name for _ in range(5)] == ["config", "create", "state", "callback", "volume"]
    is_deleted.set()
    (last,) = phases
    assert (last.name, last.status) == ("clean-up", "passed")
    with pytest.raises(BadRequest, match="without repo_url"):
        next(iter(bench.smoke(repo_ref="main")))


def test_a_smoke_test_that_nobody_reads_any_more_leaves_no_sandbox(bench, worker):
    phases = bench.smoke()
    assert [next(phases).name for _ in range(2)] == ["config", "create"]
    phases.close()
    wait_until(lambda: worker.bench.sandboxes().live == 0)


def test_a_phase_that_fails_says_why_and_what_to_do(bench):
    phases = {phase.name: phase for phase in bench.smoke("https://127.0.0.1:1/none")}
    assert phases["clone"].status == "failed"
    assert phases["clone"].error.hint
    assert phases["create"].status == "skipped"


def test_a_server_that_is_not_there_is_told_so(monkeypatch):
    monkeypatch.setattr("fleet_rlm_jupyter.connection.LONGEST_PAUSE", 0.1)
    nobody = RemoteWorkbench("http://127.0.0.1:9/base/")
    with pytest.raises(ServerUnavailable, match="does not answer"):
        nobody.status()
    for url in ("ftp://x", "localhost:8888", ""):
        with pytest.raises(BadRequest):
            RemoteWorkbench(url)


def test_a_session_is_resumed_with_what_there_is_of_it(bench):
    session_id = bench.sessions.create("numbers").session_id
    ask(bench, session_id=session_id).result(60)
    bench.memory.add("Totals are in thousands.")
    bench.files(session_id).write("memory/notes.txt", b"x")
    found = bench.resume(session_id)
    assert (found.session.title, found.session.turns, found.is_restored) == ("numbers", 1, False)
    assert (found.notes, found.files, found.manifest, found.conflict) == (1, 1, None, "")
    for unknown in ("s-nobody", "../x"):
        with pytest.raises(NoSuchSession):
            bench.resume(unknown)
