"""Kept datasets of one owner."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from fleet_rlm_jupyter.domain.dataset import Dataset, DatasetRow, Split, common_fields
from fleet_rlm_jupyter.domain.errors import BadRequest, NoSuchDataset
from fleet_rlm_jupyter.store.archive import plain
from fleet_rlm_jupyter.store.database import Kept
from fleet_rlm_jupyter.store.tables import DATASET_ROWS, DATASETS


class StoredDatasets(Kept):
    """Those of others look as if not there. A dataset does not change: it is made once and deleted.

    Raises StoreFailed and NoSuchDataset.
    """

    def list(self) -> list[Dataset]:
        """By name."""
        return self._found(DATASETS.c.owner == self._owner)

    def get(self, name: str) -> Dataset:
        found = self._found(DATASETS.c.owner == self._owner, DATASETS.c.name == name)
        if not found:
            raise NoSuchDataset(f"there is no dataset {name}", "list the datasets, or create it")
        return found[0]

    def create(self, name: str, rows: Sequence[DatasetRow], left_out: Sequence[str]) -> Dataset:
        """Keep it; raises BadRequest where the name is taken."""
        values = {
            "owner": self._owner,
            "name": name,
            "created_at": time.time(),
            "fields": json.dumps(common_fields(rows)),
            "left_out": plain(json.dumps(list(left_out))),
        }
        kept = [
            {
                "owner": self._owner,
                "dataset": name,
                "row_id": row.row_id,
                "split": row.split,
                # In ASCII: PostgreSQL keeps no NUL in a text.
                "fields": json.dumps(row.fields),
                "origin": plain(row.origin),
            }
            for row in rows
        ]
        made = self._database.insert(DATASETS).values(**values).on_conflict_do_nothing().returning(DATASETS.c.name)
        with self._database.writing(full=True) as connection:
            if connection.execute(made).first() is None:
                raise BadRequest(f"there is a dataset {name} already", "choose another name, or delete that one first")
            connection.execute(sa.insert(DATASET_ROWS), kept)
        return self.get(name)

    def rows(self, name: str, split: Split | None = None, limit: int | None = None) -> list[DatasetRow]:
        """The rows in the order of their digests, which is as good as a shuffled one and always the same."""
        self.get(name)
        columns = [DATASET_ROWS.c[field] for field in DatasetRow.model_fields]
        query = sa.select(*columns).where(DATASET_ROWS.c.owner == self._owner, DATASET_ROWS.c.dataset == name)
        if split is not None:
            query = query.where(DATASET_ROWS.c.split == split)
        with self._database.reading() as connection:
            found = connection.execute(query.order_by(DATASET_ROWS.c.row_id).limit(limit)).mappings()
            return [_row(row) for row in found]

    def delete(self, name: str) -> None:
        self.get(name)
        with self._database.writing(full=True) as connection:
            connection.execute(
                sa.delete(DATASET_ROWS).where(DATASET_ROWS.c.owner == self._owner, DATASET_ROWS.c.dataset == name)
            )
            connection.execute(sa.delete(DATASETS).where(DATASETS.c.owner == self._owner, DATASETS.c.name == name))

    def _found(self, *where: sa.ColumnElement[bool]) -> list[Dataset]:
        counted = sa.select(DATASET_ROWS.c.dataset, DATASET_ROWS.c.split, sa.func.count())
        counted = counted.where(DATASET_ROWS.c.owner == self._owner).group_by(
            DATASET_ROWS.c.dataset, DATASET_ROWS.c.split
        )
        counts: dict[str, dict[str, int]] = {}
        with self._database.reading() as connection:
            for dataset, split, count in connection.execute(counted):
                counts.setdefault(dataset, {})[split] = count
            rows = connection.execute(sa.select(DATASETS).where(*where).order_by(DATASETS.c.name)).mappings().all()
        return [_dataset(row, counts.get(row["name"], {})) for row in rows]


def _dataset(row: Mapping[Any, Any], splits: dict[str, int]) -> Dataset:
    return Dataset.model_validate(
        {
            "name": row["name"],
            "created_at": row["created_at"],
            "rows": sum(splits.values()),
            "splits": splits,
            "fields": json.loads(row["fields"]),
            "left_out": json.loads(row["left_out"]),
        }
    )


def _row(row: Mapping[Any, Any]) -> DatasetRow:
    return DatasetRow.model_validate({**row, "fields": json.loads(row["fields"])})
