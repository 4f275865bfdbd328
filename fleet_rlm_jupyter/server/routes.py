"""The table of all routes: each function translates one request into a verb, and what the verb says into an answer."""

from __future__ import annotations

from pydantic import TypeAdapter

import fleet_rlm_jupyter
from fleet_rlm_jupyter.domain.api import API_VERSION
from fleet_rlm_jupyter.domain.question import Check, Phase
from fleet_rlm_jupyter.server import (
    file_routes,
    memory_routes,
    openapi,
    optimization_routes,
    program_routes,
    run_routes,
    sandbox_routes,
    session_routes,
    snapshot_routes,
)
from fleet_rlm_jupyter.server.desk import Asked
from fleet_rlm_jupyter.server.schema import (
    CheckResult,
    Checks,
    Identity,
    SettingsList,
    SmokeBody,
    Status,
    UpdatesBody,
    Worker,
)
from fleet_rlm_jupyter.server.web import Endpoint, Raw


def status(asked: Asked) -> Status:
    """Who is here. The Jupyter server answers this itself and does not wake its worker for it."""
    worker = Worker(state="running", running=asked.desk.feeds.count)
    version = fleet_rlm_jupyter.__version__
    return Status(version=version, api=API_VERSION, user=asked.user, where="worker", worker=worker)


def identity(asked: Asked) -> Identity:
    """Who is asking, and whose sessions they see. The Jupyter server, which knows, answers this itself."""
    return Identity(user=asked.user, username=asked.user, name=asked.user, provider="worker")


def ready(asked: Asked) -> Checks:
    """Whether runs can start, and what is missing; a good look lasts a minute."""
    return _checks(asked.desk.readiness.last())


def check(asked: Asked) -> Checks:
    """Look at model, sandbox and store now: starts a sandbox and runs one cell."""
    return _checks(asked.desk.readiness.now())


def smoke(asked: Asked, body: SmokeBody) -> Raw:
    """Try one sandbox from its creation to its end: a line of JSON for each phase, as it ends."""
    told, mask = TypeAdapter(Phase), asked.bench.mask
    phases = asked.bench.smoke(body.repo_url, body.repo_ref)
    lines = (f"{mask(told.dump_json(phase).decode())}\n".encode() for phase in phases)
    return Raw(lines, "application/x-ndjson", is_live=True)


def settings(asked: Asked) -> SettingsList:
    """Every setting with its value and where that came from; keys are stars."""
    return SettingsList(settings=asked.bench.settings_view.get())


def change_settings(asked: Asked, body: UpdatesBody) -> SettingsList:
    """Change settings for the runs to come; all of them or, where one cannot be, none."""
    return SettingsList(settings=asked.bench.settings_view.patch(body.updates))


def description(asked: Asked) -> Raw:
    """This API, as OpenAPI."""
    return Raw([openapi.text(ROUTES).encode()], "application/json")


ROUTES: tuple[Endpoint, ...] = (
    Endpoint("GET", "/status", status),
    Endpoint("GET", "/identity", identity),
    Endpoint("GET", "/ready", ready),
    Endpoint("POST", "/checks", check),
    Endpoint("POST", "/smoke", smoke),
    Endpoint("GET", "/settings", settings),
    Endpoint("PATCH", "/settings", change_settings),
    Endpoint("GET", "/openapi.json", description),
    *run_routes.ROUTES,
    *session_routes.ROUTES,
    *file_routes.ROUTES,
    *program_routes.ROUTES,
    *optimization_routes.ROUTES,
    *memory_routes.ROUTES,
    *snapshot_routes.ROUTES,
    *sandbox_routes.ROUTES,
)


def _checks(found: list[Check]) -> Checks:
    results = [CheckResult(name=check.name, is_good=check.is_good, text=check.text, hint=check.hint) for check in found]
    return Checks(is_ready=all(result.is_good for result in results), checks=results)
