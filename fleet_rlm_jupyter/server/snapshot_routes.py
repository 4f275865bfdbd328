"""Routes of snapshots: what questions were asked and told, frozen."""

from __future__ import annotations

from pydantic import Field

from fleet_rlm_jupyter.domain.dataset import Dataset
from fleet_rlm_jupyter.domain.snapshot import Snapshot
from fleet_rlm_jupyter.server.desk import Asked
from fleet_rlm_jupyter.server.schema import Accepted, Wire
from fleet_rlm_jupyter.server.web import Endpoint


class SnapshotsList(Wire):
    """Snapshots, the newest first."""

    snapshots: list[Snapshot]


class SnapshotRowsBody(Wire):
    """How a dataset is to be called, and of which snapshots it is made."""

    name: str
    run_ids: list[str] = Field(default=[], max_length=1000, description="all of them where left out")


def snapshots(asked: Asked) -> SnapshotsList:
    """What was frozen, the newest first."""
    return SnapshotsList(snapshots=asked.bench.snapshots.list())


def snapshot(asked: Asked, run_id: str) -> Snapshot:
    """What a run was asked and told."""
    return asked.bench.snapshots.get(run_id)


def delete_snapshot(asked: Asked, run_id: str) -> None:
    """Forget it; its run and its context are then forgotten as all others are."""
    asked.bench.snapshots.delete(run_id)


def repeat_snapshot(asked: Asked, run_id: str) -> Accepted:
    """Ask the same again, told the same, within its limits, on the models now in force."""
    return asked.accepted(asked.bench.repeat(run_id))


def dataset_of_snapshots(asked: Asked, body: SnapshotRowsBody) -> Dataset:
    """A dataset of context, question and answer, from snapshots of turns that were called good or corrected."""
    return asked.bench.datasets.from_snapshots(body.name, body.run_ids)


ROUTES = (
    Endpoint("GET", "/snapshots", snapshots),
    Endpoint("POST", "/snapshots/datasets", dataset_of_snapshots, status=201),
    Endpoint("GET", "/snapshots/{run_id}", snapshot),
    Endpoint("DELETE", "/snapshots/{run_id}", delete_snapshot, status=204),
    Endpoint("POST", "/snapshots/{run_id}/runs", repeat_snapshot, status=201),
)
