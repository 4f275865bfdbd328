"""Routes of programs and datasets."""

from __future__ import annotations

from fleet_rlm_jupyter.domain.dataset import Dataset
from fleet_rlm_jupyter.domain.program import Definition, ProgramInfo
from fleet_rlm_jupyter.server.desk import Asked
from fleet_rlm_jupyter.server.program_schema import (
    ApproveBody,
    DatasetNameBody,
    DatasetsList,
    OriginQuery,
    ProgramsList,
    RowsList,
    RowsQuery,
)
from fleet_rlm_jupyter.server.web import Endpoint


def programs(asked: Asked) -> ProgramsList:
    """What can be run by its name, each in the version that then runs."""
    return ProgramsList(programs=asked.bench.programs.list())


def program(asked: Asked, name: str) -> ProgramInfo:
    """One program: what it takes and what it gives. `name@2` is version 2, the name alone what runs by it."""
    return asked.bench.programs.get(name)


def program_versions(asked: Asked, name: str) -> ProgramsList:
    """All versions of a program, the newest first."""
    return ProgramsList(programs=asked.bench.programs.versions(name))


def program_definition(asked: Asked, name: str) -> Definition:
    """What a program is made of: signature, and DSPy's state of it as JSON."""
    return asked.bench.programs.definition(name)


def save_program(asked: Asked, name: str, body: Definition) -> ProgramInfo:
    """Keep a program as the next version of that name; the first is approved with that, others wait for it."""
    return asked.bench.programs.save(name, body)


def approve_program(asked: Asked, name: str, body: ApproveBody) -> ProgramInfo:
    """From now on that version runs by the name alone. An earlier one may be approved again."""
    return asked.bench.programs.approve(name, body.version)


def datasets(asked: Asked) -> DatasetsList:
    """The user's datasets."""
    return DatasetsList(datasets=asked.bench.datasets.list())


def dataset(asked: Asked, name: str) -> Dataset:
    """What is known of a dataset: its rows by split, their fields, and what was left out."""
    return asked.bench.datasets.get(name)


def create_dataset(asked: Asked, name: str, query: OriginQuery, raw: bytes) -> Dataset:
    """Keep the rows in the body: a JSON array of objects, or one object a line. A field `split` says a row's split."""
    return asked.bench.datasets.create(name, raw, query.origin)


def dataset_of_session(asked: Asked, session_id: str, body: DatasetNameBody) -> Dataset:
    """A dataset of question and answer, from the turns of a session that were called good or corrected."""
    return asked.bench.datasets.from_session(body.name, session_id)


def dataset_rows(asked: Asked, name: str, query: RowsQuery) -> RowsList:
    """Some of its rows, always the same ones."""
    return RowsList(rows=asked.bench.datasets.sample(name, query.count, query.split))


def delete_dataset(asked: Asked, name: str) -> None:
    """Forget a dataset and its rows."""
    asked.bench.datasets.delete(name)


ROUTES = (
    Endpoint("GET", "/programs", programs),
    Endpoint("GET", "/programs/{name}", program),
    Endpoint("POST", "/programs/{name}", save_program, status=201),
    Endpoint("GET", "/programs/{name}/versions", program_versions),
    Endpoint("GET", "/programs/{name}/definition", program_definition),
    Endpoint("POST", "/programs/{name}/approve", approve_program),
    Endpoint("GET", "/datasets", datasets),
    Endpoint("GET", "/datasets/{name}", dataset),
    Endpoint("POST", "/datasets/{name}", create_dataset, status=201),
    Endpoint("GET", "/datasets/{name}/rows", dataset_rows),
    Endpoint("DELETE", "/datasets/{name}", delete_dataset, status=204),
    Endpoint("POST", "/sessions/{session_id}/datasets", dataset_of_session, status=201),
)
