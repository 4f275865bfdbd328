"""`Sandboxes`: one suite over the real SDK on the local server and the plain ones for tests; faults of the line."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import daytona
import pytest
from contract.faulty_line import Fault, FaultyLine, refusal
from contract.localdaytona_server import KEY, SECONDS, Server, live_sandboxes, until
from dspy.primitives.code_interpreter import CodeExecutionError, CodeInterpreterError

from fleet_rlm_jupyter.domain.errors import (
    BadSettings,
    FleetError,
    OutcomeUnknown,
    SandboxError,
    SandboxLost,
    SandboxUnavailable,
)
from fleet_rlm_jupyter.domain.ports import Role
from fleet_rlm_jupyter.sandbox import creation, local, machine
from fleet_rlm_jupyter.sandbox.daytona import DaytonaSandboxes
from fleet_rlm_jupyter.sandbox.labels import APP
from fleet_rlm_jupyter.sandbox.service_errors import pause_before_retry, translated
from fleet_rlm_jupyter.settings import DaytonaSettings, SandboxSettings, Settings
from fleet_rlm_jupyter.testing import UnisolatedSandboxes

pytest_plugins = ["contract.remote_fixture"]

ROLE = Role("s-1", "r-1", "rlm", 1)
CHILD = Role("s-1", "r-1", "child", 2)


def sandbox_settings(**given: Any) -> Settings:
    return Settings(sandbox=SandboxSettings(**given))


@pytest.fixture(scope="module", params=["local server", "plain"])
def home(request: pytest.FixtureRequest) -> Iterator[Any]:
    if request.param == "plain":
        made: Any = UnisolatedSandboxes()
    else:
        made = DaytonaSandboxes(sandbox_settings(allow_unisolated=True))
    yield made
    made.close()


def test_a_sandbox_lives_from_start_to_shutdown(home: Any) -> None:
    interpreter = home.open(ROLE)
    assert interpreter.sandbox_id == ""
    interpreter.start()
    first = interpreter.sandbox_id
    interpreter.start()
    assert first
    assert interpreter.sandbox_id == first
    assert interpreter.execute("print(6 * 7)").strip() == "42"
    interpreter.shutdown()
    interpreter.shutdown()
    with pytest.raises(CodeInterpreterError):
        interpreter.execute("1")


def test_a_child_sees_nothing_of_its_parent(home: Any) -> None:
    parent = home.open(ROLE)
    parent.execute("secret = 1")
    child = home.child(parent.sandbox_id, CHILD)
    try:
        assert child.execute("print('secret' in globals())").strip() == "False"
        assert child.sandbox_id != parent.sandbox_id
    finally:
        child.shutdown()
        parent.shutdown()


def test_many_are_opened_from_many_threads_at_once(home: Any) -> None:
    def use(number: int) -> tuple[str, str]:
        interpreter = home.open(ROLE)
        try:
            text = interpreter.execute(f"kept = {number}\nprint(kept)")
            return interpreter.sandbox_id, text.strip()
        finally:
            interpreter.shutdown()

    with ThreadPoolExecutor(6) as pool:
        done = list(pool.map(use, range(6)))
    assert [text for _, text in done] == [str(number) for number in range(6)]
    assert len({sandbox_id for sandbox_id, _ in done}) == 6


def test_isolation_is_told(home: Any) -> None:
    assert home.isolation.level in ("L1", "L3")
    assert home.isolation.label


# --- what is specific to the real ones ------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty TMPDIR, where the local server keeps its folders."""
    short = Path(f"/tmp/fleet-t{os.getpid()}-{time.monotonic_ns() % 10**6}")
    short.mkdir(mode=0o755)
    monkeypatch.setenv("TMPDIR", str(short))
    yield short
    subprocess.run(["rm", "-rf", str(short)], check=False)


def processes_under(folder: Path) -> list[int]:
    """Processes whose environment or command names `folder`: the server, its fork server, what runs in sandboxes."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if str(folder).encode() in (entry / "environ").read_bytes() + (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
    return found


def test_close_leaves_no_process_and_no_folder(folder: Path) -> None:
    sandboxes = DaytonaSandboxes(sandbox_settings(allow_unisolated=True))
    one, other = sandboxes.open(ROLE), sandboxes.open(ROLE)
    one.execute("1")
    other.execute("import subprocess\nsubprocess.Popen(['sleep', '1000'])")
    assert list(folder.iterdir())
    assert processes_under(folder)
    sandboxes.close()
    sandboxes.close()
    until(lambda: not processes_under(folder))
    until(lambda: not list(folder.iterdir()))
    for use in (lambda: one.execute("1"), sandboxes.open(ROLE).start):
        with pytest.raises((CodeInterpreterError, SandboxUnavailable)):
            use()


def test_close_from_another_thread_wakes_every_running_cell() -> None:
    sandboxes = DaytonaSandboxes(sandbox_settings())
    interpreters = [sandboxes.open(ROLE) for _ in range(3)]
    running = threading.Barrier(4, timeout=SECONDS)

    def use(interpreter: Any, source: str) -> BaseException:
        interpreter.tools["running"] = lambda: running.wait() and None
        with pytest.raises(Exception) as caught:
            interpreter.execute(f"running()\n{source}")
        return caught.value

    sources = ["while True: pass", "import time; time.sleep(1000)", "running()"]
    with ThreadPoolExecutor(3) as pool:
        jobs = [pool.submit(use, *pair) for pair in zip(interpreters, sources, strict=True)]
        running.wait()
        begun = time.monotonic()
        sandboxes.close()
        for job in jobs:
            assert isinstance(job.result(SECONDS), CodeInterpreterError)
        running.abort()
    assert time.monotonic() - begun < 10


def test_close_while_sandboxes_start_leaves_nobody_waiting(folder: Path) -> None:
    sandboxes = DaytonaSandboxes(sandbox_settings())
    assert sandboxes.isolation.level
    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(sandboxes.open(ROLE).start) for _ in range(4)]
        sandboxes.close()
        for job in jobs:
            error = job.exception(SECONDS)
            assert error is None or isinstance(error, FleetError), error
    until(lambda: not processes_under(folder))
    until(lambda: not list(folder.iterdir()))


def test_what_is_asked_after_close_is_refused_and_does_not_hang() -> None:
    sandboxes = DaytonaSandboxes(sandbox_settings())
    interpreter = sandboxes.open(ROLE)
    sandboxes.close()
    with pytest.raises(SandboxUnavailable, match="closed"):
        interpreter.start()
    with pytest.raises(SandboxUnavailable, match="closed"):
        assert sandboxes.isolation


def test_a_lost_server_is_said_and_nothing_restarts_silently() -> None:
    sandboxes = DaytonaSandboxes(sandbox_settings())
    interpreter = sandboxes.open(ROLE)
    try:
        interpreter.execute("kept = 1")
        server = sandboxes.client.server()
        assert server is not None
        threading.Timer(0.2, server._process.kill).start()
        with pytest.raises(CodeInterpreterError) as caught:
            interpreter.execute("while True: pass")
        assert isinstance(caught.value.__cause__, SandboxError)
        with pytest.raises(CodeInterpreterError, match="over"):
            interpreter.execute("kept")
    finally:
        sandboxes.close()


SCRIPT = """
import sys, os, time
import fleet_rlm_jupyter as fleet
interpreter = fleet.interpreter()
print(interpreter.execute("6 * 7"), flush=True)
{then}
"""


def run_script(folder: Path, then: str) -> subprocess.Popen[bytes]:
    env = {**os.environ, "FLEET_SANDBOX__ALLOW_UNISOLATED": "1", "TMPDIR": str(folder)}
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT.format(then=then)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env
    )
    assert process.stdout.readline() == b"42\n", process.stderr.read().decode()
    return process


def test_a_killed_process_leaves_nothing_behind(folder: Path) -> None:
    process = run_script(folder, "interpreter.execute('import time; time.sleep(1000)')")
    process.send_signal(signal.SIGKILL)
    process.wait(SECONDS)
    until(lambda: not processes_under(folder))
    until(lambda: not list(folder.iterdir()))


@pytest.mark.parametrize(
    "then",
    [
        pytest.param("", id="without closing anything"),
        pytest.param("import dspy; interpreter.tools['hang'] = lambda: time.sleep(1000)\n"
                     "import threading\n"
                     "threading.excepthook = lambda told: None  # the cell is lost in the end, which is right\n"
                     "threading.Thread(target=lambda: interpreter.execute('hang()'), daemon=True).start()\n"
                     "time.sleep(0.3)", id="with a hung tool"),
    ],
)  # fmt: skip
def test_a_process_ends_by_itself_and_leaves_nothing_behind(folder: Path, then: str) -> None:
    process = run_script(folder, then)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 0
    assert b"Traceback" not in said, said.decode()
    until(lambda: not processes_under(folder))
    until(lambda: not list(folder.iterdir()))


def test_one_default_workbench_serves_many_threads_at_once(folder: Path) -> None:
    script = """
import gc, sys, concurrent.futures
import fleet_rlm_jupyter as fleet
def use(n):
    interpreter = fleet.interpreter()
    try: return interpreter.execute(f"print({n})")
    finally: interpreter.shutdown()
with concurrent.futures.ThreadPoolExecutor(6) as pool:
    print(",".join(pool.map(use, range(6))))
print(sum(isinstance(one, fleet.sandbox.daytona.DaytonaSandboxes) for one in gc.get_objects()))
"""
    env = {**os.environ, "FLEET_SANDBOX__ALLOW_UNISOLATED": "1"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, env=env, timeout=60, check=False)
    assert done.stdout == b"0,1,2,3,4,5\n1\n", done.stderr.decode()
    until(lambda: not list(folder.iterdir()))


# --- levels and settings --------------------------------------------------------------------------------------------


def test_unisolated_code_of_a_model_is_refused_and_ours_is_not() -> None:
    refusing = DaytonaSandboxes(sandbox_settings(level="L1"))
    with pytest.raises(BadSettings, match="L1 does not isolate") as caught:
        refusing.open(ROLE).start()
    assert "allow_unisolated" in caught.value.hint
    refusing.close()
    trusting = DaytonaSandboxes(sandbox_settings(level="L1"), trusted_code=True)
    interpreter = trusting.open(ROLE)
    assert interpreter.execute("1 + 1") == "2"
    assert "NOT isolated" in trusting.isolation.label
    trusting.close()


def test_network_is_daytonas_alone() -> None:
    sandboxes = DaytonaSandboxes(sandbox_settings(network=True))
    with pytest.raises(BadSettings, match="no network"):
        sandboxes.open(ROLE).start()
    sandboxes.close()


def test_memory_and_seconds_are_those_of_the_settings() -> None:
    sandboxes = DaytonaSandboxes(sandbox_settings(memory_mb=512, cell_seconds=2))
    interpreter = sandboxes.open(ROLE)
    try:
        assert interpreter.execute("kept = bytearray(100 << 20)\nlen(kept)") == str(100 << 20)
        with pytest.raises(CodeExecutionError, match="MemoryError"):
            interpreter.execute("bytearray(600 << 20)")
        with pytest.raises(CodeExecutionError, match="KeyboardInterrupt"):
            interpreter.execute("while True: pass")
        assert interpreter.execute("len(kept)") == str(100 << 20)
    finally:
        sandboxes.close()


@pytest.mark.parametrize(
    ("script", "kind", "said"),
    [
        ('echo \'{"error": {"code": "not_isolated", "text": "no namespaces", "hint": "h"}}\'', BadSettings, "no names"),
        ('echo \'{"error": {"code": "no_permission", "text": "denied", "hint": "h"}}\'', SandboxUnavailable, "denied"),
        ('echo \'{"error": {"code": "port_in_use", "text": "in use", "hint": "h"}}\'', SandboxUnavailable, "in use"),
        ("echo Traceback; exit 1", SandboxUnavailable, "ended at once"),
        ("exit 3", SandboxUnavailable, "ended at once with code"),
        ("exec sleep 1000", SandboxUnavailable, "did not start within"),
    ],
)
def test_a_server_that_cannot_start_is_one_sentence_and_a_next_step(
    script: str, kind: type[FleetError], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(local, "START_SECONDS", 0.5)
    monkeypatch.setattr(sys, "executable", str(program))
    sandboxes = DaytonaSandboxes(sandbox_settings())
    with pytest.raises(kind, match=said) as caught:
        sandboxes.open(ROLE).start()
    assert caught.value.hint
    sandboxes.close()


def test_a_proxy_in_the_environment_does_not_stand_between(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("NO_PROXY", "example.org")
    sandboxes = DaytonaSandboxes(sandbox_settings())
    try:
        assert sandboxes.open(ROLE).execute("1 + 1") == "2"
        assert os.environ["NO_PROXY"].startswith("example.org,")
    finally:
        sandboxes.close()


# --- faults of the service ------------------------------------------------------------------------------------------


def test_labels_say_whose_a_sandbox_is_and_closing_deletes_it(remote: DaytonaSandboxes, service: Server) -> None:
    interpreter = remote.open(ROLE)
    interpreter.start()
    (labels,) = live_sandboxes(service)
    del labels["instance"], labels["code-toolbox-language"]
    assert labels == {"app": APP, "session": "s-1", "run": "r-1", "role": "rlm", "depth": "1"}
    remote.close()
    assert live_sandboxes(service) == []


def test_shutdown_deletes_the_sandbox_in_the_background(remote: DaytonaSandboxes, service: Server) -> None:
    interpreter = remote.open(ROLE)
    interpreter.start()
    interpreter.shutdown()
    until(lambda: live_sandboxes(service) == [])


def test_a_sandbox_whose_deletion_failed_is_swept_at_the_end(
    remote: DaytonaSandboxes, service: Server, line: FaultyLine
) -> None:
    interpreter = remote.open(ROLE)
    interpreter.start()
    line.faults.append(Fault("DELETE /api/sandbox/", refusal(409), times=1))
    interpreter.shutdown()
    until(lambda: line.faults[0].times == 0)
    assert len(live_sandboxes(service)) == 1
    remote.close()
    assert live_sandboxes(service) == []


def test_too_many_requests_are_waited_out_as_the_service_asks(remote: DaytonaSandboxes, line: FaultyLine) -> None:
    line.faults.append(Fault("POST /api/sandbox$", refusal(429, Retry_After_sandbox_create="0.3"), times=2))
    begun = time.monotonic()
    interpreter = remote.open(ROLE)
    interpreter.start()
    assert time.monotonic() - begun > 0.6
    assert line.count("POST /api/sandbox$") == 3
    assert interpreter.execute("1 + 1") == "2"


def test_a_wait_that_is_too_long_is_told_at_once(remote: DaytonaSandboxes, line: FaultyLine) -> None:
    line.faults.append(Fault("POST /api/sandbox$", refusal(429, Retry_After_sandbox_create="3000"), times=9))
    begun = time.monotonic()
    with pytest.raises(SandboxUnavailable, match="too many requests") as caught:
        remote.open(ROLE).start()
    assert "3000 seconds" in caught.value.hint
    assert time.monotonic() - begun < 10
    assert line.count("POST /api/sandbox$") == 1


@pytest.mark.parametrize("fault", [refusal(500), refusal(502), refusal(503)], ids=["500", "502", "503"])
def test_a_creation_that_may_have_happened_is_not_repeated(
    fault: bytes, remote: DaytonaSandboxes, line: FaultyLine
) -> None:
    line.faults.append(Fault("POST /api/sandbox$", fault, times=9))
    with pytest.raises(SandboxUnavailable):
        remote.open(ROLE).start()
    assert line.count("POST /api/sandbox$") == 1


@pytest.mark.parametrize("fault", [refusal(502), refusal(429, Retry_After_x="0.1"), b""], ids=["502", "429", "broken"])
def test_what_may_run_twice_is_repeated(fault: bytes, remote: DaytonaSandboxes, line: FaultyLine) -> None:
    for pattern in (
        "POST .*/process/execute",
        "POST .*/files/bulk-upload",
        "GET .*/files/bulk-download",
        "POST .*/files/upload",
    ):
        line.faults.append(Fault(pattern, fault))
    interpreter = remote.open(ROLE)
    interpreter.tools["same"] = lambda text: text
    big = "x" * 400_000
    assert interpreter.execute("same(text) == text", {"text": big}) == "True"
    interpreter.shutdown()


def test_a_creation_that_takes_too_long_is_undone(
    remote: DaytonaSandboxes, line: FaultyLine, service: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(creation, "CREATE_SECONDS", 1)
    body = json.dumps(
        {
            **_any_sandbox(service),
            "state": "creating",
        }
    ).encode()
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
    identifier = json.loads(body)["id"]
    line.faults.append(Fault("POST /api/sandbox$", head % len(body) + body))
    line.faults.append(Fault(f"GET /api/sandbox/{identifier}", head % len(body) + body, times=99))
    with pytest.raises(SandboxUnavailable, match="in time"):
        remote.open(ROLE).start()
    assert line.count(f"DELETE /api/sandbox/{identifier}") >= 1
    line.faults.clear()
    until(lambda: live_sandboxes(service) == [])


def _any_sandbox(service: Server) -> dict[str, Any]:
    """The wire form of a sandbox that exists."""
    import urllib.request

    client = daytona.Daytona(service.config())
    made = client.create()
    request = urllib.request.Request(f"{service.url}/sandbox/{made.id}", headers={"Authorization": f"Bearer {KEY}"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)


@pytest.mark.parametrize(
    ("answer", "kind", "said", "hint"),
    [
        (refusal(401), BadSettings, "refused the key", "DAYTONA_API_KEY"),
        (refusal(403), BadSettings, "lacks a permission", "create"),
        (refusal(400, "Total CPU limit exceeded. Maximum allowed: 10."), SandboxUnavailable, "quota", "budget.sand"),
        (refusal(403, "quota"), BadSettings, "lacks a permission", "create"),
        (refusal(400, "nonsense"), SandboxUnavailable, "nonsense", "doctor"),
        (refusal(400, "Region eu-x is not available"), SandboxUnavailable, "region", "daytona.target"),
        (refusal(404, "No available runners"), SandboxUnavailable, "region", "daytona.target"),
        (b"", SandboxUnavailable, "cannot be reached", "DAYTONA_API_URL"),
        (b"not http at all\r\n\r\n", SandboxUnavailable, "", "again"),
    ],
    ids=["401", "403", "quota", "403 quota", "400", "region", "no runner", "broken", "garbage"],
)
def test_a_refusal_is_told_with_the_next_step(
    answer: bytes, kind: type[FleetError], said: str, hint: str, remote: DaytonaSandboxes, line: FaultyLine
) -> None:
    line.faults.append(Fault("POST /api/sandbox$", answer, times=9))
    with pytest.raises(kind, match=said) as caught:
        remote.open(ROLE).start()
    assert hint in caught.value.hint


def test_a_wrong_key_is_told(service: Server) -> None:
    sandboxes = DaytonaSandboxes(Settings(daytona=DaytonaSettings(api_key="wrong-key-000", api_url=service.url)))
    with pytest.raises(BadSettings, match="refused the key"):
        sandboxes.open(ROLE).start()
    sandboxes.close()


@pytest.mark.usefixtures("no_pauses")
def test_an_address_where_nobody_answers_is_told() -> None:
    settings = DaytonaSettings(api_key=KEY, api_url="http://127.0.0.1:9/api")
    sandboxes = DaytonaSandboxes(Settings(daytona=settings))
    with pytest.raises(SandboxUnavailable, match="cannot be reached"):
        sandboxes.open(ROLE).start()
    sandboxes.close()


def test_a_terminal_that_cannot_be_had_leaves_no_sandbox(
    remote: DaytonaSandboxes, line: FaultyLine, service: Server
) -> None:
    line.faults.append(Fault("GET .*/process/pty/", refusal(500), times=9))
    with pytest.raises(SandboxUnavailable):
        remote.open(ROLE).start()
    until(lambda: live_sandboxes(service) == [])


def test_a_broken_line_loses_nothing_and_repeats_no_callback(remote: DaytonaSandboxes, line: FaultyLine) -> None:
    interpreter = remote.open(ROLE)
    ticks: list[int] = []
    cuts = {3, 10, 11, 25}

    def tick(number: int) -> int:
        ticks.append(number)
        if number in cuts:
            line.cut()
        return number

    interpreter.tools["tick"] = tick
    source = "for n in range(30):\n    print('line', n, 'x' * 200)\n    assert tick(n) == n"
    assert interpreter.execute(source).splitlines() == [f"line {n} {'x' * 200}" for n in range(30)]
    assert ticks == list(range(30))
    assert interpreter.execute("n") == "29"
    interpreter.shutdown()


def test_a_line_cut_at_any_moment_loses_nothing(remote: DaytonaSandboxes, line: FaultyLine) -> None:
    interpreter = remote.open(ROLE)
    interpreter.start()
    over = threading.Event()

    def cut_now_and_then() -> None:
        for number in range(8):
            if over.wait(0.03 + 0.05 * (number % 3)):
                return
            line.cut()

    cutter = threading.Thread(target=cut_now_and_then, daemon=True)
    cutter.start()
    counted: list[int] = []
    interpreter.tools["count"] = counted.append
    source = "for n in range(400):\n    print(n)\n    if n % 4 == 0: count(n)"
    for round_number in range(5):
        counted.clear()
        assert interpreter.execute(source).split() == [str(n) for n in range(400)], round_number
        assert counted == list(range(0, 400, 4))
    over.set()
    cutter.join(SECONDS)
    interpreter.shutdown()


def test_a_line_that_stays_broken_ends_the_session(
    remote: DaytonaSandboxes, line: FaultyLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "_RECONNECT_AFTER", (0.0, 0.1))
    interpreter = remote.open(ROLE)

    def break_down() -> None:
        line.is_down = True
        line.cut(only_sockets=False)

    interpreter.tools["break_down"] = break_down
    with pytest.raises(CodeInterpreterError, match="line") as caught:
        interpreter.execute("break_down()\nwhile True: pass")
    assert isinstance(caught.value.__cause__, OutcomeUnknown), "nobody knows whether the cell came to its end"
    assert line.count("POST /api/sandbox$") == 1, "it is not run again elsewhere"


# --- errors ---------------------------------------------------------------------------------------------------------


def _error_classes() -> list[type[Exception]]:
    found: dict[str, type[Exception]] = {}
    for name in dir(daytona):
        value = getattr(daytona, name)
        if isinstance(value, type) and issubclass(value, daytona.DaytonaError):
            found[value.__name__] = value
    return [found[name] for name in sorted(found)]


EXPECTED: dict[str, type[FleetError]] = {
    "DaytonaAuthenticationError": BadSettings,
    "DaytonaForbiddenError": BadSettings,
    "DaytonaFileAccessDeniedError": SandboxError,
    "DaytonaFileNotFoundError": SandboxError,
    "DaytonaNotFoundError": SandboxLost,
    "DaytonaGoneError": SandboxLost,
    "DaytonaSessionEndedError": SandboxLost,
    "DaytonaProcessNotFoundError": SandboxLost,
    "DaytonaRateLimitError": SandboxUnavailable,
    "DaytonaTimeoutError": SandboxUnavailable,
    "DaytonaConnectionError": SandboxUnavailable,
    "DaytonaInternalServerError": SandboxUnavailable,
}


@pytest.mark.parametrize("kind", _error_classes(), ids=lambda kind: kind.__name__)
def test_every_error_of_the_sdk_becomes_one_of_ours_with_a_next_step(kind: type[Exception]) -> None:
    ours = translated(kind("what happened"))
    assert isinstance(ours, SandboxError | BadSettings)
    assert ours.text
    assert ours.hint
    if kind.__name__ in EXPECTED:
        assert type(ours) is EXPECTED[kind.__name__]


@pytest.mark.parametrize("error", [TimeoutError(), OSError("x"), ConnectionResetError()], ids=repr)
def test_errors_of_the_line_become_ours_too(error: Exception) -> None:
    assert isinstance(translated(error), SandboxUnavailable)


def test_what_a_service_does_not_offer_is_said_with_where_it_is_to_be_had() -> None:
    ours = translated(daytona.DaytonaError("the local server makes no snapshots", status_code=501))
    assert ours.text == "this sandbox service does not offer that: the local server makes no snapshots"
    assert "DAYTONA_API_KEY" in ours.hint


def test_a_full_disk_is_named() -> None:
    ours = translated(daytona.DaytonaError("write /x: No space left on device", status_code=500))
    assert "disk is full" in ours.text
    assert pause_before_retry(daytona.DaytonaError("No space left on device", status_code=507), 1) is None


@pytest.mark.parametrize(
    ("error", "pause"),
    [
        (daytona.DaytonaRateLimitError("x", 429, {"Retry-After-General": "7"}), 7.0),
        (daytona.DaytonaRateLimitError("x", 429, {"retry-after": "0"}), 0.0),
        (daytona.DaytonaRateLimitError("x", 429, {"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}), ...),
        (daytona.DaytonaRateLimitError("x", 429, {"Retry-After-General": "600"}), None),
        (daytona.DaytonaRateLimitError("x", 429), ...),
        (daytona.DaytonaBadGatewayError("x", 502), ...),
        (daytona.DaytonaConnectionError("x"), ...),
        (daytona.DaytonaBadRequestError("x", 400), None),
        (daytona.DaytonaError("x", 501), None),
        (daytona.DaytonaNotFoundError("x", 404), None),
        (daytona.DaytonaAuthenticationError("x", 401), None),
        (daytona.DaytonaError("x"), None),
    ],
    ids=repr,
)
def test_only_what_may_pass_is_tried_again_and_no_longer_than_bearable(error: Any, pause: Any) -> None:
    found = pause_before_retry(error, 1)
    if pause is ...:
        assert 0 < found <= 1
    else:
        assert found == pause
