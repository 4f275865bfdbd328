"""The essentials at a real Daytona, with a key only. test_lane.py shows without one that they can pass."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from dspy.primitives.code_interpreter import CodeExecutionError, CodeInterpreterError

from fleet_rlm_jupyter.domain.events import ArtifactWritten
from fleet_rlm_jupyter.domain.ports import Role
from fleet_rlm_jupyter.sandbox.daytona import DaytonaSandboxes
from fleet_rlm_jupyter.settings import DaytonaSettings, Settings
from fleet_rlm_jupyter.workbench import Workbench

pytestmark = pytest.mark.live

ROLE = Role("s-live", "r-live", "rlm", 1)
SECONDS = 120


@pytest.fixture(scope="module")
def settings(daytona_variables: dict[str, str]) -> Settings:
    given = {name: daytona_variables[f"DAYTONA_{name.upper()}"] for name in ("api_key", "api_url")}
    return Settings(daytona=DaytonaSettings(**given))


@pytest.fixture(scope="module")
def home(settings: Settings) -> Iterator[DaytonaSandboxes]:
    made = DaytonaSandboxes(settings)
    yield made
    made.close()


def test_cells_keep_state_call_us_fail_and_can_be_interrupted(home: DaytonaSandboxes) -> None:
    interpreter: Any = home.open(ROLE)
    interpreter.tools["double"] = lambda n: 2 * n
    try:
        assert interpreter.execute("kept = double(21)\nprint('printed')\nkept") == "printed\n42"
        assert interpreter.execute("len(text)", {"text": "x" * 1_000_000}) == "1000000"
        with pytest.raises(CodeExecutionError, match="ZeroDivisionError"):
            interpreter.execute("1 / 0")
        threading.Timer(1, interpreter.interrupt).start()
        with pytest.raises(CodeExecutionError, match="KeyboardInterrupt"):
            interpreter.execute("while True: pass")
        assert interpreter.execute("kept") == "42"
    finally:
        interpreter.shutdown()
    with pytest.raises(CodeInterpreterError):
        interpreter.execute("1")
    assert home.is_gone(interpreter.sandbox_id, SECONDS)


def test_many_sandboxes_start_at_once_and_are_apart(home: DaytonaSandboxes) -> None:
    def use(number: int) -> str:
        interpreter = home.open(ROLE)
        try:
            interpreter.execute(f"open('mine', 'w').write('{number}')")
            return interpreter.execute("print(open('mine').read())").strip()
        finally:
            interpreter.shutdown()

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(use, range(3))) == ["0", "1", "2"]


def test_a_parent_reads_what_its_child_wrote(home: DaytonaSandboxes) -> None:
    told: list[Any] = []
    parent = home.open(ROLE)
    try:
        parent.execute("secret = 1")
        child = home.child(parent.sandbox_id, Role("s-live", "r-live", "child", 2), on_fact=told.append)
        child.execute("assert 'secret' not in globals()\nopen('artifacts/found.txt', 'w').write('here')")
        child.shutdown()
        (written,) = [fact for fact in told if isinstance(fact, ArtifactWritten)]
        assert parent.execute(f"print(open('{written.path}').read())").strip() == "here"
    finally:
        parent.shutdown()


def test_a_session_finds_its_files_again_and_they_are_seen_from_here(home: DaytonaSandboxes) -> None:
    session = f"s-live-{uuid.uuid4().hex[:8]}"
    for run, code, wanted in (
        ("r-1", "print(open('memory/note', 'w').write('kept'))", "4"),
        ("r-2", "print(open('memory/note').read())", "kept"),
    ):
        interpreter = home.open(Role(session, run, "rlm", 1, is_kept=True))
        try:
            assert interpreter.execute(code).strip() == wanted
        finally:
            interpreter.shutdown()
    files = home.files(session)
    assert files.read("memory/note") == b"kept"
    files.delete("memory/note")


def test_the_smoke_test_passes(settings: Settings) -> None:
    bench = Workbench(settings)
    try:
        assert [(phase.name, phase.text) for phase in bench.smoke() if phase.status != "passed"] == []
    finally:
        bench.close()
