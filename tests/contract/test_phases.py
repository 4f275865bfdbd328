"""What fails in a sandbox's life says where: category, phase and the next step, for every phase there is."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, get_args

import daytona
import pytest
from contract.faulty_line import Fault, FaultyLine, refusal
from contract.localdaytona_server import Server
from dspy.primitives.code_interpreter import CodeInterpreterError

from fleet_rlm_jupyter.domain.errors import BadRequest, ErrorText, FleetError, SandboxPhase
from fleet_rlm_jupyter.domain.ports import Role, Workspace
from fleet_rlm_jupyter.domain.question import Question
from fleet_rlm_jupyter.sandbox.daytona import DaytonaSandboxes
from fleet_rlm_jupyter.testing import UnisolatedSandboxes, scripted_workbench

pytest_plugins = ["contract.remote_fixture"]

ROLE = Role("s-1", "r-1", "rlm", 1)
KEPT = Role("s-1", "r-1", "rlm", 1, is_kept=True)
CHILD = Role("s-1", "r-1", "child", 2)

Trial = Callable[[Callable[..., DaytonaSandboxes], FaultyLine, Server], Any]


def breaks(line: FaultyLine, pattern: str, status: int = 400) -> None:
    line.faults.append(Fault(pattern, refusal(status), times=99))


def no_creation(opened: Any, line: FaultyLine, service: Server) -> None:
    breaks(line, "POST /api/sandbox$")
    opened().open(ROLE).start()


def no_snapshot(opened: Any, line: FaultyLine, service: Server) -> None:
    breaks(line, "GET /api/snapshots/big", 404)
    opened(snapshot="big").open(ROLE).start()


def no_volume(opened: Any, line: FaultyLine, service: Server) -> None:
    breaks(line, ".* /api/volumes")
    opened().files("s-1").tree("")


def no_terminal(opened: Any, line: FaultyLine, service: Server) -> None:
    breaks(line, "GET .*/process/pty/")
    opened().open(ROLE).start()


def no_fork(opened: Any, line: FaultyLine, service: Server) -> None:
    home = opened(volume="none", children="fork", fork_fallback="fail")
    parent = home.open(ROLE)
    parent.start()
    home.child(parent.sandbox_id, CHILD).start()


def no_start(opened: Any, line: FaultyLine, service: Server) -> None:
    home = opened()
    made = home.open(KEPT)
    made.start()
    sandbox_id = made.sandbox_id
    made.shutdown()
    daytona.Daytona(service.config()).get(sandbox_id).stop()
    breaks(line, f"POST /api/sandbox/{sandbox_id}/start")
    home.open(KEPT).start()


def no_upload(opened: Any, line: FaultyLine, service: Server) -> None:
    def pack(path: Any) -> None:
        path.write_bytes(b"no archive")

    digest = hashlib.sha256(b"x").hexdigest()
    wanted = Workspace("tool", "https://example.org/tool.git", "main", "c" * 40, digest, 1, pack, lambda: None)
    opened().open(Role("s-1", "r-1", "rlm", 1, workspace=wanted)).start()


def killed_cell(opened: Any, line: FaultyLine, service: Server) -> None:
    with pytest.raises(CodeInterpreterError) as caught:
        opened().open(ROLE).execute("import os; os._exit(1)")
    assert isinstance(caught.value.__cause__, FleetError)
    raise caught.value.__cause__


def no_deletion(opened: Any, line: FaultyLine, service: Server) -> None:
    home = opened()
    made = home.open(ROLE)
    made.start()
    breaks(line, f"DELETE /api/sandbox/{made.sandbox_id}")
    home.stop(made.sandbox_id)


def no_clone(opened: Any, line: FaultyLine, service: Server) -> None:
    bench = scripted_workbench(lambda prompt: "", home=UnisolatedSandboxes())
    bench.ask(Question("?", repo_url="file:///nowhere/at-all", mode="rlm_only"))


TRIALS: dict[SandboxPhase, tuple[Trial, str]] = {
    "clone": (no_clone, "bad_request"),
    "snapshot": (no_snapshot, "bad_settings"),
    "volume": (no_volume, "sandbox_unavailable"),
    "create": (no_creation, "sandbox_unavailable"),
    "fork": (no_fork, "sandbox_unavailable"),
    "resume": (no_start, "sandbox_unavailable"),
    "connect": (no_terminal, "sandbox_unavailable"),
    "stage": (no_upload, "sandbox_error"),
    "execute": (killed_cell, "sandbox_lost"),
    "clean-up": (no_deletion, "sandbox_unavailable"),
}


def test_every_phase_is_tried() -> None:
    assert {"", *TRIALS} == set(get_args(SandboxPhase))


@pytest.mark.usefixtures("no_pauses")
@pytest.mark.parametrize("phase", TRIALS)
def test_what_fails_says_in_which_phase_with_its_code_and_the_next_step(
    phase: SandboxPhase, opened: Any, line: FaultyLine, service: Server
) -> None:
    fails, code = TRIALS[phase]
    with pytest.raises(FleetError) as caught:
        fails(opened, line, service)
    said = ErrorText.of(caught.value)
    assert (said.phase, said.code) == (phase, code), said
    assert said.hint


def test_a_bad_argument_that_has_nothing_to_do_with_a_sandbox_has_no_phase(opened: Any) -> None:
    with pytest.raises(BadRequest) as caught:
        opened().files("../x")
    assert ErrorText.of(caught.value).phase == ""
