"""A session's sandbox over its turns: found as it was, after it stopped, or made anew; and the volume behind it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import daytona
import pytest
from contract.faulty_line import Fault, FaultyLine, refusal
from contract.localdaytona_server import SECONDS, Server, live_sandboxes, until
from dspy.primitives.code_interpreter import CodeInterpreterError

from fleet_rlm_jupyter.domain.errors import SandboxUnavailable
from fleet_rlm_jupyter.domain.events import SandboxChanged
from fleet_rlm_jupyter.domain.ports import Role
from fleet_rlm_jupyter.sandbox import machine, retries, volumes
from fleet_rlm_jupyter.sandbox.daytona import DaytonaSandboxes
from fleet_rlm_jupyter.settings import SandboxSettings, Settings
from fleet_rlm_jupyter.testing import MemoryAllocations

pytest_plugins = ["contract.remote_fixture"]


def turn(session: str = "s-1", run: str = "r-1") -> Role:
    return Role(session, run, "rlm", 1, is_kept=True)


class Told(list[Any]):
    """What was told of sandboxes, in order."""

    @property
    def states(self) -> list[str]:
        return [fact.state for fact in self if isinstance(fact, SandboxChanged)]


def run_cell(home: DaytonaSandboxes, role: Role, code: str) -> tuple[str, Told]:
    told = Told()
    interpreter = home.open(role, on_fact=told.append)
    try:
        return interpreter.execute(code), told
    finally:
        interpreter.shutdown()


@pytest.fixture(scope="module")
def local() -> Iterator[DaytonaSandboxes]:
    made = DaytonaSandboxes(Settings(sandbox=SandboxSettings(allow_unisolated=True)))
    yield made
    made.close()


# --- over turns -------------------------------------------------------------------------------------------------------


def test_files_stay_from_turn_to_turn_and_variables_do_not(local: DaytonaSandboxes) -> None:
    _, first = run_cell(
        local, turn("s-stay"), "kept = 1\nopen('note', 'w').write('here')\nopen('memory/a', 'w').write('b')"
    )
    said, second = run_cell(
        local, turn("s-stay", "r-2"), "print('kept' in globals(), open('note').read(), open('memory/a').read())"
    )
    assert said == "False here b"
    assert first.states == ["ready", "detached"]
    assert second.states == ["reused", "detached"]
    assert first[0].sandbox_id == second[0].sandbox_id
    assert not second[0].is_degraded
    assert (first[0].volume, first[0].subpath) == ("fleet-rlm", "sessions/s-stay")


def test_the_users_cells_are_beside_the_runs_in_one_sandbox_and_keep_none_waiting(local: DaytonaSandboxes) -> None:
    told = Told()
    beside = Role("s-beside", "r-cells", "cells", 1, is_kept=True, is_beside=True)
    cells = local.open(beside, on_fact=told.append)
    cells.execute("kept = 1\nopen('mine', 'w').write('of the cells')")
    said, run = run_cell(local, turn("s-beside"), "print('kept' in globals(), open('mine').read())")
    assert said == "False of the cells"
    assert run.states == ["reused", "detached"]
    assert not run[0].is_degraded
    assert run[0].sandbox_id == told[0].sandbox_id
    assert cells.execute("print(kept)") == "1"
    cells.shutdown()
    assert told.states == ["ready", "detached"]


def test_the_users_cells_begin_while_a_run_has_the_sandbox(local: DaytonaSandboxes) -> None:
    going_on = local.open(turn("s-during"))
    going_on.execute("open('note', 'w').write('of the run')")
    beside = Role("s-during", "r-cells", "cells", 1, is_kept=True, is_beside=True)
    cells = local.open(beside)
    assert cells.execute("print(open('note').read())") == "of the run"
    assert cells.sandbox_id == going_on.sandbox_id
    cells.shutdown()
    assert going_on.execute("print('still here')") == "still here"
    going_on.shutdown()
    _, after = run_cell(local, turn("s-during", "r-2"), "print(1)")
    assert after.states == ["reused", "detached"]


def test_a_session_sees_nothing_of_another(local: DaytonaSandboxes) -> None:
    _, one = run_cell(local, turn("s-one"), "open('memory/secret', 'w').write('x')\nopen('secret', 'w').write('x')")
    said, other = run_cell(
        local, turn("s-other"), "import os\n[os.path.exists(p) for p in ('memory/secret', 'secret')]"
    )
    assert said == "[False, False]"
    assert one[0].sandbox_id != other[0].sandbox_id


def test_a_second_run_at_the_same_time_has_the_same_volume_and_is_told(local: DaytonaSandboxes) -> None:
    first = local.open(turn("s-twice"))
    first.execute("open('memory/first', 'w').write('1')")
    said, told = run_cell(local, turn("s-twice", "r-2"), "open('memory/first').read()")
    first.shutdown()
    assert said == "1"
    assert told.states == ["ready", "deleted"]
    assert told[0].is_degraded
    assert "another run" in told[0].reason
    assert told[0].sandbox_id != first.sandbox_id


def test_nobody_is_connected_to_an_idle_sandbox(opened, service: Server, line: FaultyLine) -> None:
    """An open terminal counts as use, at a price, and would keep it from stopping."""
    home = opened()
    run_cell(home, turn(), "1")
    ((sandbox),) = daytona.Daytona(service.config()).list()
    until(lambda: not sandbox.process.list_pty_sessions())


def test_a_stopped_sandbox_is_resumed_with_its_files(opened, service: Server) -> None:
    home = opened()
    run_cell(home, turn(), "open('note', 'w').write('here')")
    (sandbox,) = daytona.Daytona(service.config()).list()
    sandbox.stop(SECONDS)
    said, told = run_cell(home, turn(run="r-2"), "open('note').read()")
    assert said == "here"
    assert told.states == ["resumed", "detached"]
    assert told[0].reason == "it was stopped"
    assert not told[0].is_degraded


def test_an_archived_sandbox_is_waited_for(opened, service: Server) -> None:
    home = opened()
    run_cell(home, turn(), "open('note', 'w').write('here')")
    service.fault("archived_sandbox", seconds=0.3)
    said, told = run_cell(home, turn(run="r-2"), "open('note').read()")
    assert (said, told.states[0], told[0].reason) == ("here", "resumed", "it was archived")


def test_a_deleted_sandbox_is_made_anew_and_what_is_lost_is_said(opened, service: Server) -> None:
    home = opened()
    run_cell(home, turn(), "open('note', 'w').write('x')\nopen('memory/note', 'w').write('still here')")
    (sandbox,) = daytona.Daytona(service.config()).list()
    sandbox.delete(SECONDS)
    said, told = run_cell(home, turn(run="r-2"), "import os\nos.path.exists('note'), open('memory/note').read()")
    assert said == "(False, 'still here')"
    assert told.states == ["recreated", "detached"]
    assert told[0].is_degraded
    assert "gone" in told[0].reason


def test_a_sandbox_that_was_killed_in_mid_cell_is_told_and_made_anew(opened, service: Server, monkeypatch) -> None:
    monkeypatch.setattr(machine, "_RECONNECT_AFTER", (0.0, 0.1, 0.3))
    home = opened()
    told = Told()
    interpreter = home.open(turn(), on_fact=told.append)
    interpreter.tools["kill"] = lambda: service.fault("killed_sandbox")
    with pytest.raises(CodeInterpreterError):
        interpreter.execute("open('memory/note', 'w').write('x')\nkill()\nwhile True: pass")
    assert told.states == ["ready", "lost", "detached"]
    said, after = run_cell(home, turn(run="r-2"), "open('memory/note').read()")
    assert said == "x"
    assert after.states[0] in ("recreated", "resumed")


def test_the_sandbox_of_a_process_that_died_is_taken_over(opened, service: Server) -> None:
    journal = MemoryAllocations()
    dead = opened(journal)
    run_cell(dead, turn(), "open('note', 'w').write('here')")
    journal.die()
    said, told = run_cell(opened(journal), turn(run="r-2"), "open('note').read()")
    assert (said, told.states) == ("here", ["reused", "detached"])
    assert len(journal.open) == 1
    assert not journal.left()
    assert len(live_sandboxes(service)) == 1


def test_the_labels_of_a_kept_sandbox_follow_its_user(opened, service: Server) -> None:
    home = opened()
    for run in range(1, 5):
        run_cell(home, turn(run=f"r-{run}"), "1")
    until(lambda: [(one["role"], one["run"]) for one in live_sandboxes(service)] == [("session", "r-4")])


def test_a_kept_sandbox_stops_by_itself_and_is_not_ephemeral(opened, service: Server) -> None:
    home = opened(auto_stop_minutes=7)
    run_cell(home, turn(), "1")
    (sandbox,) = daytona.Daytona(service.config()).list()
    assert (sandbox.auto_stop_interval, sandbox.auto_delete_interval) == (7, 24 * 60)


def test_a_lost_local_server_is_started_again_for_the_next_turn() -> None:
    home = DaytonaSandboxes(Settings(sandbox=SandboxSettings(allow_unisolated=True)))
    try:
        run_cell(home, turn("s-server"), "open('memory/note', 'w').write('here')")
        server = home.client.server()._process
        server.kill()
        server.wait(SECONDS)
        said, told = run_cell(home, turn("s-server", "r-2"), "open('memory/note').read()")
        assert (said, told.states) == ("here", ["recreated", "detached"])
    finally:
        home.close()


# --- volumes ----------------------------------------------------------------------------------------------------------


def test_a_pending_volume_is_waited_for(opened, service: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(volumes, "_PAUSES", (0.05, 0.1))
    service.fault("pending_volume", seconds=0.5, times=1)
    begun = time.monotonic()
    _, told = run_cell(opened(volume="slow-one"), turn(), "open('memory/a', 'w').write('b')")
    assert time.monotonic() - begun > 0.4
    assert told[0].volume == "slow-one"


def test_a_volume_that_never_gets_ready_costs_the_volume_and_not_the_answer(
    opened, service: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(volumes, "_PAUSES", (0.05,))
    monkeypatch.setattr(volumes, "READY_SECONDS", 0.3)
    service.fault("pending_volume", seconds=60, times=1)
    said, told = run_cell(opened(volume="never"), turn(), "open('memory/a', 'w').write('b')\n1 + 1")
    assert said == "2"
    assert told[0].is_degraded
    assert "not ready" in told[0].reason
    assert told[0].volume == ""


def test_two_first_turns_make_one_volume(opened, service: Server, line: FaultyLine) -> None:
    home = opened(volume="shared")
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda n: run_cell(home, turn(f"s-{n}"), "1"), range(2)))
    assert line.count("POST /api/volumes$") == 1
    names = [one.name for one in daytona.Daytona(service.config()).volume.list()]
    assert names.count("shared") == 1


def test_a_volume_that_somebody_else_made_first_is_used(opened, service: Server, line: FaultyLine) -> None:
    def quicker(request: str) -> None:
        if request == "POST /api/volumes":
            daytona.Daytona(service.config()).volume.create("raced")

    line.on_request = quicker
    _, told = run_cell(opened(volume="raced"), turn(), "1")
    assert told[0].volume == "raced"


def test_no_volume_is_made_where_none_is_wanted(opened, line: FaultyLine) -> None:
    said, told = run_cell(opened(volume="none"), turn(), "open('artifacts/x', 'w').write('y')\n1")
    assert said == "1"
    assert not told[0].is_degraded
    assert line.count(".* /api/volumes") == 0


def test_what_we_write_survives_an_object_store(opened, service: Server) -> None:
    """strict_volume refuses rename, append, change and lock, as Daytona's volumes do."""
    service.fault("strict_volume", times=0)
    home = opened()
    told = Told()
    root = home.open(turn("s-strict"), on_fact=told.append)
    root.execute("open('artifacts/in.txt', 'w').write('in')")
    files = home.files("s-strict")
    files.write("memory/a/b.txt", b"one")
    files.write("memory/a/b.txt", b"two")
    files.move("memory/a", "memory/c")
    assert files.read("memory/c/b.txt") == b"two"
    child = home.child(root.sandbox_id, Role("s-strict", "r-1", "child", 2, files=("artifacts/in.txt",)))
    child.execute("open('artifacts/out.txt', 'w').write(open('artifacts/in.txt').read() * 2)")
    name = child.sandbox_id[:8]
    child.shutdown()
    assert root.execute(f"open('artifacts/child-{name}/out.txt').read()") == "inin"
    files.delete("memory/c")
    root.shutdown()


# --- faults of the service --------------------------------------------------------------------------------------------


def test_a_slow_start_is_waited_for(opened, service: Server) -> None:
    service.fault("slow_start", seconds=0.5, times=1)
    assert run_cell(opened(), turn(), "1 + 1")[0] == "2"


def test_a_start_that_fails_leaves_nothing_and_is_told(opened, service: Server) -> None:
    service.fault("start_error", seconds=0.1, times=1)
    home = opened(volume="none")
    with pytest.raises(SandboxUnavailable) as caught:
        home.open(turn()).start()
    assert caught.value.hint
    until(lambda: live_sandboxes(service) == [])
    assert run_cell(home, turn(), "1 + 1")[0] == "2"


@pytest.fixture(params=["a warm Python", "a shell"])
def guest_from(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What starts guests: our local server has the first, Daytona the other."""
    if request.param == "a shell":
        monkeypatch.setattr(machine, "GUEST_ENVS", {"PS1": "", "TERM": "dumb"})


@pytest.mark.usefixtures("guest_from")
def test_a_restart_of_the_service_in_mid_cell_loses_nothing(opened, service: Server) -> None:
    home = opened()
    interpreter = home.open(turn())
    interpreter.tools["restart"] = lambda: service.fault("server_restart", seconds=0.5)
    assert interpreter.execute("restart()\nfor n in range(200): print(n)\n'after'").endswith("199\nafter")
    interpreter.shutdown()
    after = run_cell(home, turn(run="r-2"), "1")[1]
    assert after.states == ["reused", "detached"], after[0].reason


@pytest.mark.usefixtures("guest_from")
@pytest.mark.parametrize("after", ["nothing", "the work", "the answer"])
def test_a_line_that_breaks_while_a_turn_begins_loses_nothing(after: Any, opened, line: FaultyLine) -> None:
    """Before the terminal was asked for, after it was made, or before the guest in it was started."""
    home = opened()
    run_cell(home, turn(), "open('note', 'w').write('here')")
    line.faults.append(Fault("GET /toolbox/.*/process/pty/create-connect", b"", after=after))
    said, told = run_cell(home, turn(run="r-2"), "open('note').read()")
    assert (said, told.states) == ("here", ["reused", "detached"])
    assert line.faults[0].times == 0


def test_a_service_that_fails_while_a_turn_begins_has_lost_nothing(opened, line: FaultyLine, no_pauses) -> None:
    home = opened()
    run_cell(home, turn(), "open('note', 'w').write('here')")
    line.faults.append(Fault("POST /toolbox/.*/files/bulk-upload", refusal(503), times=retries.TRIES))
    said, told = run_cell(home, turn(run="r-2"), "open('note').read()")
    assert (said, told.states) == ("here", ["reused", "detached"])
    everything = Fault("", refusal(503), times=1000)
    line.on_request = lambda request: line.faults.append(everything) if "bulk-upload" in request else None
    with pytest.raises(SandboxUnavailable):
        home.open(turn(run="r-3")).start()
    line.on_request = lambda request: None
    line.faults.clear()
    said, told = run_cell(home, turn(run="r-4"), "open('note').read()")
    assert (said, told.states) == ("here", ["reused", "detached"])


def test_a_sandbox_that_answers_no_more_is_made_anew_where_the_service_does(
    opened, line: FaultyLine, no_pauses
) -> None:
    home = opened()
    run_cell(home, turn(), "1")
    line.faults.append(Fault("POST /toolbox/.*/files/bulk-upload", refusal(502), times=2 * retries.TRIES))
    said, told = run_cell(home, turn(run="r-2"), "1 + 1")
    assert (said, told.states) == ("2", ["recreated", "detached"])


def test_a_slow_reader_loses_no_output(opened, service: Server) -> None:
    home = opened()
    interpreter = home.open(turn())
    interpreter.start()
    service.fault("slow_reader", seconds=0.02, times=50)
    assert interpreter.execute("for n in range(3000): print(n)").split() == [str(n) for n in range(3000)]
    interpreter.shutdown()


def test_a_busy_service_is_waited_for_at_every_step(opened, service: Server) -> None:
    for group in ("create", "lifecycle", "toolbox", "volumes", "other"):
        service.fault("rate_limit", seconds=0.1, times=1, on=group, suffix="throttler")
    home = opened()
    assert run_cell(home, turn(), "1 + 1")[0] == "2"


def test_a_quota_that_is_used_up_is_told(opened, service: Server) -> None:
    service.fault("quota", times=1, on="create", resource="memory")
    with pytest.raises(SandboxUnavailable, match="quota") as caught:
        opened().open(turn()).start()
    assert "budget.sandboxes" in caught.value.hint


@pytest.mark.parametrize("status", [500, 0])
def test_a_creation_that_worked_although_the_answer_says_otherwise_is_adopted(
    status: int, opened, service: Server, line: FaultyLine
) -> None:
    service.fault("failure_after_success", times=1, on="create", status=status)
    assert run_cell(opened(volume="none"), turn(), "1 + 1")[0] == "2"
    assert line.count("POST /api/sandbox$") == 1
    assert len(live_sandboxes(service)) == 1


def test_a_sandbox_that_cannot_be_looked_for_is_not_given_up(opened, line: FaultyLine) -> None:
    """A service that fails for a moment has not lost the sandbox: it is tried again, not replaced."""
    home = opened()
    run_cell(home, turn(), "open('note', 'w').write('here')")
    line.faults.append(Fault("GET /api/sandbox/", refusal(503), times=2))
    said, told = run_cell(home, turn(run="r-2"), "open('note').read()")
    assert (said, told.states[0]) == ("here", "reused")


def test_two_repls_of_one_sandbox_take_in_the_same_large_input_at_once(local: DaytonaSandboxes) -> None:
    run = local.open(turn("s-twice"))
    beside = local.open(Role("s-twice", "", "cell", 1, is_kept=True, is_beside=True))
    run.start()
    beside.start()
    assert run.sandbox_id == beside.sandbox_id
    try:
        with ThreadPoolExecutor(2) as threads:
            for number in range(10):
                text = str(number) * 100_000
                both = [
                    threads.submit(repl.execute, "print(len(text), text[0])", {"text": text}) for repl in (run, beside)
                ]
                assert [done.result(60) for done in both] == [f"100000 {number}"] * 2
    finally:
        beside.shutdown()
        run.shutdown()
