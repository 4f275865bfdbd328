"""What a child is given from outside of its parent: a document by URL, a copy of the project; and when it is not."""

from __future__ import annotations

import json
import socket
import threading
from pathlib import Path

import pytest
from web import Silent, Web, text

from fleet_rlm_jupyter.domain.events import Log, SandboxChanged
from fleet_rlm_jupyter.domain.ports import Sandboxes
from fleet_rlm_jupyter.sandbox.daytona import DaytonaSandboxes
from fleet_rlm_jupyter.settings import Settings
from fleet_rlm_jupyter.testing import ScriptedEngine, UnisolatedSandboxes, code, scripted_models
from fleet_rlm_jupyter.workbench import Question, Workbench

CHILD = """
import json, os, re
path = re.search(r"buffers/given/[a-z]+-[0-9a-f]{12}[.]txt", context)
found = open(path[0]).read() if path else ""
left = os.path.isdir("artifacts") and os.listdir("artifacts")
SUBMIT(answer=json.dumps({"context": context, "file": found, "left": left}))
"""
TOLD_CHILD = "the child's prompt"


class Asking:
    """One Workbench, whose model calls one child with `arguments` and answers with what that says."""

    def __init__(self, folder: Path, home: Sandboxes | None = None, **settings) -> None:
        made = {
            "store": {"url": f"sqlite:///{folder}/data/fleet.db"},
            "sandbox": {"allow_unisolated": True},
            "workspace": {"roots": [str(folder / "project")]},
            **settings,
        }
        self.settings = Settings.model_validate(made)
        self.engine = ScriptedEngine(lambda prompt: code(CHILD if TOLD_CHILD in prompt else self._cell))
        self.bench = Workbench(self.settings, home or DaytonaSandboxes(self.settings), scripted_models(self.engine))
        self._cell = ""

    def __call__(self, words: str, arguments: str, session: str | None = None):
        """(what the child had, facts). Where the tool failed, the first is its error."""
        self._cell = f"""
try:
    said = sub_rlm(prompt={TOLD_CHILD!r}, {arguments})
except Exception as err:
    said = repr(err)
SUBMIT(answer=said)
"""
        live = self.bench.ask(Question(words, mode="rlm_only", session_id=session))
        ended = live.result(60)
        assert ended.status == "done", ended.error
        facts = [event.fact for event in live.trace.events]
        try:
            return json.loads(ended.answer), facts
        except ValueError:
            return ended.answer, facts


@pytest.fixture
def asking(tmp_path):
    opened: list[Asking] = []

    def make(home: Sandboxes | None = None, **settings) -> Asking:
        opened.append(Asking(tmp_path, home, **settings))
        return opened[-1]

    yield make
    for one in opened:
        one.bench.close()


@pytest.fixture
def web():
    with Web() as made:
        yield made


def child_of(facts) -> SandboxChanged:
    return next(fact for fact in facts if isinstance(fact, SandboxChanged) and fact.child and fact.state == "ready")


OURS = {"allow_private_urls": True}


def test_a_small_document_is_in_the_childs_context_and_a_large_one_a_file_of_its_sandbox(asking, web):
    web.routes["/small"] = text("s" * 100_000)
    web.routes["/large"] = text("Größe " + "l" * 100_000)
    ask = asking(delegation={"urls": "question"}, context=OURS)
    words = f"What say {web.url}/small?key=1 and {web.url}/large?"

    had, facts = ask(words, f"context='before', document_url='{web.url}/small?key=1'")
    assert had["context"].startswith(f"before\n\n=== the document {web.url}/small [")
    assert "s" * 100_000 in had["context"]
    assert had["file"] == ""
    assert child_of(facts).child.texts == []
    (told,) = [fact.text for fact in facts if isinstance(fact, Log)]
    assert told == f"a child is given the document {web.url}/small: 100,000 characters"

    had, facts = ask(words, f"document_url='{web.url}/large'")
    assert had["file"] == "Größe " + "l" * 100_000
    assert len(had["context"]) < 200
    assert had["left"] == []
    (path,) = child_of(facts).child.texts
    assert path in had["context"]
    assert not [fact for fact in facts if fact.type == "artifact.written"]


def test_a_document_that_cannot_be_had_is_an_error_for_the_model_and_spends_nothing(asking, web):
    home = UnisolatedSandboxes()
    web.routes["/gone"] = text("no", status=404)
    with Silent() as here:
        inside = f"http://127.0.0.1:{here.port}/"
        ask = asking(home, delegation={"urls": "question"})
        said, facts = ask(f"Read {inside}", f"document_url={inside!r}")
        assert here.connects == 0
    assert "is not on the public Internet: 127.0.0.1" in said
    assert "go on without it" in said
    spent = next(fact for fact in reversed(facts) if fact.type == "budget.spent")
    assert (spent.calls, spent.sub_calls) == (1, 0)  # that of the planner

    ask = asking(home, delegation={"urls": "question"}, context=OURS)
    said, _ = ask(f"Read {web.url}/gone", f"document_url='{web.url}/gone'")
    assert "answers 404" in said
    assert [role.name for role in home.opened] == ["rlm", "rlm"]


def test_a_url_that_the_settings_do_not_allow_is_never_asked_for(asking, web):
    web.routes["/"] = text("there")
    named = f"Read {web.url}/ please"
    for urls, words in (("off", named), ("question", "Read nothing."), ("public", "Read nothing.")):
        ask = asking(UnisolatedSandboxes(), delegation={"urls": urls}, context=OURS)
        said, _ = ask(words, f"context={named!r}, document_url='{web.url}/'")
        assert "go on without it" in said
    assert web.asked == []


def test_a_url_of_an_earlier_answer_is_not_one_that_the_user_wrote(asking, web):
    web.routes["/"] = text("there")
    ask = asking(UnisolatedSandboxes(), delegation={"urls": "question"}, context=OURS)
    session = ask.bench.sessions.create().session_id
    ask("Where is it?", f"document_url='{web.url}/'", session)
    said, _ = ask("Then read it.", f"document_url='{web.url}/'", session)
    assert f"{web.url}/ does not stand" in ask.engine.prompts[-1]  # it is told what was said before
    assert "does not stand in the user's question" in said
    assert web.asked == []


def test_where_any_public_url_is_allowed_code_may_choose_one(asking, web, monkeypatch):
    web.routes["/"] = text("there")
    real = socket.getaddrinfo

    def resolve(host, port, *args, **more):
        at = {"public.test": ("93.184.216.34", port), "93.184.216.34": web.address}.get(host, (host, port))
        return real(*at, *args, **more)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    had, _ = asking(UnisolatedSandboxes(), delegation={"urls": "public"})("?", "document_url='http://public.test/'")
    assert "there" in had["context"]
    assert web.asked == [("public.test", "/")]


def test_a_stop_does_not_wait_for_a_document(asking, web):
    asked = threading.Event()

    def route(request) -> None:
        asked.set()
        web.ended.wait(60)

    web.routes["/slow"] = route
    ask = asking(UnisolatedSandboxes(), delegation={"urls": "question"}, context=OURS)
    ask._cell = f"sub_rlm(prompt='x', document_url='{web.url}/slow')"
    live = ask.bench.ask(Question(f"Read {web.url}/slow", mode="rlm_only"))
    assert asked.wait(60)
    live.cancel()
    assert live.result(10).status == "cancelled"


def test_a_child_gets_a_copy_of_the_project_only_where_it_is_allowed(asking, tmp_path):
    project = tmp_path / "project"
    project.mkdir()
    (project / "child.py").write_text("prompt = 1")
    (project / "other.py").write_text("x")
    (project / ".env").write_text("child prompt KEY=hunter2")
    said, _ = asking(UnisolatedSandboxes())("?", "project=True")
    assert "delegation.project=false" in said

    had, facts = asking(delegation={"project": True})("?", "project=True")
    assert "a copy of 1 of 2 text files of the project" in had["context"]
    assert "child.py ===\nprompt = 1" in had["file"]
    assert "other.py  1" in had["file"]
    assert "hunter2" not in had["file"]
    (path,) = child_of(facts).child.texts
    assert path in had["context"]
