"""The live sandboxes of a Workbench that a Jupyter server holds."""

from __future__ import annotations

from pydantic import BaseModel

from fleet_rlm_jupyter.connection import Connection, quoted
from fleet_rlm_jupyter.domain.errors import NoSuchSandbox
from fleet_rlm_jupyter.domain.shown import LiveSandbox


class _LiveSandboxes(BaseModel):
    sandboxes: list[LiveSandbox]


class _Deleted(BaseModel):
    sandboxes: int


WORK_SECONDS = 900
"""How long the service may work on one: it comes back from cold storage within ten minutes, or is stopped before."""


class RemoteSandboxes:
    """A user's sandboxes, as `Workbench.live_sandboxes`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def list(self) -> list[LiveSandbox]:
        return self._connection.get("/sandboxes", _LiveSandboxes).sandboxes

    def stop(self, sandbox_id: str) -> None:
        self._connection.ask("DELETE", _path(sandbox_id), type(None), is_safe=False)

    def archive(self, sandbox_id: str) -> None:
        self._connection.ask("POST", f"{_path(sandbox_id)}/archive", type(None), is_safe=True, seconds=WORK_SECONDS)

    def resize(
        self, sandbox_id: str, cpu: int | None = None, memory_gb: int | None = None, disk_gb: int | None = None
    ) -> None:
        body = {"cpu": cpu, "memory_gb": memory_gb, "disk_gb": disk_gb}
        self._connection.ask(
            "POST", f"{_path(sandbox_id)}/resize", type(None), body, is_safe=True, seconds=WORK_SECONDS
        )

    def start(self, sandbox_id: str) -> None:
        self._connection.ask("POST", f"{_path(sandbox_id)}/start", type(None), is_safe=True, seconds=WORK_SECONDS)

    def prune(self) -> int:
        return self._connection.ask("POST", "/sandboxes/prune", _Deleted, is_safe=True, seconds=WORK_SECONDS).sandboxes


def _path(sandbox_id: str) -> str:
    if not sandbox_id.strip("."):  # no part of a URL can be empty or dots
        raise NoSuchSandbox(f"there is no sandbox {sandbox_id!r} of yours", "list them: fleet sandboxes")
    return f"/sandboxes/{quoted(sandbox_id)}"
