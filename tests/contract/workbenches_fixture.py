"""A Workbench here, and the same one as a server holds it, with a model that answers by the test file's `reply`."""

from __future__ import annotations

from collections.abc import Callable, Iterator

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
def seen(request: pytest.FixtureRequest, worker: WorkerThread) -> Callable[..., Workbench | RemoteWorkbench]:
    """The Workbench as a user of that name sees it, whom no other test has."""

    def as_user(name: str = "ann") -> Workbench | RemoteWorkbench:
        user = f"{request.param} {request.node.name} {name}"
        if request.param == "here":
            return worker.bench.seen_by(user)
        return RemoteWorkbench(worker.url, headers=worker.headers(user))

    return as_user


@pytest.fixture
def bench(seen: Callable[..., Workbench | RemoteWorkbench]) -> Workbench | RemoteWorkbench:
    return seen()
