"""The sandboxes that there are: listed as the service has them, stopped while something runs in them, swept."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import daytona
import pytest
from contract.faulty_line import Fault, FaultyLine, refusal
from contract.localdaytona_server import KEY, Server, live_sandboxes, until
from dspy.primitives.code_interpreter import CodeInterpreterError

from fleet_rlm_jupyter import cli
from fleet_rlm_jupyter.domain.errors import BadRequest, NoSuchSandbox, SandboxLost, SessionBusy
from fleet_rlm_jupyter.domain.ports import Role
from fleet_rlm_jupyter.domain.shown import Size
from fleet_rlm_jupyter.sandbox import local
from fleet_rlm_jupyter.sandbox.daytona import DaytonaSandboxes
from fleet_rlm_jupyter.settings import SandboxSettings, Settings, StoreSettings
from fleet_rlm_jupyter.testing import MemoryAllocations, ScriptedEngine, code, scripted_models
from fleet_rlm_jupyter.workbench import Question, Workbench

pytest_plugins = ["contract.remote_fixture"]

ROLE = Role("s-1", "r-1", "rlm", 1)


@pytest.fixture
def stranger(service: Server):
    """Somebody else's sandbox on the same account."""
    made = daytona.Daytona(service.config()).create(daytona.CreateSandboxFromSnapshotParams(labels={"app": "theirs"}))
    yield made
    made.delete()


def test_all_of_ours_are_listed_whoever_made_them_and_nothing_else(opened, stranger) -> None:
    first, second = opened(env={"PLANTED": "a value of the environment"}), opened()
    one, other = first.open(ROLE), second.open(Role("s-2", "r-2", "child", 2))
    one.start()
    other.start()
    for home in (first, second):
        newest, oldest = home.list()
        assert (newest.id, newest.session, newest.run, newest.role, newest.depth, newest.state) == (
            other.sandbox_id, "s-2", "r-2", "child", 2, "started",
        )  # fmt: skip
        assert (oldest.id, oldest.session) == (one.sandbox_id, "s-1")
        assert oldest.created <= newest.created
        assert home.get(one.sandbox_id) == oldest
        assert "planted" not in str(home.list()).lower()
        with pytest.raises(NoSuchSandbox):
            home.get(stranger.id)


def test_one_that_another_process_made_is_stopped_too(opened, service: Server) -> None:
    first, second = opened(), opened()
    interpreter = first.open(ROLE)
    interpreter.start()
    second.stop(interpreter.sandbox_id)
    assert second.list() == []
    assert live_sandboxes(service) == []
    with pytest.raises(NoSuchSandbox):
        second.stop(interpreter.sandbox_id)


def test_what_is_not_ours_is_not_stopped(opened, stranger, service: Server) -> None:
    home = opened()
    for guess in (stranger.id, stranger.name, "", ".", "..", "../snapshots", "a/b", "?", "x" * 200):
        with pytest.raises(NoSuchSandbox):
            home.stop(guess)
    assert live_sandboxes(service) == [stranger.labels]


def test_a_sessions_sandbox_is_archived_resized_and_started_again_with_its_files(opened, service: Server) -> None:
    home = opened()
    role = Role("s-1", "r-1", "rlm", 1, is_kept=True)
    first = home.open(role)
    first.execute("open('note', 'w').write('here')")
    first.shutdown()
    (one,) = home.list()

    def there() -> Any:
        return daytona.Daytona(service.config()).get(one.id)

    home.archive(one.id)
    home.archive(one.id)
    assert there().state == "archived"
    home.start(one.id)
    assert there().state == "started"
    home.resize(one.id, Size(memory_gb=1, disk_gb=3))
    assert (there().state, there().memory, there().disk) == ("stopped", 1, 3)
    with pytest.raises(BadRequest, match="can only grow"):
        home.resize(one.id, Size(disk_gb=2))
    with pytest.raises(BadRequest, match="no size is given"):
        home.resize(one.id, Size())
    told: list[Any] = []
    again = home.open(role, on_fact=told.append)
    assert again.execute("open('note').read()") == "here"
    assert (told[0].state, told[0].reason) == ("resumed", "it was stopped")
    assert "MemoryError" in again.execute("try: bytearray(1500 << 20)\nexcept MemoryError as err: print(repr(err))")


def test_one_that_ends_with_its_run_is_not_put_away(opened, service: Server) -> None:
    home = opened()
    interpreter = home.open(ROLE)
    interpreter.start()
    for act in (lambda: home.archive(interpreter.sandbox_id), lambda: home.resize(interpreter.sandbox_id, Size(2))):
        with pytest.raises(BadRequest, match="ends with its run"):
            act()
    assert interpreter.execute("6 * 7") == "42"


def test_the_sandbox_that_a_dead_process_left_its_session_ends_with_the_session(opened, service: Server) -> None:
    journal = MemoryAllocations()
    opened(journal).open(Role("s-kept", "r-1", "rlm", 1, is_kept=True)).start()
    opened(journal).open(Role("s-other", "r-2", "rlm", 1, is_kept=True)).start()
    journal.die()
    heir = opened(journal)
    assert heir.end_session("s-kept")
    assert not heir.end_session("s-kept")
    assert [one["session"] for one in live_sandboxes(service)] == ["s-other"]


def test_a_session_is_deleted_also_where_the_service_does_not_delete_its_sandbox(
    line: FaultyLine, opened, no_pauses, tmp_path
) -> None:
    settings = Settings(store=StoreSettings(url=f"sqlite:///{tmp_path}/fleet.db"))
    home = opened()
    bench = Workbench(settings, home)
    session_id = bench.sessions.create("mine").session_id
    repl = home.open(Role(session_id, "r-1", "rlm", 1, is_kept=True))
    repl.start()
    repl.shutdown()
    line.faults.append(Fault("DELETE /api/sandbox", refusal(503), times=3))
    assert bench.sessions.delete(session_id).sandbox == "left"
    assert bench.sessions.list()[0] == []
    bench.close()


def test_a_name_is_no_id(opened) -> None:
    home = opened()
    home.open(ROLE).start()
    (one,) = home.list()
    name = home.client.call(home.client.get().get(one.id), 30).name
    with pytest.raises(NoSuchSandbox):
        home.stop(name)


def test_a_list_that_lags_behind_shows_nothing_again_that_was_stopped(opened, service: Server) -> None:
    home = opened()
    interpreter = home.open(ROLE)
    interpreter.start()
    service.fault("list_lag", seconds=60)
    assert [one.session for one in live_sandboxes(service)] == []
    assert home.get(interpreter.sandbox_id).session == "s-1", "an id is sure where the list is late"
    service.clear_faults()
    assert [one.id for one in home.list()] == [interpreter.sandbox_id]
    home.stop(interpreter.sandbox_id)
    assert home.list() == []


def test_what_a_dead_process_left_is_swept_on_request_and_counted(opened, service: Server) -> None:
    journal = MemoryAllocations()
    opened(journal).open(ROLE).start()
    opened(journal).open(Role("s-kept", "r-2", "rlm", 1, is_kept=True)).start()
    journal.die()
    living = opened(journal)
    living.open(Role("s-3", "r-3", "rlm", 1)).start()
    until(lambda: sorted(one["session"] for one in live_sandboxes(service)) == ["s-3", "s-kept"])
    # That was the sweep of the first sandbox. Now on request, before there was one.
    journal.die()
    assert opened(journal).prune() == 1
    assert [one["session"] for one in live_sandboxes(service)] == ["s-kept"], "it waits for its session"
    assert opened(MemoryAllocations()).prune() == 0


def test_nothing_is_started_to_list_what_there_is(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(local, "start", lambda *_, **__: pytest.fail("the local server was started"))
    home = DaytonaSandboxes(Settings())
    assert home.list() == []
    assert home.prune() == 0
    with pytest.raises(NoSuchSandbox):
        home.stop("0" * 36)
    home.close()
    bench = Workbench(Settings(store=StoreSettings(url=f"sqlite:///{tmp_path}/fleet.db")))
    assert bench.live_sandboxes.list() == []
    assert bench.live_sandboxes.prune() == 0
    bench.close()


def test_the_command_line_lists_stops_and_prunes_those_of_ones_sessions(
    opened, service: Server, line: FaultyLine, tmp_path, monkeypatch, capfd
) -> None:
    url = f"sqlite:///{tmp_path}/fleet.db"
    for name, value in {"STORE__URL": url, "DAYTONA__API_KEY": KEY, "DAYTONA__API_URL": line.url}.items():
        monkeypatch.setenv(f"FLEET_{name}", value)

    def fleet(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["fleet", "sandboxes", *words])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capfd.readouterr()
        assert KEY not in said.out + said.err
        return ended.value.code, said.out, said.err

    bench = Workbench(Settings(store=StoreSettings(url=url)))
    session_id = bench.sessions.create("mine").session_id
    bench.close()
    assert fleet("list")[:2] == (0, "")
    home = opened()
    mine, other = home.open(Role(session_id, "r-1", "rlm", 1)), home.open(Role("s-other", "r-2", "rlm", 1))
    mine.start()
    other.start()
    code_, out, _ = fleet()
    assert (code_, out.split()[0], len(out.splitlines())) == (0, mine.sandbox_id, 1)
    assert f"started   rlm of {session_id}, r-1" in out
    (shown,) = json.loads(fleet("list", "--json")[1])["sandboxes"]
    assert shown.keys() == {"id", "state", "session", "run", "role", "depth", "created"}
    assert fleet("stop", other.sandbox_id)[0] == 2
    for words in (("archive",), ("resize", "--cpu", "2")):
        code_, _, err = fleet(words[0], mine.sandbox_id, *words[1:])
        assert (code_, "ends with its run" in err) == (2, True)
    kept = home.open(Role(session_id, "r-3", "rlm", 1, is_kept=True))
    kept.start()
    kept.shutdown()
    (kept_id,) = (one.id for one in home.list() if one.role == "session")
    assert fleet("resize", kept_id, "--cpu", "2", "--disk", "5")[:2] == (0, f"{kept_id} is resized, and stopped\n")
    assert json.loads(fleet("archive", kept_id, "--json")[1]) == {"archived": kept_id}
    assert home.get(kept_id).state == "archived"
    assert fleet("start", kept_id)[:2] == (0, f"{kept_id} is started\n")
    assert fleet("stop", kept_id)[0] == 0
    assert fleet("stop", mine.sandbox_id)[0] == 0
    assert [one["session"] for one in live_sandboxes(service)] == ["s-other"]
    assert json.loads(fleet("prune", "--json")[1]) == {"pruned": 0}


def test_a_sandbox_that_waited_ready_bears_the_labels_of_whom_it_works_for(opened) -> None:
    home = opened(warm=1, volume="none")
    parent = home.open(ROLE)
    parent.start()
    until(lambda: any(not one.session for one in home.list()))
    other = home.open(Role("s-2", "r-2", "rlm", 1))
    other.start()
    until(lambda: home.get(other.sandbox_id).session == "s-2")
    child = home.child(parent.sandbox_id, Role("s-1", "r-1", "child", 2))
    child.start()
    until(lambda: home.get(child.sandbox_id).role == "child")
    assert home.get(child.sandbox_id).depth == 2


# --- a sandbox in use -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """Two users of one Workbench, whose model runs a cell for ever."""
    engine = ScriptedEngine(lambda prompt: code("open('memory/note', 'w').write('kept')\nwhile True: pass"))
    url = f"sqlite:///{tmp_path_factory.mktemp('store')}/fleet.db"
    settings = Settings(sandbox=SandboxSettings(allow_unisolated=True, warm=1), store=StoreSettings(url=url))
    made = Workbench(settings, None, scripted_models(engine))
    made.engine = engine
    yield made
    made.close()


def test_a_run_whose_sandbox_is_stopped_fails_at_once_and_asks_no_model_any_more(bench) -> None:
    mine, theirs = bench.seen_by("me"), bench.seen_by("you")
    session_id = mine.sessions.create("mine").session_id
    run = mine.ask(Question("q", context="x", mode="rlm_only", session_id=session_id))
    until(lambda: any(call.kind == "code" for call in run.tree().calls.values()))
    calls = bench.engine.calls
    (one,) = mine.live_sandboxes.list()
    assert (one.session, one.run, one.role) == (session_id, run.run_id, "session")
    assert theirs.live_sandboxes.list() == [], "neither another's nor those that wait for somebody"
    with pytest.raises(NoSuchSandbox):
        theirs.live_sandboxes.stop(one.id)
    mine.live_sandboxes.stop(one.id)
    ended = run.result(10)
    assert (ended.status, ended.error.code) == ("failed", SandboxLost.code)
    assert "stopped by its user" in ended.error.text
    assert bench.engine.calls == calls
    assert mine.live_sandboxes.list() == []


def test_the_sessions_next_turn_has_a_new_sandbox_with_the_old_files(bench) -> None:
    home = bench.sandboxes()
    role = Role("s-next", "r-1", "rlm", 1, is_kept=True)
    first = home.open(role)
    first.execute("open('memory/note', 'w').write('kept')")
    first.shutdown()
    home.stop(first.sandbox_id or next(one.id for one in home.list() if one.session == "s-next"))
    told: list[Any] = []
    again = home.open(role, on_fact=told.append)
    assert again.execute("open('memory/note').read()") == "kept"
    assert told[0].state == "recreated"
    again.shutdown()


def test_a_deleted_session_has_no_sandbox_any_more_and_its_files_stay_where_it_says(bench) -> None:
    mine = bench.seen_by("deleter")
    session_id = mine.sessions.create("mine").session_id
    run = mine.ask(Question("q", context="x", mode="rlm_only", session_id=session_id))
    until(lambda: any(call.kind == "code" for call in run.tree().calls.values()))
    with pytest.raises(SessionBusy):
        mine.sessions.delete(session_id)
    assert [one.session for one in mine.live_sandboxes.list()] == [session_id], "its run has it"
    run.cancel()
    run.result(30)
    mine.cells(session_id).execute("save_to_volume('memory/mine', 'kept')")
    left = mine.sessions.delete(session_id)
    assert (left.sandbox, left.volume, left.folder) == ("ended", "fleet-rlm", f"sessions/{session_id}")
    assert session_id not in [one.session for one in bench.sandboxes().list()]
    assert bench.sandboxes().files(session_id).read("memory/mine") == b"kept"
    other = mine.sessions.create("never used").session_id
    assert mine.sessions.delete(other).sandbox == "none"


def test_a_cell_of_ones_own_in_a_stopped_sandbox_says_that_it_is_lost_and_the_next_one_begins_anew(bench) -> None:
    cells = bench.cells()
    cells.execute("x = 1")
    (one,) = bench.live_sandboxes.list()
    bench.live_sandboxes.stop(one.id)
    with pytest.raises(SandboxLost, match="stopped by its user"):
        cells.execute("x")
    assert cells.execute("'x' in globals()").text == "False"
    cells.close()


def test_a_sandbox_that_waits_is_nobodys_and_one_that_was_stopped_is_not_given_out(bench) -> None:
    home = bench.sandboxes()
    home.open(ROLE).start()
    until(lambda: any(not one.session for one in home.list()))
    for one in [one for one in home.list() if not one.session]:
        assert one.id not in [mine.id for mine in bench.live_sandboxes.list()]
        with pytest.raises(NoSuchSandbox):
            bench.live_sandboxes.stop(one.id)
        home.stop(one.id)
    interpreter = home.open(ROLE)
    interpreter.start()
    home.stop(interpreter.sandbox_id)
    with pytest.raises(CodeInterpreterError):
        interpreter.execute("1")
    assert home.open(ROLE).execute(f"import os\nos.getpid() != {os.getpid()}") == "True"
