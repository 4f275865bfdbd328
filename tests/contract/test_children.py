"""A child's sandbox: how it is had, what is copied in, what comes back, and that all of it is told."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import daytona
import pytest
from contract.faulty_line import Fault, FaultyLine, answer, refusal
from contract.localdaytona_server import KEY, Server, live_sandboxes, until
from dspy.primitives.code_interpreter import CodeExecutionError, CodeInterpreterError

from fleet_rlm_jupyter.domain.calls import fold
from fleet_rlm_jupyter.domain.errors import BadPath, SandboxUnavailable
from fleet_rlm_jupyter.domain.events import ArtifactWritten, SandboxChanged
from fleet_rlm_jupyter.domain.ports import Role
from fleet_rlm_jupyter.domain.question import Question
from fleet_rlm_jupyter.sandbox import children
from fleet_rlm_jupyter.sandbox.daytona import DaytonaSandboxes
from fleet_rlm_jupyter.server.schema import TreeBody
from fleet_rlm_jupyter.settings import DaytonaSettings, SandboxSettings, Settings
from fleet_rlm_jupyter.testing import code, scripted_workbench

pytest_plugins = ["contract.remote_fixture"]

ROOT = Role("s-family", "r-1", "rlm", 1, is_kept=True)


def child_role(*files: str) -> Role:
    return Role("s-family", "r-1", "child", 2, files=files)


@pytest.fixture(scope="module")
def local() -> Iterator[DaytonaSandboxes]:
    made = DaytonaSandboxes(Settings(sandbox=SandboxSettings(allow_unisolated=True)))
    yield made
    made.close()


@pytest.fixture
def parent(local: DaytonaSandboxes) -> Iterator[Any]:
    made = local.open(ROOT)
    made.execute("import shutil, os\nfor d in os.listdir('artifacts'): shutil.rmtree(f'artifacts/{d}', True)")
    yield made
    made.shutdown()


@pytest.fixture
def cloud(line: FaultyLine):
    made: list[DaytonaSandboxes] = []

    def make(**settings: Any) -> DaytonaSandboxes:
        cloud = DaytonaSettings(api_key=KEY, api_url=line.url)
        made.append(DaytonaSandboxes(Settings(daytona=cloud, sandbox=SandboxSettings(**settings))))
        return made[-1]

    yield make
    line.faults.clear()
    for one in made:
        one.close()


def facts(told: list[Any]) -> list[SandboxChanged]:
    return [fact for fact in told if isinstance(fact, SandboxChanged)]


def test_a_parent_reads_what_its_child_wrote(local: DaytonaSandboxes, parent: Any) -> None:
    told: list[Any] = []
    child = local.child(parent.sandbox_id, child_role(), on_fact=told.append)
    child.execute("import os\nos.makedirs('artifacts/deep')\nopen('artifacts/deep/x.txt', 'w').write('found')")
    name = f"child-{child.sandbox_id[:8]}"
    child.shutdown()
    assert parent.execute(f"open('artifacts/{name}/deep/x.txt').read()") == "found"
    (written,) = [fact for fact in told if isinstance(fact, ArtifactWritten)]
    assert (written.path, written.bytes) == (f"artifacts/{name}/deep/x.txt", 5)
    assert written.origin == child.sandbox_id or facts(told)[0].sandbox_id == written.origin
    kept = json.loads(parent.execute(f"open('meta/children/{name}.json').read()"))
    assert kept["artifacts"] == [{"path": written.path, "bytes": 5, "sha256": written.sha256}]
    assert (kept["run"], kept["depth"]) == ("r-1", 2)


def test_a_child_that_dies_leaves_what_it_wrote(local: DaytonaSandboxes, parent: Any) -> None:
    child = local.child(parent.sandbox_id, child_role())
    with pytest.raises(CodeInterpreterError):
        child.execute("import os\nopen('artifacts/last.txt', 'w').write('words')\nos._exit(3)")
    name = f"child-{child.sandbox_id[:8]}"
    child.shutdown()
    assert parent.execute(f"open('artifacts/{name}/last.txt').read()") == "words"


def written(told: list[Any]) -> list[tuple[str, int, str, str]]:
    return [(one.path, one.bytes, one.sha256, one.origin) for one in told if isinstance(one, ArtifactWritten)]


def test_what_a_cell_writes_below_artifacts_is_told_with_its_digest(local: DaytonaSandboxes) -> None:
    told: list[Any] = []
    role = Role("s-writes", "r-1", "rlm", 1, is_kept=True)
    root = local.open(role, on_fact=told.append)
    root.execute("import os\nos.makedirs('artifacts/deep')\nopen('artifacts/deep/a', 'w').write('one')")
    first = ("artifacts/deep/a", 3, hashlib.sha256(b"one").hexdigest(), "")
    assert written(told) == [first]
    root.execute("open('artifacts/deep/a', 'w').write('one'); open('memory/m', 'w').write('x'); os.chdir('/')")
    assert written(told) == [first]  # nothing is new about it
    with pytest.raises(CodeExecutionError):
        root.execute("os.chdir(os.environ['HOME']); open('artifacts/b', 'w').write('two'); 1 / 0")
    second = ("artifacts/b", 3, hashlib.sha256(b"two").hexdigest(), "")
    assert written(told) == [first, second]
    root.shutdown()
    again = local.open(role, on_fact=told.append)
    again.execute("1")
    again.shutdown()
    assert written(told) == [first, second]


def test_what_a_child_wrote_is_told_once_and_as_the_childs(local: DaytonaSandboxes) -> None:
    told: list[Any] = []
    parent = local.open(ROOT, on_fact=told.append)
    parent.start()
    child = local.child(parent.sandbox_id, child_role(), on_fact=told.append)
    child.execute("open('artifacts/once', 'w').write('found')")
    assert written(told) == []
    child_id = child.sandbox_id
    child.shutdown()
    parent.execute("open('artifacts/own', 'w').write('mine')")
    parent.shutdown()
    assert [(path, origin) for path, _, _, origin in written(told)] == [
        (f"artifacts/child-{child_id[:8]}/once", child_id),
        ("artifacts/own", ""),
    ]


def test_a_child_from_the_pool_bears_the_labels_of_its_work(cloud, service: Server) -> None:
    home = cloud(warm=1)
    parent = home.open(ROOT)
    parent.start()
    until(lambda: len(live_sandboxes(service)) == 2)
    child = home.child(parent.sandbox_id, child_role())
    child.start()
    until(lambda: [one["role"] for one in live_sandboxes(service) if one.get("depth") == "2"] == ["child"])


def test_isolation_is_told_whole(local: DaytonaSandboxes, parent: Any) -> None:
    told: list[Any] = []
    child = local.child(parent.sandbox_id, child_role(), on_fact=told.append)
    child.execute("1")
    child.shutdown()
    first, last = facts(told)
    assert (first.state, first.origin, first.reason) == ("ready", "clean", "durable_volume_mounted")
    assert first.child is not None
    assert (first.child.mode, first.child.parent_id, first.child.cleanup) == ("auto", parent.sandbox_id, "")
    assert last.state == "deleted"
    assert last.child is not None
    assert (last.child.artifacts, last.child.cleanup, last.child.cleanup_error) == (0, "deleting", "")
    assert last.volume == ""  # its parent has one, and it has none


def test_files_are_copied_in_with_their_digests_and_not_back(local: DaytonaSandboxes, parent: Any) -> None:
    parent.execute(
        "import os\nos.makedirs('artifacts/in/b', exist_ok=True)\nopen('artifacts/in/a', 'w').write('1')\n"
        "open('artifacts/in/b/c', 'w').write('2')\nopen('memory/m', 'w').write('3')"
    )
    told: list[Any] = []
    child = local.child(parent.sandbox_id, child_role("artifacts/in", "memory/m"), on_fact=told.append)
    assert (
        child.execute("[open(p).read() for p in ('artifacts/in/a', 'artifacts/in/b/c', 'memory/m')]")
        == "['1', '2', '3']"
    )
    child.execute("open('artifacts/in/a', 'w').write('changed')")
    name = f"child-{child.sandbox_id[:8]}"
    child.shutdown()
    assert facts(told)[0].child.inputs == 3
    assert [fact.path for fact in told if isinstance(fact, ArtifactWritten)] == [f"artifacts/{name}/in/a"]
    kept = json.loads(parent.execute(f"open('meta/children/{name}.json').read()"))
    assert {one["path"] for one in kept["inputs"]} == {"artifacts/in/a", "artifacts/in/b/c", "memory/m"}
    assert parent.execute("open('artifacts/in/a').read()") == "1"


TEXTS = (("buffers/given/document-1.txt", "Größe"), ("buffers/given/project-2.txt", "two"))
READ = f"[open(path).read() for path in {[path for path, _ in TEXTS]}]"


@pytest.mark.parametrize("has_parent", [True, False], ids=["of a parent", "of one that is gone"])
def test_texts_of_this_side_are_there_before_the_first_cell_and_told_by_their_paths(
    has_parent: bool, local: DaytonaSandboxes, parent: Any
) -> None:
    parent.start()
    told: list[Any] = []
    role = replace(child_role(), texts=TEXTS)
    child = local.child(parent.sandbox_id if has_parent else "gone", role, on_fact=told.append)
    assert child.execute(READ) == "['Größe', 'two']"
    child.shutdown()
    assert [fact.child.texts for fact in facts(told)] == [[path for path, _ in TEXTS]] * 2
    assert written(told) == []
    assert parent.execute("import os\nos.path.exists('buffers/given')") == "False"


@pytest.mark.parametrize("path", ["artifacts/none", "/etc/passwd", "artifacts/../x", "artifacts/link"])
def test_what_cannot_be_given_to_a_child_is_refused_and_leaves_no_sandbox(
    path: str, local: DaytonaSandboxes, parent: Any
) -> None:
    parent.execute("import os\nif not os.path.islink('artifacts/link'): os.symlink('/etc/passwd', 'artifacts/link')")
    child = local.child(parent.sandbox_id, child_role(path))
    with pytest.raises(BadPath):
        child.start()
    assert child.sandbox_id == ""
    parent.execute("os.remove('artifacts/link')")


def test_a_child_that_writes_too_much_is_cut_and_told(
    local: DaytonaSandboxes, parent: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(children, "MOST_OUT_FILES", 3)
    monkeypatch.setattr(children, "MOST_OUT_BYTES", 100)
    told: list[Any] = []
    child = local.child(parent.sandbox_id, child_role(), on_fact=told.append)
    child.execute(
        "open('artifacts/0big', 'w').write('x' * 200)\nfor n in range(4): open(f'artifacts/{n + 1}', 'w').write('y')"
    )
    child.shutdown()
    last = facts(told)[-1]
    assert last.child.artifacts == 2
    assert last.child.cleanup == "incomplete"
    assert last.child.cleanup_error == "a child leaves at most 3 files and 100 bytes"
    assert last.child.cleanup_error in last.reason


def test_links_and_odd_names_of_a_child_lead_nowhere(local: DaytonaSandboxes, parent: Any) -> None:
    told: list[Any] = []
    child = local.child(parent.sandbox_id, child_role(), on_fact=told.append)
    child.execute(
        "import os\nos.symlink('/etc/passwd', 'artifacts/link')\nos.symlink('/', 'artifacts/all')\n"
        "open('artifacts/ padded', 'w').write('x')\nopen('artifacts/line\\nfeed', 'w').write('x')\n"
        "open(b'artifacts/\\xff', 'w').write('x')\nopen('artifacts/good', 'w').write('x')"
    )
    child.shutdown()
    assert [fact.path.rsplit("/", 1)[1] for fact in told if isinstance(fact, ArtifactWritten)] == ["good"]


def test_children_come_from_the_pool(local: DaytonaSandboxes, parent: Any) -> None:
    until(lambda: len(local._pool._warm) == 4 and all(one.done() for one in local._pool._warm))
    ready = {one.result().sandbox_id for one in local._pool._warm}
    child = local.child(parent.sandbox_id, child_role())
    child.start()
    assert child.sandbox_id in ready
    child.shutdown()


def test_a_shared_sandbox_has_the_files_and_not_the_variables() -> None:
    home = DaytonaSandboxes(Settings(sandbox=SandboxSettings(allow_unisolated=True, children="context")))
    try:
        parent = home.open(ROOT)
        parent.execute("secret = 1\nopen('memory/x', 'w').write('seen')")
        told: list[Any] = []
        child = home.child(parent.sandbox_id, child_role(), on_fact=told.append)
        assert child.execute("'secret' in globals(), open('memory/x').read()") == "(False, 'seen')"
        assert child.sandbox_id != parent.sandbox_id
        child.shutdown()
        assert parent.execute("secret") == "1"
        assert [(fact.origin, fact.state) for fact in facts(told)] == [("context", "ready"), ("context", "deleted")]
        assert facts(told)[-1].child.cleanup == "shared"
        given = home.child(parent.sandbox_id, replace(child_role(), texts=TEXTS))
        assert given.execute(READ) == "['Größe', 'two']"
        given.shutdown()
        assert {(fact.volume, fact.subpath) for fact in facts(told)} == {("fleet-rlm", "sessions/s-family")}
    finally:
        home.close()


def test_a_child_that_leaves_nothing_starts_nothing_to_find_that_out(cloud, line: FaultyLine) -> None:
    """Its parent waits for the end of each child: a Python that looks for files would be most of that."""
    home = cloud(volume="none", warm=0)
    parent = home.open(ROOT)
    parent.start()
    child = home.child(parent.sandbox_id, child_role())
    child.execute("1")
    before = line.count("POST .*/process/execute")
    child.shutdown()
    assert line.count("POST .*/process/execute") == before
    writer = home.child(parent.sandbox_id, child_role())
    writer.execute("import os\nos.mkdir('artifacts/deep')\nopen('artifacts/deep/file', 'w').write('x')")
    name = writer.sandbox_id[:8]
    writer.shutdown()
    assert parent.execute(f"open('artifacts/child-{name}/deep/file').read()") == "x"


# --- forks ------------------------------------------------------------------------------------------------------------


def test_a_refused_fork_falls_back_to_a_clean_child_and_is_asked_for_once(cloud, line: FaultyLine) -> None:
    home = cloud(volume="none")
    parent = home.open(ROOT)
    parent.start()
    for _ in range(2):
        told: list[Any] = []
        child = home.child(parent.sandbox_id, child_role(), on_fact=told.append)
        child.execute("1")
        child.shutdown()
        first = facts(told)[0]
        assert (first.origin, first.reason) == ("clean", "fork_failed")
        assert first.child.fallback_from == "fork"
        assert "not supported" in first.child.fallback_error
    assert line.count("POST /api/sandbox/.*/fork") == 1


def test_a_refused_fork_is_an_error_where_the_settings_say_so(cloud) -> None:
    home = cloud(children="fork", fork_fallback="fail")
    parent = home.open(ROOT)
    parent.start()
    with pytest.raises(SandboxUnavailable, match="cannot be forked") as caught:
        home.child(parent.sandbox_id, child_role()).start()
    assert "fork_fallback" in caught.value.hint


def test_a_fork_that_failed_for_the_moment_is_tried_again(cloud, line: FaultyLine) -> None:
    home = cloud(volume="none")
    parent = home.open(ROOT)
    parent.start()
    line.faults.append(Fault("POST /api/sandbox/.*/fork", refusal(500)))
    for _ in range(2):
        child = home.child(parent.sandbox_id, child_role())
        child.start()
        child.shutdown()
    assert line.count("POST /api/sandbox/.*/fork") == 2


def test_a_fork_is_the_childs_and_only_its_own_work_comes_back(cloud, line: FaultyLine, service: Server) -> None:
    """The server cannot fork: its answer is written here, over a sandbox that has its parent's files already."""
    home = cloud(volume="none")
    parent = home.open(ROOT)
    parent.execute("open('artifacts/old', 'w').write('old')")
    twin = daytona.Daytona(service.config()).create()
    twin.process.exec("mkdir -p artifacts; printf old > artifacts/old")
    _, wire = service.call("GET", f"/api/sandbox/{twin.id}")
    line.faults.append(Fault("POST /api/sandbox/.*/fork", answer(line.seen_from_here(wire))))
    told: list[Any] = []
    child = home.child(parent.sandbox_id, child_role(), on_fact=told.append)
    child.execute("open('artifacts/new', 'w').write('new')")
    assert child.sandbox_id == twin.id
    assert sorted(one["role"] for one in live_sandboxes(service)) == ["child", "session"]
    child.shutdown()
    assert (facts(told)[0].origin, facts(told)[0].reason) == ("fork", "parent_alive")
    assert [fact.path.rsplit("/", 1)[1] for fact in told if isinstance(fact, ArtifactWritten)] == ["new"]
    until(lambda: len(live_sandboxes(service)) == 1)


def test_a_parent_that_is_gone_means_a_clean_child(local: DaytonaSandboxes) -> None:
    told: list[Any] = []
    child = local.child("no-such-sandbox", child_role(), on_fact=told.append)
    assert child.execute("1 + 1") == "2"
    child.shutdown()
    assert facts(told)[0].reason == "no_parent_session"


# --- in a run ---------------------------------------------------------------------------------------------------------


def test_generated_code_hands_files_to_a_child_and_reads_what_it_left(local: DaytonaSandboxes) -> None:
    def policy(prompt: str) -> str:
        if "double the file" in prompt:
            return code("open('artifacts/out', 'w').write(open('artifacts/in').read() * 2)\nSUBMIT('done')")
        return code(
            "open('artifacts/in', 'w').write('ab')\n"
            "said = sub_rlm('double the file', files=['artifacts/in'])\n"
            "path = said.splitlines()[-1]\n"
            "SUBMIT(said.splitlines()[0] + ' ' + open(path).read())"
        )

    bench = scripted_workbench(policy, home=local)
    told: list[Any] = []
    run = bench.ask(Question("parent", mode="rlm_only"), watcher=told.append).result(60)
    assert run.answer == "done abab"
    of_child, own = written([event.fact for event in told])
    assert of_child[0].endswith("/out")
    assert (own[0], own[3]) == ("artifacts/in", "")


def test_a_child_says_what_its_run_could_still_spend_when_it_began(local: DaytonaSandboxes) -> None:
    def policy(prompt: str) -> str:
        return code("SUBMIT('found')" if "zzz" in prompt else "SUBMIT(sub_rlm('z' * 3))")

    bench = scripted_workbench(policy, home=local, calls=20, sub_calls=10, depth=2, sandboxes=3, seconds=60)
    told: list[Any] = []
    run = bench.ask(Question("parent", mode="rlm_only"), watcher=told.append).result(60)
    assert run.answer == "found"
    of_child = [one for one in facts([event.fact for event in told]) if one.child]
    first, last = of_child
    assert first.child.lease == last.child.lease
    lease = first.child.lease
    assert (lease.depth, lease.calls, lease.sub_calls, lease.sandboxes) == (0, 19, 10, 1)
    assert 0 < lease.seconds < 60
    body = TreeBody.of(fold(told)).model_dump(mode="json")
    shown = body["sandboxes"][first.sandbox_id]
    assert (shown["child"]["lease"], shown["child"]["cleanup"]) == (lease.model_dump(), "deleting")


def test_more_children_at_once_than_siblings_are_refused_at_the_factory(local: DaytonaSandboxes) -> None:
    def policy(prompt: str) -> str:
        if "zzz" in prompt:
            return code("import time; time.sleep(1); SUBMIT('ok')")
        return code(
            "import concurrent.futures as f\n"
            "def ask(n):\n"
            "    try: return sub_rlm('z' * 3)\n"
            "    except Exception as err: return type(err).__name__ + str(err)\n"
            "with f.ThreadPoolExecutor(3) as pool: said = list(pool.map(ask, range(3)))\n"
            "SUBMIT(' | '.join(sorted(said)))"
        )

    bench = scripted_workbench(policy, home=local, siblings=2, calls=20, sub_calls=20)
    run = bench.ask(Question("parent", mode="rlm_only")).result(60)
    assert run.answer is not None
    refused, *done = run.answer.split(" | ")
    assert "2 children of this sandbox are at work" in refused
    assert done == ["ok", "ok"]
