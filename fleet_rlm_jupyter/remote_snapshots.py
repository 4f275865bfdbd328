"""The snapshots of a user that a Jupyter server holds."""

from __future__ import annotations

from pydantic import BaseModel

from fleet_rlm_jupyter.connection import Connection, quoted
from fleet_rlm_jupyter.domain.snapshot import Snapshot


class RemoteSnapshots:
    """A user's snapshots, as `Workbench.snapshots`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def list(self) -> list[Snapshot]:
        return self._connection.get("/snapshots", _Snapshots).snapshots

    def get(self, run_id: str) -> Snapshot:
        return self._connection.get(f"/snapshots/{quoted(run_id)}", Snapshot)

    def delete(self, run_id: str) -> None:
        self._connection.ask("DELETE", f"/snapshots/{quoted(run_id)}", type(None))


class _Snapshots(BaseModel):
    snapshots: list[Snapshot]
