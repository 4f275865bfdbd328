"""Programs, datasets and optimizations of a Workbench that a Jupyter server holds."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING

from fleet_rlm_jupyter import engine
from fleet_rlm_jupyter.connection import Connection, quoted
from fleet_rlm_jupyter.domain.dataset import Dataset, DatasetRow, Split
from fleet_rlm_jupyter.domain.optimization import Comparison, Optimization, RowsPage
from fleet_rlm_jupyter.domain.program import Definition, ProgramInfo

if TYPE_CHECKING:
    import dspy


class RemotePrograms:
    """What the server runs by name, as `Workbench.programs`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def list(self) -> list[ProgramInfo]:
        return self._connection.get("/programs", dict[str, list[ProgramInfo]])["programs"]

    def versions(self, name: str) -> list[ProgramInfo]:
        return self._connection.get(f"/programs/{quoted(name)}/versions", dict[str, list[ProgramInfo]])["programs"]

    def get(self, name: str) -> ProgramInfo:
        return self._connection.get(f"/programs/{quoted(name)}", ProgramInfo)

    def definition(self, name: str) -> Definition:
        return self._connection.get(f"/programs/{quoted(name)}/definition", Definition)

    def save(self, name: str, program: dspy.Module | Definition) -> ProgramInfo:
        definition = program if isinstance(program, Definition) else engine.saved.definition_of(program)
        return self._connection.ask("POST", f"/programs/{quoted(name)}", ProgramInfo, definition.model_dump())

    def approve(self, name: str, version: int) -> ProgramInfo:
        path = f"/programs/{quoted(name)}/approve"
        return self._connection.ask("POST", path, ProgramInfo, {"version": version}, is_safe=True)


class RemoteDatasets:
    """A user's datasets, as `Workbench.datasets`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def list(self) -> list[Dataset]:
        return self._connection.get("/datasets", dict[str, list[Dataset]])["datasets"]

    def get(self, name: str) -> Dataset:
        return self._connection.get(f"/datasets/{quoted(name)}", Dataset)

    def create(self, name: str, rows: str | bytes | Iterable[object], origin: str = "") -> Dataset:
        raw = rows if isinstance(rows, bytes) else (rows if isinstance(rows, str) else _lines(rows)).encode()
        headers = {"Content-Type": "application/octet-stream"}
        answer = self._connection.send("POST", f"/datasets/{quoted(name)}", raw, headers, {"origin": origin})
        return Dataset.model_validate_json(answer)

    def from_session(self, name: str, session_id: str) -> Dataset:
        return self._connection.ask("POST", f"/sessions/{quoted(session_id)}/datasets", Dataset, {"name": name})

    def from_snapshots(self, name: str, run_ids: Iterable[str] = ()) -> Dataset:
        body = {"name": name, "run_ids": list(run_ids)}
        return self._connection.ask("POST", "/snapshots/datasets", Dataset, body)

    def sample(self, name: str, count: int = 10, split: Split | None = None) -> list[DatasetRow]:
        path = f"/datasets/{quoted(name)}/rows"
        return self._connection.get(path, dict[str, list[DatasetRow]], count=count, split=split)["rows"]

    def delete(self, name: str) -> None:
        self._connection.ask("DELETE", f"/datasets/{quoted(name)}", type(None))


class RemoteOptimizations:
    """What was tried on the server, as `Workbench.optimizations`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def list(
        self, program: str = "", dataset: str = "", limit: int = 20, before: float | None = None
    ) -> list[Optimization]:
        query = {"program": program, "dataset": dataset, "limit": limit, "before": before}
        return self._connection.get("/optimizations", dict[str, list[Optimization]], **query)["optimizations"]

    def get(self, run_id: str) -> Optimization:
        return self._connection.get(f"/optimizations/{quoted(run_id)}", Optimization)

    def rows(
        self, run_id: str, candidate: str = "", split: Split | None = None, limit: int = 100, cursor: int = 0
    ) -> RowsPage:
        query = {"candidate": candidate, "split": split, "limit": limit, "cursor": cursor}
        return self._connection.get(f"/optimizations/{quoted(run_id)}/rows", RowsPage, **query)

    def compare(self, *names: str, split: Split = "val", limit: int = 100, cursor: int = 0) -> Comparison:
        query = {"sides": ",".join(names), "split": split, "limit": limit, "cursor": cursor}
        return self._connection.get("/comparisons", Comparison, **query)

    def save(self, run_id: str, candidate: str = "") -> ProgramInfo:
        path = f"/optimizations/{quoted(run_id)}/versions"
        return self._connection.ask("POST", path, ProgramInfo, {"candidate": candidate}, is_safe=True)


def _lines(rows: Iterable[object]) -> str:
    return "\n".join(map(_line, rows))


def _line(row: object) -> str:
    try:
        return json.dumps(row)
    except (TypeError, ValueError):
        return "?"  # the server names it among those that it left out
