"""The whole: a real Jupyter server, its worker, real sandboxes, a model over HTTP; killed and started anew."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
from datetime import datetime
from pathlib import Path

import pytest
import requests
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from jupyter_process import TOKEN, JupyterProcess, below, frames, lives, wait_until
from scripted_model import DEAF, ScriptedModel

from fleet_rlm_jupyter.remote import RemoteWorkbench
from fleet_rlm_jupyter.testing import code

SLEEPS = code("import time\nprint('here', flush=True)\ntime.sleep(60)")
WORKER = b"fleet_rlm_jupyter.server.worker"
KEYS = {"environment": "plum/tree+7519==", "workspace": "pear-tree-4421.token", "model": "fig_tree_9087_of_the_model"}


class Home:
    """A folder with all that a server keeps, and the server that runs in it now."""

    def __init__(self, folder: Path, model: ScriptedModel) -> None:
        self._folder = folder
        chosen = {**model.settings, "sub_model": "openai/other", "api_key": KEYS["model"]}
        self._config = (
            f"c = get_config()\nc.FleetApp.workbench_settings = {chosen!r}\n"
            "c.FleetApp.activity_seconds = 0.2\nc.ServerApp.shutdown_no_activity_timeout = 1\n"
            "c.ServerApp.jpserver_extensions = {'router_dump': True}\n"
        )
        self.start()

    def start(self) -> None:
        tests = str(Path(__file__).parents[2])
        self.server = JupyterProcess(
            self._folder, self._config, PYTHONPATH=tests, ROUTER_DUMP=str(self._folder / "routes.json"),
            SOME_SERVICE_PASSWORD=KEYS["environment"], FLEET_WORKSPACE__TOKEN=KEYS["workspace"],
            FLEET_WORKSPACE__TOKEN_HOST="git.invalid",
        )  # fmt: skip
        self.bench = RemoteWorkbench(self.server.url, TOKEN)

    def kill(self) -> None:
        """As a container is killed, or a machine: all of it, and at once."""
        family = self.server.family()
        for pid in family:
            with contextlib.suppress(ProcessLookupError):  # it went with its parent
                os.kill(pid, signal.SIGKILL)
        self.server.process.wait()
        wait_until(lambda: not any(map(lives, family)), 10)

    def ask(self, **body: object) -> str:
        answer = self.server.ask("POST", "/runs", json={"question": "anything?", "mode": "rlm_only", **body})
        assert answer.status_code in (200, 201), answer.text
        return answer.json()["run_id"]

    def ask_and_wait_for(self, word: str, **body: object) -> str:
        """A run that has come to the cell that prints it."""
        run_id = self.ask(**body)
        for event in self.bench.follow(run_id):
            if event.fact.type == "call.text" and word in event.fact.text and event.fact.channel == "stdout":
                return run_id
        raise AssertionError("it ended before")

    @property
    def worker(self) -> int:
        for pid in below(self.server.process.pid):
            if lives(pid) and WORKER in Path(f"/proc/{pid}/cmdline").read_bytes():
                return pid
        return 0


@pytest.fixture(scope="module")
def model():
    with ScriptedModel(lambda prompt: "") as running:
        yield running


@pytest.fixture(scope="module")
def kept(tmp_path_factory, model):
    made = Home(tmp_path_factory.mktemp("home"), model)
    yield made
    made.server.stop()


@pytest.fixture
def home(kept):
    if kept.server.process.poll() is not None:
        kept.start()
    return kept


def test_a_worker_killed_in_mid_run_has_its_run_failed_its_watchers_told_and_its_sandboxes_swept(home, model):
    model.script(lambda prompt: SLEEPS)
    run_id = home.ask_and_wait_for("here")
    watched = home.server.socket()
    watched.send(json.dumps({"op": "follow", "run_id": run_id}))
    seen = frames(watched)
    while next(seen)["type"] != "events":
        pass
    worker = home.worker
    family = [worker, *below(worker)]
    assert len(family) > 2, "the local server and a sandbox"
    ended: list[object] = []
    waits = threading.Thread(target=lambda: ended.extend(home.bench.follow(run_id)))
    waits.start()
    model.script(lambda prompt: code("SUBMIT(answer='too late')"))

    os.kill(worker, signal.SIGKILL)
    assert next(frame for frame in seen if frame["type"] == "error")["code"] == "worker_restarted"
    waits.join(30)
    assert not waits.is_alive()
    assert [event.seq for event in ended] == list(range(len(ended)))
    assert (ended[-1].fact.status, ended[-1].fact.error.code) == ("failed", "interrupted")
    wait_until(lambda: not any(map(lives, family)), 10)
    assert home.worker not in (0, worker)
    watched.close()

    # The first run of a worker pays for imports and the start of sandboxes: its stop does not wait for them.
    first = home.ask()
    begun = time.monotonic()
    home.bench.cancel(first)
    assert list(home.bench.follow(first))[-1].fact.status == "cancelled"
    took = time.monotonic() - begun
    assert model.calls == 0
    assert took < 1, f"{took:.2f} s"
    model.script(lambda prompt: code("SUBMIT(answer='again')"))
    assert list(home.bench.follow(home.ask()))[-1].fact.answer == "again"


def test_what_was_said_is_there_after_the_server_and_its_worker_were_killed(home, model):
    """A run that went on has failed, a key does not run twice, and a changed setting holds until then, as it says."""
    model.script(lambda prompt: code("SUBMIT(answer='once')"))
    once = home.ask(key="k-1")
    usual = limit_of(home, once)
    assert list(home.bench.follow(once))[-1].fact.answer == "once"
    changed = home.server.ask("PATCH", "/settings", json={"updates": {"budget.calls": usual + 7}})
    assert changed.status_code == 200
    assert shown(home, "budget.calls") == (usual + 7, "changed while it runs; lasts until the worker starts anew")
    model.script(lambda prompt: SLEEPS)
    cut_off = home.ask_and_wait_for("here")
    assert limit_of(home, cut_off) == usual + 7

    home.kill()
    home.start()
    events = list(home.bench.follow(cut_off))
    assert [event.seq for event in events] == list(range(len(events)))
    assert (events[-1].fact.status, events[-1].fact.error.code) == ("failed", "interrupted")
    assert home.bench.runs.get(cut_off).status == "failed"
    model.script(lambda prompt: code("SUBMIT(answer='twice')"))
    assert home.ask(key="k-1") == once
    refused = home.server.ask("POST", "/runs", json={"question": "another?", "key": "k-1"})
    assert (refused.status_code, refused.json()["code"]) == (409, "key_reused")
    assert model.calls == 0
    assert shown(home, "budget.calls") == (usual, "default")
    assert limit_of(home, home.ask()) == usual


def test_a_server_that_is_stopped_in_mid_run_leaves_no_process_after_five_seconds(home, model):
    model.script(lambda prompt: SLEEPS)
    run_id = home.ask_and_wait_for("here")
    family = home.server.family()
    assert len(family) > 3, "the server, its worker, the local sandbox server and a sandbox"
    home.server.process.terminate()
    wait_until(lambda: not any(map(lives, family)), 5)

    home.start()
    ended = list(home.bench.follow(run_id))[-1].fact
    assert (ended.status, ended.error.code) == ("failed", "interrupted")


def limit_of(home: Home, run_id: str) -> int:
    return next(iter(home.bench.follow(run_id))).fact.limits.calls


def shown(home: Home, name: str) -> tuple[object, str]:
    every = home.server.ask("GET", "/settings").json()["settings"]
    return next((one["value"], one["source"]) for one in every if one["name"] == name)


@pytest.mark.parametrize("way", ["REST", "the socket"])
def test_a_run_that_asks_its_user_goes_on_with_the_answer(home, model, way):
    def policy(prompt: str) -> str:
        if "the year is" in prompt:
            return code("SUBMIT(answer=year)")
        return code("year = ask_user('which year?')\nprint('the year is', year)")

    model.script(policy)
    run_id = home.ask(can_answer=True)
    events = home.bench.follow(run_id)
    asked = next(event for event in events if event.fact.type == "question.asked")
    line = home.server.socket()
    replies = frames(line)

    def answer(call_id: str, text: str) -> str:
        """The code that it was refused with, if it was."""
        body = {"call_id": call_id, "text": text}
        if way == "REST":
            said = home.server.ask("POST", f"/runs/{run_id}/answer", json=body)
            return said.json()["code"] if said.content else ""
        line.send(json.dumps({"op": "answer", "run_id": run_id, **body}))
        return next(replies).get("code", "")

    assert answer("c-nobody", "1999") == "bad_request"
    assert answer(asked.call_id, "2001") == ""
    assert list(events)[-1].fact.answer == "2001"
    assert answer(asked.call_id, "2002") == "bad_request"
    line.close()


@pytest.mark.parametrize("cell", ["yields", "is deaf"])
def test_after_a_stop_over_the_socket_the_next_turn_says_what_became_of_the_sandbox(home, model, cell):
    session_id = home.bench.sessions.create(f"stopped while it {cell}").session_id
    writes = "import os\nos.makedirs('memory', exist_ok=True)\nopen('kept.txt', 'w').write('kept')\n"
    goes_on = "import time\ntime.sleep(60)" if cell == "yields" else DEAF
    model.script(lambda prompt: code(f"{writes}print('here', flush=True)\n{goes_on}"))
    run_id = home.ask_and_wait_for("here", session_id=session_id)
    line = home.server.socket()
    replies = frames(line)
    line.send(json.dumps({"op": "cancel", "run_id": run_id, "id": "stop"}))
    assert next(replies) == {"type": "ok", "id": "stop", "op": "cancel", "run_id": run_id}
    line.close()
    stopped = list(home.bench.follow(run_id))
    assert stopped[-1].fact.status == "cancelled"

    model.script(lambda prompt: code("import os\nSUBMIT(answer=str(os.path.exists('kept.txt')))"))
    again = list(home.bench.follow(home.ask(session_id=session_id, when_busy="queue")))
    first = next(event.fact for event in again if event.fact.type == "sandbox.changed")
    assert first.state in ("reused", "recreated")
    assert again[-1].fact.answer == str(first.state == "reused")
    if cell == "yields":
        assert first.state == "reused"
    else:
        assert first.state == "reused" or first.reason


def test_a_question_that_nobody_answers_ends_with_the_time_of_its_run(home, model):
    model.script(lambda prompt: code("print(ask_user('which year?'))"))
    events = list(home.bench.follow(home.ask(can_answer=True, limits={"seconds": 2})))
    assert [event.fact.type for event in events].count("question.asked") == 1
    assert (events[-1].fact.status, events[-1].fact.error.code) == ("over_budget", "deadline")


around = st.text("abz 019é☂-_./+='\"{}", max_size=9)
planted = st.tuples(around, st.sampled_from(list(KEYS.values())), around).map("".join)


@settings(
    max_examples=settings().max_examples // 100,
    phases=[Phase.generate],  # each takes a run: a failure is told at once
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.data(), planted, planted, planted)
def test_a_planted_key_is_in_no_event_answer_problem_row_or_line_of_the_log(home, model, data, one, two, three):
    """Keys of the settings and the environment, in what is asked, what the model says, what fails and what is sent."""
    cuts = sorted(data.draw(st.lists(st.integers(0, len(two)), max_size=4)))
    pieces = [two[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(two)], strict=True)]
    replies = [
        code(f"for piece in {pieces!r}:\n    print(piece, end='', flush=True)\nraise ValueError({one!r})"),
        code(f"print(llm_query({three!r}))\nllm_query(**{{{two!r}: 1}})"),
        code(f"SUBMIT(answer='it is ' + {three!r})"),
    ]
    model.script(lambda prompt: replies.pop(0) if "variables_info" in prompt else f"a sub-query says {one}")
    answers: list[str] = []

    def send(method: str, path: str, **more: object) -> requests.Response:
        answer = home.server.ask(method, path, **more)
        answers.append(answer.text + str(answer.headers))
        return answer

    made = send("POST", "/sessions", json={"title": one})
    assert made.status_code == 201, made.text
    session_id = made.json()["session_id"]
    run_id = home.ask(question=f"what is {one}?", session_id=session_id)
    line = home.server.socket()
    replied = frames(line)
    line.send(json.dumps({"op": "follow", "run_id": run_id}))
    while '"run.ended"' not in (said := json.dumps(next(replied), ensure_ascii=False)):
        answers.append(said)
    answers.append(said)
    assert not replies, "the run came to all that it was to say"
    for frame in ({"op": "follow", "run_id": two}, {"op": "follow", "run_id": "r", three: 1}, {"op": one}):
        line.send(json.dumps(frame))
        answers.append(json.dumps(next(reply for reply in replied if reply["type"] == "error"), ensure_ascii=False))
    line.close()
    feedback = {"rating": 1, "comment": two, "expected": three}
    assert send("PUT", f"/runs/{run_id}/feedback", json=feedback).ok
    exported = send("GET", f"/sessions/{session_id}/export").json()
    exported["session"]["title"] = exported["session"]["turns"][0]["message"] = one
    assert send("POST", "/sessions/import", data=json.dumps(exported)).status_code == 201
    for path in (f"/runs/{run_id}/record", f"/runs/{run_id}/tree", f"/runs/{run_id}/events", "/settings", "/sessions"):
        assert send("GET", path).ok
    for body in ({"question": "q", three: 1}, {"question": "q", "session_id": one}, {"question": "q", "paths": [two]}):
        assert send("POST", "/runs", json=body).status_code >= 400
    assert send("PATCH", "/settings", json={"updates": {two: 1}}).status_code == 400
    assert send("PATCH", "/settings", json={"updates": {"budget.calls": three}}).status_code == 400

    rows = b"".join(path.read_bytes() for path in (home.server.folder / "data" / "fleet_rlm").glob("*.db*"))
    assert run_id.encode() in rows
    log = home.server.log.read_text("utf-8", "replace")
    for kind, key in KEYS.items():
        assert not [text for text in answers if key in text], kind
        assert key.encode() not in rows, kind
        assert key not in log, kind


def last_activity(server: JupyterProcess) -> datetime:
    answer = requests.get(
        f"{server.url}/api/status?no_track_activity=1", headers={"Authorization": f"token {TOKEN}"}, timeout=30
    )
    return datetime.fromisoformat(answer.json()["last_activity"])


def test_a_run_that_goes_on_is_activity_and_keeps_the_server_and_an_idle_one_is_culled(home, model):
    def cull() -> None:
        with contextlib.suppress(requests.ConnectionError):
            requests.get(f"{home.server.url}/cull", timeout=30)

    model.script(lambda prompt: SLEEPS)
    run_id = home.ask_and_wait_for("here")
    seen = last_activity(home.server)
    wait_until(lambda: last_activity(home.server) > seen, 10)
    seen = last_activity(home.server)
    wait_until(lambda: last_activity(home.server) > seen, 10)
    cull()
    assert home.server.process.poll() is None
    home.bench.cancel(run_id)
    list(home.bench.follow(run_id))
    wait_until(lambda: home.server.process.poll() is not None or cull(), 20)
    assert "shutting down" in home.server.log.read_text()
