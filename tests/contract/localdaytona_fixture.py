"""A local Daytona server for each level of isolation, shared by the contract tests, and a client for it."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from contract.localdaytona_server import SECONDS, Server, start
from daytona import Daytona


@pytest.fixture(scope="session", params=["L3", "L2", "L1"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with tempfile.TemporaryDirectory() as data:
        os.chmod(data, 0o755)  # at L1 the code runs as another user when the tests run as root
        made = start(Path(data), request.param)
        yield made
        assert made.end() == 0


@pytest.fixture(scope="session")
def client(server: Server) -> Daytona:
    return Daytona(server.config())


@pytest.fixture(scope="session")
def sandbox(client: Daytona) -> Iterator[Any]:
    """One sandbox that tests share when they leave nothing behind in it."""
    made = client.create(timeout=SECONDS)
    yield made
    made.delete(SECONDS)
