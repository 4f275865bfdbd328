"""What our sandboxes make of the faults that the local server has as switches, beside what test_session_sandboxes.py
tries of them; and that none of the switches is without such a test."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from contract.localdaytona_server import Server, live_sandboxes, until

from fleet_rlm_jupyter.domain.errors import SandboxUnavailable
from fleet_rlm_jupyter.domain.ports import Role
from fleet_rlm_jupyter.localdaytona.faults import FAULTS
from fleet_rlm_jupyter.testing import MemoryAllocations

pytest_plugins = ["contract.remote_fixture"]

ROLE = Role("s-1", "r-1", "rlm", 1)
LINES = [f"line {number} {'x' * 50}" for number in range(600)]  # as many as are shown live without a gap
TALKATIVE = "for n in range(600):\n    print('line', n, 'x' * 50)\n    if n % 20 == 0: assert tick(n) == n"


def test_every_switch_is_tried_on_our_sandboxes() -> None:
    here = Path(__file__).parent
    sources = [path.read_text() for path in here.glob("test_*.py") if "localdaytona" not in path.name]
    tried = set(re.findall(r"\.fault\(\s*\"(\w+)\"", "".join(sources)))
    assert tried == set(FAULTS)


def test_a_socket_dropped_in_mid_cell_loses_nothing(opened, service: Server) -> None:
    """No line, no callback and no variable, wherever the service cuts; the guest goes on meanwhile."""
    interpreter = opened().open(ROLE)
    ticks: list[int] = []

    def tick(number: int) -> int:
        ticks.append(number)
        if number in (0, 100, 120, 580):
            service.fault("dropped_socket", times=1)
        return number

    interpreter.tools["tick"] = tick
    seen = interpreter.execute(f"kept = object(); before = id(kept)\n{TALKATIVE}").splitlines()
    assert seen == LINES
    assert ticks == list(range(0, 600, 20))
    assert interpreter.execute("n, id(kept) == before") == "(599, True)"


def test_sockets_dropped_again_and_again_lose_nothing_of_what_is_shown_live(opened, service: Server) -> None:
    shown: list[str] = []
    interpreter = opened().open(ROLE, on_output=lambda stream, text: shown.append(text))
    interpreter.tools["tick"] = lambda number: number
    interpreter.start()
    service.fault("dropped_socket", bytes=6_000, times=5)
    service.fault("dropped_socket", times=1)
    interpreter.execute(TALKATIVE)
    assert "".join(shown).splitlines() == LINES
    assert service.call("GET", "/api/faults")[1]["on"] == [], "all six cuts were made"


def test_a_refused_fork_is_told_and_the_child_is_clean(opened, service: Server) -> None:
    service.fault("fork_422")
    home = opened(volume="none", children="fork")
    parent = home.open(Role("s-1", "r-1", "rlm", 1, is_kept=True))
    parent.execute("open('artifacts/of-the-parent', 'w').write('x')")
    told: list[Any] = []
    child = home.child(parent.sandbox_id, Role("s-1", "r-1", "child", 2), on_fact=told.append)
    assert child.execute("import os\nos.listdir('artifacts')") == "[]"
    child.shutdown()
    assert (told[0].origin, told[0].reason, told[0].child.fallback_from) == ("clean", "fork_failed", "fork")
    assert "not supported" in told[0].child.fallback_error
    strict = opened(volume="none", children="fork", fork_fallback="fail")
    other = strict.open(Role("s-2", "r-2", "rlm", 1, is_kept=True))
    other.start()
    with pytest.raises(SandboxUnavailable, match="cannot be forked"):
        strict.child(other.sandbox_id, Role("s-2", "r-2", "child", 2)).start()


def test_a_sweep_and_a_close_reach_what_a_lagging_list_does_not_show(opened, service: Server) -> None:
    journal = MemoryAllocations()
    opened(journal).open(ROLE).start()
    journal.die()
    service.fault("list_lag", seconds=60)
    home = opened(journal)
    home.open(Role("s-2", "r-2", "rlm", 1)).start()
    until(lambda: len(journal.open) == 1)
    home.close()
    assert not journal.open, "each is gone for sure"
    service.clear_faults()
    assert live_sandboxes(service) == []


def test_a_sweep_deletes_nothing_twice_that_a_lagging_list_still_shows(opened, service: Server, line) -> None:
    journal = MemoryAllocations()
    home = opened(journal)
    interpreter = home.open(ROLE)
    interpreter.start()
    sandbox_id = interpreter.sandbox_id
    service.fault("list_lag", seconds=60)
    service.fault("server_error", on="list", status=503, times=2)  # and it fails before it lags
    interpreter.shutdown()
    until(lambda: not journal.open)
    home._creation.sweep()
    assert sandbox_id not in [one.id for one in home.list()]
    assert line.count(f"DELETE /api/sandbox/{sandbox_id}") == 1


@pytest.mark.parametrize("group", ["toolbox", "lifecycle", "other"])
def test_an_error_of_the_moment_is_tried_again(group: str, opened, service: Server) -> None:
    service.fault("server_error", on=group, status=503, times=1)
    interpreter = opened().open(ROLE)
    assert interpreter.execute("1 + 1") == "2"
    interpreter.shutdown()
    until(lambda: live_sandboxes(service) == [])
