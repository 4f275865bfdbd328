"""The API is tried as its description says, by schemathesis: whatever is sent, no answer is 5xx or off its schema."""

from __future__ import annotations

import os

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance
from worker_thread import WorkerThread

from fleet_rlm_jupyter.server import openapi
from fleet_rlm_jupyter.server.routes import ROUTES
from fleet_rlm_jupyter.testing import ScriptedEngine, code, scripted_workbench

EXAMPLES = 50 if os.environ.get("HYPOTHESIS_PROFILE") == "soak" else 3
SLOW = {"/ready", "/checks", "/ws"}
"""They start a sandbox, or are no HTTP."""

CHECKS = [not_a_server_error, response_schema_conformance, content_type_conformance]

schema = schemathesis.openapi.from_dict(openapi.describe(e for e in ROUTES if e.path not in SLOW))
schema = schema.exclude(path="/ws")


@pytest.fixture(scope="module")
def worker():
    thread = WorkerThread(scripted_workbench(ScriptedEngine(lambda prompt: code("SUBMIT(answer='yes')"))))
    yield thread
    thread.close()


# Not `schema.parametrize`: its tests all have one name, of which pytest-xdist runs only one.
OPERATIONS = [found.ok() for found in schema.get_all_operations()]


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.label)
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
@given(data=st.data())
def test_every_route_keeps_to_its_description(operation, data, worker):
    case = data.draw(operation.as_strategy())
    case.call_and_validate(
        base_url=f"{worker.url}/fleet/api/v1", headers=worker.headers("schemathesis"), checks=CHECKS, timeout=60
    )
