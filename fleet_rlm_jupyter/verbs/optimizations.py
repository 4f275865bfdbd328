"""`bench.optimizations`: the runs that tried programs on datasets, row by row and side by side."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from fleet_rlm_jupyter.domain.dataset import Split
from fleet_rlm_jupyter.domain.errors import BadRequest
from fleet_rlm_jupyter.domain.optimization import (
    MOST_COMPARED,
    ComparedRow,
    Comparison,
    Optimization,
    RowsPage,
    Side,
    most_different_first,
)
from fleet_rlm_jupyter.domain.program import ProgramInfo
from fleet_rlm_jupyter.verbs.house import House
from fleet_rlm_jupyter.verbs.programs import Programs

if TYPE_CHECKING:  # it imports SQLAlchemy
    from fleet_rlm_jupyter.store.optimizations import StoredOptimizations

_RUN_ID = re.compile("r-[0-9a-f]+")


class Optimizations:
    """Evaluations and optimizations of one user, those that go on among them.

    Raises NoSuchRun for one of another user and for a run that tried no program, and StoreFailed.
    """

    def __init__(self, house: House, owner: str) -> None:
        self._house = house
        self._owner = owner
        self._programs = Programs(house, owner)

    def list(
        self, program: str = "", dataset: str = "", limit: int = 20, before: float | None = None
    ) -> list[Optimization]:
        """The newest that began before `before`, of that program (or `name@2` alone) and dataset, newest first."""
        return self._stored().list(program, dataset, limit, before)

    def get(self, run_id: str) -> Optimization:
        """How far it has come: its phase, the candidates and their scores."""
        return self._stored().get(run_id)

    def rows(
        self, run_id: str, candidate: str = "", split: Split | None = None, limit: int = 100, cursor: int = 0
    ) -> RowsPage:
        """Rows in the order they were scored, of that candidate and split alone where they are named."""
        found = self._stored().rows(run_id, candidate, split, limit + 1, cursor)
        return RowsPage(rows=found[:limit], cursor=found[limit].seq if len(found) > limit else None)

    def compare(self, *names: str, split: Split = "val", limit: int = 100, cursor: int = 0) -> Comparison:
        """Up to five side by side, row by row. The rows on which they differ most come first.

        A name is a run's id, for the best that it found, `id:candidate 2` for another candidate of it, or a program or
        version, for the newest run that scored that. Raises BadRequest, too, where they have no row in common.
        """
        if not 2 <= len(names) <= MOST_COMPARED:
            raise BadRequest(f"two to {MOST_COMPARED} can be compared", "name runs, programs or versions")
        stored = self._stored()
        places = [self._place(stored, name, split) for name in names]
        scored = [stored.scores(one.run_id, candidate, split) for one, candidate in places]
        ordered = most_different_first(scored)
        if not ordered:
            raise BadRequest(f"{' and '.join(names)} have no row of {split} in common", "evaluate them on one dataset")
        means = [sum(row[at].score for row in ordered) / len(ordered) for at in range(len(names))]
        sides = [
            Side(
                name=name,
                run_id=one.run_id,
                candidate=candidate,
                dataset=one.dataset,
                instructions=one.candidate(candidate).instructions,
                score=mean,
                difference=mean - means[0],
                left_out=len(rows) - len(ordered),
            )
            for name, (one, candidate), rows, mean in zip(names, places, scored, means, strict=True)
        ]
        page = ordered[cursor : cursor + limit]
        texts = [stored.texts(side.run_id, (row[at].seq for row in page)) for at, side in enumerate(sides)]
        rows = [
            ComparedRow(
                row_id=row[0].row_id,
                expected=texts[0][row[0].seq].expected,
                found=[texts[at][one.seq].found for at, one in enumerate(row)],
                scores=[one.score for one in row],
                differences=[one.score - row[0].score for one in row],
            )
            for row in page
        ]
        is_more = cursor + limit < len(ordered)
        return Comparison(
            split=split, sides=sides, total=len(ordered), rows=rows, cursor=cursor + limit if is_more else None
        )

    def save(self, run_id: str, candidate: str = "") -> ProgramInfo:
        """Keep a candidate of a run, the best one by default, as the program's next version, where it is none yet.

        So what a run found is not lost when it was cancelled, or its process died.
        """
        tried = self.get(run_id)
        found = tried.candidate(candidate)
        if found.version:
            return self._programs.get(found.version)
        return self._programs.found(tried.program, tried.dataset, run_id, found)

    def _place(self, stored: StoredOptimizations, name: str, split: Split) -> tuple[Optimization, str]:
        run_id, _, candidate = name.partition(":")
        if _RUN_ID.fullmatch(run_id):
            one = stored.get(run_id)
            return one, one.candidate(candidate).name
        info = self._programs.get(name)
        if newest := stored.newest_with(info.label, split):
            return stored.get(newest), info.label
        if not info.run_id:
            raise BadRequest(f"{info.label} was not scored on {split}", "evaluate it first")
        return stored.get(info.run_id), info.candidate

    def _stored(self) -> StoredOptimizations:
        return self._house.store().optimizations(self._owner)
