"""What a sandbox may use up: memory, processes and disk, each tried beyond its limit."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from contract.localdaytona_server import SECONDS, Server, start, until
from daytona import CreateSandboxFromImageParams, Daytona, Resources

HOG = """
import os, time
for _ in range({processes}):
    if os.fork() == 0:
        held = bytearray({megabytes} << 20)
        time.sleep(60)
        os._exit(0)
count = 0
while True:
    pid, status = os.wait()
    print("killed" if os.WIFSIGNALED(status) else "ended", os.WTERMSIG(status), flush=True)
    break
"""


@pytest.fixture(scope="module", params=["L3", "L2", "L1"])
def tight(request: pytest.FixtureRequest) -> Iterator[Server]:
    with tempfile.TemporaryDirectory() as data:
        Path(data).chmod(0o755)
        made = start(Path(data), request.param, "--memory-mb", "150", "--disk-mb", "30", "--minute-seconds", "4")
        yield made
        assert made.end() == 0


@pytest.fixture
def sandbox(tight: Server) -> Iterator[Any]:
    made = Daytona(tight.config()).create(timeout=SECONDS)
    yield made
    made.delete(SECONDS)


def test_one_process_meets_an_error_that_it_can_catch(sandbox: Any) -> None:
    done = sandbox.process.code_run("try: bytearray(400 << 20)\nexcept MemoryError: print('caught')", timeout=20)
    assert done.result == "caught\n"


def test_many_processes_together_have_no_more_memory(tight: Server, sandbox: Any) -> None:
    if "memory" not in tight.ready["limits"] or "memory per process" in tight.ready["limits"]:
        pytest.skip(f"limits here are {tight.ready['limits']}")
    code = HOG.format(processes=4, megabytes=90)
    assert sandbox.process.code_run(code, timeout=SECONDS).result == "killed 9\n"
    assert sandbox.process.exec("echo on", timeout=10).result == "on\n"


BOMB = """
import os, time
count = 0
try:
    while count < 120:
        if os.fork() == 0: time.sleep(60); os._exit(0)
        count += 1
except OSError as err: pass
print(count)
"""


def test_a_sandbox_has_as_many_processes_as_fit_its_memory_and_where_nothing_bounds_them_more(
    tight: Server, sandbox: Any
) -> None:
    most = 150 // 4
    count = int(sandbox.process.code_run(BOMB, timeout=SECONDS).result)
    is_counted = tight.level == "L3" or "pids" in tight.ready["limits"]
    if is_counted:
        assert 10 < count < most
    else:
        assert count == 120, "the control: nothing stops it here, so that the test could fail"


def test_the_kernel_takes_a_sandbox_before_others_when_memory_runs_out(sandbox: Any) -> None:
    assert sandbox.process.exec("cat /proc/self/oom_score_adj", timeout=5).result == "1000\n"


FILL = "(head -c 60000000 /dev/zero > filler; exec sleep 50) > /dev/null 2>&1 &"


def test_a_sandbox_that_fills_the_disk_is_stopped_and_says_so(tight: Server, sandbox: Any) -> None:
    client = Daytona(tight.config())
    sandbox.process.exec(f"mkdir deep; cd deep; {FILL}", timeout=5)
    until(lambda: client.get(sandbox.id).state == "error")
    assert "30 MB" in str(client.get(sandbox.id).error_reason)


def test_the_disk_asked_for_is_the_limit(tight: Server, sandbox: Any) -> None:
    client = Daytona(tight.config())
    wanted = CreateSandboxFromImageParams(image="python:3.11", resources=Resources(disk=1))
    roomy = client.create(wanted, timeout=SECONDS)
    for one in (roomy, sandbox):
        one.process.exec(FILL, timeout=5)
    until(lambda: client.get(sandbox.id).state == "error")
    assert client.get(roomy.id).state == "started"
    roomy.delete(SECONDS)


def test_no_group_is_left_when_a_sandbox_is_gone(tight: Server) -> None:
    client = Daytona(tight.config())
    if tight.ready["limits"].startswith("per process"):
        pytest.skip("no groups here")
    sandbox = client.create(timeout=SECONDS)
    groups = list(Path("/sys/fs/cgroup").rglob(f"*.{sandbox.id}"))
    assert groups
    sandbox.delete(SECONDS)
    until(lambda: not any(group.exists() for group in groups), 5)
