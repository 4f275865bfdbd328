"""A Workbench here, and the same one as a server holds it, with a model that answers by the test file's `reply`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from worker_thread import WorkerThread

from fleet_rlm_jupyter.remote import RemoteWorkbench
from fleet_rlm_jupyter.testing import ScriptedEngine, scripted_workbench
from fleet_rlm_jupyter.workbench import Workbench


@pytest.fixture(scope="module")
def engine(request: pytest.FixtureRequest) -> ScriptedEngine:
    return ScriptedEngine(request.module.reply)


@pytest.fixture(scope="module")
def worker(engine: ScriptedEngine) -> Iterator[WorkerThread]:
    thread = WorkerThread(scripted_workbench(engine))
    yield thread
    thread.close()


@pytest.fixture(params=["here", "remote"])
def bench(request: pytest.FixtureRequest, worker: WorkerThread) -> Workbench | RemoteWorkbench:
    """As a user sees it whom no other test has."""
    user = f"{request.param} {request.node.name}"
    if request.param == "here":
        return worker.bench.seen_by(user)
    return RemoteWorkbench(worker.url, headers=worker.headers(user))
