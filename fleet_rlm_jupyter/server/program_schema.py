"""What goes over the wire of programs and datasets."""

from __future__ import annotations

from pydantic import Field

from fleet_rlm_jupyter.domain.dataset import Dataset, DatasetRow, Split
from fleet_rlm_jupyter.domain.program import ProgramInfo
from fleet_rlm_jupyter.server.schema import Wire


class ProgramsList(Wire):
    """Programs, or versions of one."""

    programs: list[ProgramInfo]


class ApproveBody(Wire):
    """Which version of a program is to run by its name."""

    version: int = Field(ge=1, le=2**31 - 1)


class DatasetsList(Wire):
    """The user's datasets, by name."""

    datasets: list[Dataset]


class OriginQuery(Wire):
    """Where what is uploaded comes from."""

    origin: str = Field(default="", max_length=300, description="the file's name")


class DatasetNameBody(Wire):
    """How a dataset is to be called."""

    name: str


class RowsQuery(Wire):
    """Which rows of a dataset."""

    count: int = Field(default=10, ge=1, le=1000, description="most rows")
    split: Split | None = None


class RowsList(Wire):
    """Some rows of a dataset."""

    rows: list[DatasetRow]
