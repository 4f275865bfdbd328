"""Stop, at every moment of a run: no LM call starts after it, and the run ends soon."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import pytest
from integration.jupyter_servers import JupyterServer, text_of, until
from scripted_model import DEAF, ScriptedModel

from fleet_rlm_jupyter.domain.events import Event
from fleet_rlm_jupyter.domain.session import Run
from fleet_rlm_jupyter.remote import RemoteRun, RemoteWorkbench
from fleet_rlm_jupyter.sandbox.daytona import DaytonaSandboxes
from fleet_rlm_jupyter.settings import Settings, load, variable
from fleet_rlm_jupyter.testing import code, scripted_workbench
from fleet_rlm_jupyter.workbench import LiveRun, Question, Workbench

SOON, KILLED = 1.0, 8.0


def is_planner(prompt: str) -> bool:
    return "variables_info" in prompt


@dataclass
class Scene:
    """What a run does until it is stopped; `reached` is set when it has come to the moment that is meant."""

    reached: threading.Event = field(default_factory=threading.Event)
    release: threading.Event = field(default_factory=threading.Event)
    arrived: list[str] = field(default_factory=list)
    waits_for: ClassVar[int] = 1

    def policy(self, prompt: str) -> str:
        raise AssertionError("each scene has its own")

    def see(self, event: Event) -> None:
        if event.fact.type == "call.text" and event.fact.channel == "stdout" and "here" in event.fact.text:
            self.reached.set()

    def hold(self, answer: str) -> str:
        """Let the model take its time over this answer; the moment is when so many wait."""
        self.arrived.append(answer)
        if len(self.arrived) >= self.waits_for:
            self.reached.set()
        self.release.wait(20)
        return answer


class BeforeTheFirstCall(Scene):
    def policy(self, prompt: str) -> str:
        return code("SUBMIT(answer='too late')")

    def see(self, event: Event) -> None:
        if event.fact.type == "run.started":
            self.reached.set()


class InTheModel(Scene):
    def policy(self, prompt: str) -> str:
        return self.hold(code("SUBMIT(answer='too late')"))


class InACell(Scene):
    def policy(self, prompt: str) -> str:
        return code("import time\nprint('here', flush=True)\ntime.sleep(60)\nllm_query('more?')")


class InACellThatIsDeaf(Scene):
    def policy(self, prompt: str) -> str:
        return code(f"print('here', flush=True)\n{DEAF}")


class InASubQuery(Scene):
    def policy(self, prompt: str) -> str:
        if is_planner(prompt):
            return code("for _ in range(20):\n    try: llm_query('a?')\n    except BaseException: pass")
        return self.hold("late")


class InABatch(Scene):
    waits_for = 16

    def policy(self, prompt: str) -> str:
        if is_planner(prompt):
            return code("print(llm_query_batched([str(n) for n in range(40)]))")
        return self.hold("late")


class InACellOfAChild(Scene):
    def policy(self, prompt: str) -> str:
        if "look closer" in prompt:
            return code("import time\nprint('here', flush=True)\ntime.sleep(60)")
        return code("print(sub_rlm('look ' + 'closer'))")


class AmongManyChildren(Scene):
    waits_for = 4

    def policy(self, prompt: str) -> str:
        if "look closer" in prompt:
            return self.hold(code("SUBMIT(answer='late')"))
        return code("print(sub_rlm_batched(['look ' + 'closer'] * 4))")


class WhileAQuestionIsOpen(Scene):
    def policy(self, prompt: str) -> str:
        return code("print(ask_user('which year?'))")

    def see(self, event: Event) -> None:
        if event.fact.type == "question.asked":
            self.reached.set()


SCENES: list[type[Scene]] = [
    BeforeTheFirstCall, InTheModel, InACell, InACellThatIsDeaf, InASubQuery, InABatch, InACellOfAChild,
    AmongManyChildren, WhileAQuestionIsOpen,
]  # fmt: skip


class InThisProcess:
    """The Workbench of a kernel without a server."""

    def __init__(self, model: ScriptedModel) -> None:
        self._bench = Workbench(load({**model.settings, "budget.depth": 3}, environ={}))

    def ask(self, question: str, see: Callable[[Event], None]) -> LiveRun:
        return self._bench.ask(Question(question, context="x" * 1000, mode="rlm_only", can_answer=True), watcher=see)

    def cancel(self, run: LiveRun, call_id: str) -> None:
        self._bench.cancel(run.run_id, call_id)

    def close(self) -> None:
        self._bench.close()


class OnAServer:
    """A Jupyter server's worker, over REST and the socket."""

    def __init__(self, model: ScriptedModel) -> None:
        self._home = tempfile.TemporaryDirectory(prefix="fleet-stop-", ignore_cleanup_errors=True)
        environ = {variable(name): str(value) for name, value in {**model.settings, "budget.depth": 3}.items()}
        self._server = JupyterServer("jupyter server", Path(self._home.name), environ)
        self._bench = RemoteWorkbench(self._server.url, self._server.token)

    def ask(self, question: str, see: Callable[[Event], None]) -> RemoteRun:
        return self._bench.ask(Question(question, context="x" * 1000, mode="rlm_only", can_answer=True), watcher=see)

    def cancel(self, run: RemoteRun, call_id: str) -> None:
        self._bench.cancel(run.run_id, call_id)

    def close(self) -> None:
        self._server.end()
        self._home.cleanup()


class ACell:
    """A cell of a kernel that asks on the server; to cancel it is to interrupt the kernel."""

    def __init__(self, place: FromAKernel, question: str, cell: str, see: Callable[[Event], None]) -> None:
        self._place = place
        self._asked = place.kernel.begin(cell)
        (known,) = until(lambda: place.bench.runs.list(question), "the server does not know the run")
        self.run_id = known.run_id
        self._is_interrupted = False
        threading.Thread(target=self._follow, args=(see,), daemon=True).start()

    def _follow(self, see: Callable[[Event], None]) -> None:
        for event in self._place.bench.follow(self.run_id):
            see(event)

    def cancel(self) -> None:
        if not self._is_interrupted:
            self._is_interrupted = True
            self._place.kernel.interrupt()

    def result(self, timeout: float) -> Run:
        """The run as the server keeps it, once the cell has ended."""
        outputs = self._place.kernel.finish(self._asked)
        record = self._place.bench.runs.record(self.run_id)
        if record.status == "cancelled" and self._is_interrupted:
            assert outputs[-1]["ename"] in ("FleetInterrupted", "KeyboardInterrupt"), text_of(outputs)
        return record


WAITS = """
from fleet_rlm_jupyter.kernel.handles import Handle, notebook
from fleet_rlm_jupyter.domain.masking import Mask
from fleet_rlm_jupyter.workbench import Question
place = notebook().place()
asked = notebook().remote(place.server).ask(Question({question!r}, context=text, mode="rlm_only", can_answer=True))
handle = Handle(asked, Mask())
handle.result()
"""


class FromAKernel:
    """A kernel that a Jupyter server started, whose questions run on that server.

    Each is asked by `%%fleet_rlm`, or one that may ask back by a handle, whose result is waited for.
    """

    def __init__(self, model: ScriptedModel) -> None:
        self._on = OnAServer(model)
        self.bench = self._on._bench
        self._opened = self._on._server.kernel()
        self.kernel = self._opened.__enter__()
        self.kernel.run("%load_ext fleet_rlm_jupyter\ntext = 'x' * 1000")

    def ask(self, question: str, see: Callable[[Event], None]) -> ACell:
        magic = f"%%fleet_rlm --var text --on server\n{question}"
        is_magic = "Question" not in question and "question" not in question
        return ACell(self, question, magic if is_magic else WAITS.format(question=question), see)

    def cancel(self, run: ACell, call_id: str) -> None:
        self.bench.cancel(run.run_id, call_id)

    def close(self) -> None:
        self._opened.__exit__(None, None, None)
        self._on.close()


@pytest.fixture(scope="module")
def model():
    with ScriptedModel(lambda prompt: "") as running:
        yield running


@pytest.fixture(scope="module", params=[InThisProcess, OnAServer, FromAKernel])
def place(request, model):
    made = request.param(model)
    # The first run of a process pays for imports, which no stop can interrupt.
    model.script(lambda prompt: code("SUBMIT(answer='done')"))
    made.ask("anything at all?", lambda event: None).result(60)
    yield made
    made.close()


@pytest.mark.parametrize("kind", SCENES)
def test_a_stop_ends_the_run_soon_and_no_call_starts_after_it(place, model, kind):
    scene = kind()
    model.script(scene.policy)
    seen: list[Event] = []
    ended = threading.Event()

    def see(event: Event) -> None:
        seen.append(event)
        scene.see(event)
        if event.fact.type == "run.ended":
            ended.set()

    run = place.ask(f"anything of {kind.__name__}?", see)
    assert scene.reached.wait(30), "the run did not come to that moment"
    run.cancel()
    stopped, calls = time.monotonic(), model.calls
    assert ended.wait(20)
    took = time.monotonic() - stopped
    scene.release.set()
    run.cancel()
    result = run.result(10)
    assert model.calls == calls
    assert took < (KILLED if kind is InACellThatIsDeaf else SOON), f"{took:.2f} s"
    assert result.status == "cancelled"
    assert [event.fact.type for event in seen].count("run.ended") == 1
    assert seen[-1].fact.type == "run.ended"
    assert [event.seq for event in seen] == list(range(len(seen)))
    started = {event.call_id for event in seen if event.fact.type == "call.started"}
    assert started == {event.call_id for event in seen if event.fact.type == "call.ended"}


PARTS = {
    "its model answers": code("SUBMIT(answer='late')"),
    "its cell runs": code("import time\nprint('here', flush=True)\ntime.sleep(60)"),
    "its sub-query is answered": code("print(llm_query('held up?'))"),
    "its batch is answered": code("print(llm_query_batched(['held up?'] * 8))"),
    "a child of its own works": code("print(sub_rlm('deeper ' + 'down'))"),
    "its question is open": code("print(ask_user('which year?'))"),
}


class APart(Scene):
    """Two children: the one comes to its moment and stays there, the other answers."""

    def __init__(self, moment: str) -> None:
        super().__init__()
        self._moment = moment

    def policy(self, prompt: str) -> str:
        if "the slow part" in prompt:
            return self.hold(PARTS[self._moment]) if self._moment == "its model answers" else PARTS[self._moment]
        if "held up?" in prompt or "deeper down" in prompt:
            return self.hold(code("SUBMIT(answer='late')"))
        if "the good part" in prompt:
            return code("SUBMIT(answer='fine')")
        if "call_cancelled" in prompt:
            return code("SUBMIT(answer=repr([r if isinstance(r, str) else r['error']['code'] for r in rs]))")
        return code("rs = sub_rlm_batched(['the slow ' + 'part', 'the good ' + 'part'], ['', '']); print(rs)")

    def see(self, event: Event) -> None:
        super().see(event)
        if event.fact.type == "question.asked":
            self.reached.set()


@pytest.mark.parametrize("place", [InThisProcess, OnAServer], indirect=True)  # a kernel asks its server
@pytest.mark.parametrize("moment", PARTS)
def test_a_stop_of_one_part_leaves_its_sibling_alone(place, model, moment):
    scene = APart(moment)
    model.script(scene.policy)
    parts: list[str] = []
    is_known = threading.Event()

    def see(event: Event) -> None:
        scene.see(event)
        fact = event.fact
        if fact.type == "call.started" and fact.kind == "rlm" and "the slow part" in fact.inputs.get("question", ""):
            parts.append(event.call_id)
            is_known.set()

    run = place.ask(f"anything while {moment}?", see)
    assert scene.reached.wait(30), "the part did not come to that moment"
    assert is_known.wait(10)  # an event is kept before it is seen: the model may hear of the part first
    place.cancel(run, parts[0])
    result = run.result(30)
    scene.release.set()
    assert (result.status, result.answer) == ("done", "['call_cancelled', 'fine']")


@pytest.mark.parametrize("moment", ["call.ended lm", "call.started code"])
def test_a_stop_just_before_a_cell_begins_is_not_lost(moment):
    asked: list[LiveRun] = []
    is_asked, ended = threading.Event(), threading.Event()
    kinds: dict[str | None, str] = {}

    def see(event: Event) -> None:
        if event.fact.type == "call.started":
            kinds[event.call_id] = event.fact.kind
        if f"{event.fact.type} {kinds.get(event.call_id)}" == moment:
            asked[0].cancel()

    def policy(_: str) -> str:
        is_asked.wait(20)
        return code("import time\ntime.sleep(60)")

    bench = scripted_workbench(policy, home=DaytonaSandboxes(Settings()))
    try:
        asked.append(bench.ask(Question("anything?", context="x" * 100, mode="rlm_only"), watcher=see))
        asked[0].watch(lambda event: ended.set() if event.fact.type == "run.ended" else None)
        is_asked.set()
        assert ended.wait(15)
        assert asked[0].result(10).status == "cancelled"
    finally:
        bench.close()


@pytest.mark.parametrize("cell", ["yields", "is deaf"])
def test_after_a_stop_the_next_question_finds_the_files_or_is_told_that_they_are_lost(place, model, cell):
    scene = InACell()
    goes_on = "import time\ntime.sleep(60)" if cell == "yields" else DEAF
    model.script(lambda prompt: code(f"open('kept.txt', 'w').write('kept')\nprint('here', flush=True)\n{goes_on}"))
    run = place.ask(f"anything that {cell}?", scene.see)
    assert scene.reached.wait(30)
    run.cancel()
    assert run.result(20).status == "cancelled"

    seen: list[Event] = []
    model.script(lambda prompt: code("import os\nSUBMIT(answer=str(os.path.exists('kept.txt')))"))
    answer = place.ask(f"anything after one that {cell}?", seen.append).result(30).answer
    found = next(event.fact for event in seen if event.fact.type == "sandbox.changed")
    assert answer == str(found.state == "reused")
    assert found.state == "reused" if cell == "yields" else found.state == "reused" or found.reason


@pytest.mark.parametrize("place", [InThisProcess, OnAServer], indirect=True)  # a kernel asks its server
def test_a_stop_that_races_with_the_end_leaves_one_end(place, model):
    model.script(lambda prompt: code("SUBMIT(answer='done')"))
    statuses = set()
    for number in range(30):
        seen: list[str] = []
        run = place.ask(f"anything at {number}?", lambda event, seen=seen: seen.append(event.fact.type))
        stop = threading.Timer(number * 0.004, run.cancel)
        stop.start()
        statuses.add(run.result(20).status)
        stop.join()
        assert seen.count("run.ended") == 1
        assert seen[-1] == "run.ended"
    assert statuses <= {"done", "cancelled"}
    assert "cancelled" in statuses
