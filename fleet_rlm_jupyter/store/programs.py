"""Kept programs of one owner, version by version."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from fleet_rlm_jupyter.domain.errors import NoSuchProgram
from fleet_rlm_jupyter.domain.program import Definition, Origin, ProgramInfo, fields_of
from fleet_rlm_jupyter.store.database import Kept
from fleet_rlm_jupyter.store.tables import PROGRAMS


class StoredPrograms(Kept):
    """Those of others look as if not there. A version does not change, but for its approval.

    Raises StoreFailed and NoSuchProgram.
    """

    def list(self) -> list[ProgramInfo]:
        """The version of each that runs by its name, by name."""
        found: dict[str, ProgramInfo] = {}
        for info, _ in self._found():
            found.setdefault(info.name, info)
        return sorted(found.values(), key=lambda info: info.name)

    def versions(self, name: str) -> list[ProgramInfo]:
        """The newest first."""
        found = [info for info, _ in self._found(PROGRAMS.c.name == name)]
        if not found:
            raise _missing(name)
        return sorted(found, key=lambda info: -info.version)

    def get(self, name: str, version: int | None = None) -> tuple[ProgramInfo, Definition]:
        """That version, or the one that was approved last."""
        where = [PROGRAMS.c.name == name] + ([] if version is None else [PROGRAMS.c.version == version])
        found = self._found(*where)
        if not found:
            raise _missing(name if version is None else f"{name}@{version}")
        return found[0]

    def save(self, name: str, definition: Definition, origin: Origin | None = None) -> ProgramInfo:
        """Keep it as the next version. The first one is approved: nothing else could run by that name."""
        now, made = time.time(), origin or Origin()
        latest = sa.select(sa.func.max(PROGRAMS.c.version)).where(*self._is(name))
        with self._database.writing(full=True) as connection:
            version = (connection.execute(latest).scalar() or 0) + 1
            values = {
                "owner": self._owner,
                "name": name,
                "version": version,
                "definition": json.dumps(definition.model_dump()),
                **made.model_dump(),
                "scores": json.dumps(made.scores),
                "created_at": now,
                "approved_at": now if version == 1 else None,
            }
            connection.execute(sa.insert(PROGRAMS).values(**values))
        return self.get(name, version)[0]

    def approve(self, name: str, version: int) -> ProgramInfo:
        """From now on that version runs by the name alone."""
        newest = sa.select(sa.func.max(PROGRAMS.c.approved_at)).where(*self._is(name))
        which = sa.update(PROGRAMS).where(*self._is(name), PROGRAMS.c.version == version)
        with self._database.writing(full=True) as connection:
            # Later than any other, also where the clock was put back.
            at = max(time.time(), (connection.execute(newest).scalar() or 0.0) + 1e-3)
            if not connection.execute(which.values(approved_at=at)).rowcount:
                raise _missing(f"{name}@{version}")
        return self.get(name, version)[0]

    def of_run(self, run_id: str) -> dict[str, str]:
        """The versions that were kept of what a run found, by candidate."""
        return {info.candidate: info.label for info, _ in self._found(PROGRAMS.c.run_id == run_id)}

    def _found(self, *where: sa.ColumnElement[bool]) -> list[tuple[ProgramInfo, Definition]]:
        """What was approved last comes first."""
        query = sa.select(PROGRAMS).where(PROGRAMS.c.owner == self._owner, *where)
        order = (PROGRAMS.c.approved_at.is_(None), PROGRAMS.c.approved_at.desc(), PROGRAMS.c.version.desc())
        with self._database.reading() as connection:
            return [_read(row) for row in connection.execute(query.order_by(*order)).mappings()]

    def _is(self, name: str) -> tuple[sa.ColumnElement[bool], ...]:
        return PROGRAMS.c.owner == self._owner, PROGRAMS.c.name == name


def _read(row: Mapping[Any, Any]) -> tuple[ProgramInfo, Definition]:
    definition = Definition.model_validate_json(row["definition"])
    inputs, outputs = fields_of(definition.signature)
    known = {
        **row,
        "description": f"{definition.kind.replace('_', ' ')}: {definition.signature}",
        "inputs": inputs,
        "outputs": outputs,
        "is_approved": row["approved_at"] is not None,
        "scores": json.loads(row["scores"]),
    }
    return ProgramInfo.model_validate(known), definition


def _missing(name: str) -> NoSuchProgram:
    return NoSuchProgram(f"there is no program {name}", "list the programs, or save it first")
