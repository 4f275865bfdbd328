"""Routes of the sandboxes that there are."""

from __future__ import annotations

from fleet_rlm_jupyter.server.desk import Asked
from fleet_rlm_jupyter.server.schema import Pruned, SandboxesList, SizeBody
from fleet_rlm_jupyter.server.web import Endpoint


def list_sandboxes(asked: Asked) -> SandboxesList:
    """The sandboxes that work or worked for the user's sessions, newest first. Nothing is started for that."""
    return SandboxesList(sandboxes=asked.bench.live_sandboxes.list())


def stop_sandbox(asked: Asked, sandbox_id: str) -> None:
    """End one for good; a run in it fails with `sandbox_lost`. Files on the session's volume stay."""
    asked.bench.live_sandboxes.stop(sandbox_id)


def archive_sandbox(asked: Asked, sandbox_id: str) -> None:
    """Stop one that a session keeps and put it away; its files stay. Refused while a run works in it."""
    asked.bench.live_sandboxes.archive(sandbox_id)


def resize_sandbox(asked: Asked, sandbox_id: str, body: SizeBody) -> None:
    """Stop one that a session keeps and give it another size. Refused while a run works in it."""
    asked.bench.live_sandboxes.resize(sandbox_id, body.cpu, body.memory_gb, body.disk_gb)


def start_sandbox(asked: Asked, sandbox_id: str) -> None:
    """Have one running that was stopped or archived, or recover it; it stops again when it is idle."""
    asked.bench.live_sandboxes.start(sandbox_id)


def prune_sandboxes(asked: Asked) -> Pruned:
    """Delete what processes that are gone left behind at Daytona, as happens every ten minutes."""
    return Pruned(sandboxes=asked.bench.live_sandboxes.prune())


ROUTES = (
    Endpoint("GET", "/sandboxes", list_sandboxes),
    Endpoint("POST", "/sandboxes/prune", prune_sandboxes),
    Endpoint("POST", "/sandboxes/{sandbox_id}/archive", archive_sandbox, status=204),
    Endpoint("POST", "/sandboxes/{sandbox_id}/resize", resize_sandbox, status=204),
    Endpoint("POST", "/sandboxes/{sandbox_id}/start", start_sandbox, status=204),
    Endpoint("DELETE", "/sandboxes/{sandbox_id}", stop_sandbox, status=204),
)
