"""Kept runs of one owner that tried a program on a dataset, and what their events say that they found."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa

from fleet_rlm_jupyter.domain.dataset import Split
from fleet_rlm_jupyter.domain.errors import NoSuchRun
from fleet_rlm_jupyter.domain.events import Event
from fleet_rlm_jupyter.domain.optimization import Optimization, RowResult, RowScore
from fleet_rlm_jupyter.domain.session import KeptRun, Run
from fleet_rlm_jupyter.store.database import Kept
from fleet_rlm_jupyter.store.programs import StoredPrograms
from fleet_rlm_jupyter.store.runs import COLUMNS
from fleet_rlm_jupyter.store.tables import EVENTS, FINDINGS, OPTIMIZATIONS, RUNS, TURNS

_SOME = 500
"""Events that one query names at the most."""

_SPENT = '"type":"budget.spent"'
"""In a line of such an event and of no other: quotes in a text have a backslash."""


class StoredOptimizations(Kept):
    """Those of others look as if not there. Raises StoreFailed and NoSuchRun."""

    def list(
        self, program: str = "", dataset: str = "", limit: int = 20, before: float | None = None
    ) -> list[Optimization]:
        """The newest that began before `before`, of that program or version of one, on that dataset; newest first."""
        where: list[sa.ColumnElement[bool]] = []
        if program:
            is_version = OPTIMIZATIONS.c.program == program
            where.append(is_version | OPTIMIZATIONS.c.program.startswith(f"{program}@", autoescape=True))
        if dataset:
            where.append(OPTIMIZATIONS.c.dataset == dataset)
        if before is not None:
            where.append(RUNS.c.started_at < before)
        return self._found(*where, limit=limit)

    def get(self, run_id: str) -> Optimization:
        found = self._found(RUNS.c.run_id == run_id)
        if not found:
            raise NoSuchRun(f"no run {run_id} tried a program", "`fleet optimizations list` names those that did")
        return found[0]

    def rows(
        self, run_id: str, candidate: str = "", split: Split | None = None, limit: int = 100, since: int = 0
    ) -> list[RowResult]:
        """Rows in the order in which they were scored, from event `since` on."""
        self.get(run_id)
        query = sa.select(EVENTS.c.line).join(FINDINGS, _same_event()).where(FINDINGS.c.run_id == run_id)
        query = query.where(FINDINGS.c.row_id != "", FINDINGS.c.seq >= since)
        if candidate:
            query = query.where(FINDINGS.c.candidate == candidate)
        if split is not None:
            query = query.where(FINDINGS.c.split == split)
        with self._database.reading() as connection:
            return [_row(line) for line in connection.execute(query.order_by(FINDINGS.c.seq).limit(limit)).scalars()]

    def scores(self, run_id: str, candidate: str, split: Split) -> dict[str, RowScore]:
        """The scores of a candidate's rows by row id."""
        query = sa.select(FINDINGS.c.row_id, FINDINGS.c.score, FINDINGS.c.seq).where(
            FINDINGS.c.run_id == run_id,
            FINDINGS.c.candidate == candidate,
            FINDINGS.c.split == split,
            FINDINGS.c.row_id != "",
        )
        with self._database.reading() as connection:
            return {row.row_id: RowScore(row.row_id, row.score, row.seq) for row in connection.execute(query)}

    def texts(self, run_id: str, seqs: Iterable[int]) -> dict[int, RowResult]:
        """The rows that those events tell of."""
        query = sa.select(EVENTS.c.line).where(EVENTS.c.run_id == run_id)
        wanted, found = list(seqs), dict[int, RowResult]()
        with self._database.reading() as connection:
            for begin in range(0, len(wanted), _SOME):
                lines = connection.execute(query.where(EVENTS.c.seq.in_(wanted[begin : begin + _SOME])))
                found |= {row.seq: row for row in map(_row, lines.scalars())}
        return found

    def newest_with(self, version: str, split: Split) -> str | None:
        """The newest run that scored that version, as the program that it tried, on that split."""
        query = (
            sa.select(RUNS.c.run_id)
            .join(OPTIMIZATIONS, OPTIMIZATIONS.c.run_id == RUNS.c.run_id)
            .join(FINDINGS, FINDINGS.c.run_id == RUNS.c.run_id)
            .where(RUNS.c.owner == self._owner, OPTIMIZATIONS.c.program == version)
            .where(FINDINGS.c.candidate == version, FINDINGS.c.split == split, FINDINGS.c.row_id == "")
            .order_by(RUNS.c.started_at.desc(), RUNS.c.run_id)
        )
        with self._database.reading() as connection:
            return connection.execute(query.limit(1)).scalar()

    def _found(self, *where: sa.ColumnElement[bool], limit: int = 1) -> list[Optimization]:
        query = sa.select(*COLUMNS, TURNS.c.run).join(OPTIMIZATIONS, OPTIMIZATIONS.c.run_id == RUNS.c.run_id)
        query = query.outerjoin(TURNS, TURNS.c.run_id == RUNS.c.run_id).where(RUNS.c.owner == self._owner, *where)
        with self._database.reading() as connection:
            rows = connection.execute(query.order_by(RUNS.c.started_at.desc(), RUNS.c.run_id).limit(limit)).mappings()
            found = [dict(row) for row in rows]
        return [self._optimization(row, row.pop("run")) for row in found]

    def _optimization(self, row: dict[str, Any], record: str | None) -> Optimization:
        kept = KeptRun.model_validate(row)
        about = sa.select(EVENTS.c.line).join(FINDINGS, _same_event())
        about = about.where(FINDINGS.c.run_id == kept.run_id, FINDINGS.c.row_id == "").order_by(FINDINGS.c.seq)
        spent = sa.select(EVENTS.c.line).where(EVENTS.c.run_id == kept.run_id, EVENTS.c.line.contains(_SPENT))
        with self._database.reading() as connection:
            lines = list(connection.execute(about).scalars())
            if record is None:
                lines += connection.execute(spent.order_by(EVENTS.c.seq.desc()).limit(1)).scalars()
        facts = [Event.decode(line).fact for line in lines]
        versions = StoredPrograms(self._database, self._owner).of_run(kept.run_id)
        return Optimization.of(kept, facts, Run.model_validate_json(record) if record else None, versions)


def _same_event() -> sa.ColumnElement[bool]:
    return (EVENTS.c.run_id == FINDINGS.c.run_id) & (EVENTS.c.seq == FINDINGS.c.seq)


def _row(line: str) -> RowResult:
    event = Event.decode(line)
    told = event.fact.model_dump(include=set(RowResult.model_fields))
    return RowResult.model_validate({**told, "seq": event.seq, "call_id": event.call_id})
