"""A local server that stands for Daytona's cloud, behind a line that can fail, and our sandboxes on it."""

from __future__ import annotations

import atexit
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from contract.faulty_line import FaultyLine
from contract.localdaytona_server import KEY, Server, start

from fleet_rlm_jupyter.sandbox import retries
from fleet_rlm_jupyter.sandbox.daytona import DaytonaSandboxes
from fleet_rlm_jupyter.settings import DaytonaSettings, SandboxSettings, Settings
from fleet_rlm_jupyter.testing import MemoryAllocations


@pytest.fixture(scope="module")
def service() -> Iterator[Server]:
    data = Path(f"/tmp/fleet-data-{os.getpid()}")
    data.mkdir(mode=0o755)
    made = start(data, "auto")
    yield made
    assert made.end() == 0
    subprocess.run(["rm", "-rf", str(data)], check=False)


@pytest.fixture
def line(service: Server) -> Iterator[FaultyLine]:
    made = FaultyLine(service.url)
    yield made
    made.close()
    service.clear_faults()


@pytest.fixture
def remote(line: FaultyLine) -> Iterator[DaytonaSandboxes]:
    """Sandboxes as Daytona's cloud would give them, through a line that can fail."""
    made = DaytonaSandboxes(Settings(daytona=DaytonaSettings(api_key=KEY, api_url=line.url)))
    yield made
    line.is_down = False
    line.faults.clear()
    made.close()
    atexit.unregister(made.close)


@pytest.fixture
def opened(line: FaultyLine):
    """Makes sandboxes as at Daytona, each as another process would have them, with a journal and settings."""
    made: list[DaytonaSandboxes] = []

    def make(journal: MemoryAllocations | None = None, **settings: Any) -> DaytonaSandboxes:
        cloud = DaytonaSettings(api_key=KEY, api_url=line.url)
        made.append(DaytonaSandboxes(Settings(daytona=cloud, sandbox=SandboxSettings(**settings)), journal))
        return made[-1]

    yield make
    line.faults.clear()
    for one in made:
        one.close()


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """What failed is tried again at once."""
    monkeypatch.setattr(retries, "pause_before_retry", lambda err, attempt: 0.0)
