"""Optimization: what a run that tried a program on a dataset has found, told by its events; rows, and comparisons."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from fleet_rlm_jupyter.domain.dataset import Split
from fleet_rlm_jupyter.domain.errors import BadRequest, ErrorText
from fleet_rlm_jupyter.domain.events import (
    BudgetSpent,
    Fact,
    PhaseStarted,
    RunStarted,
    RunStatus,
    ScoreReported,
    Usage,
)
from fleet_rlm_jupyter.domain.program import Trial
from fleet_rlm_jupyter.domain.session import KeptRun, Run

MOST_COMPARED = 5


class _Seen(BaseModel):
    model_config = ConfigDict(frozen=True)


class Candidate(_Seen):
    """Instructions that were tried, by predictor, and their scores. `version` is the program's that has them.

    The program as it was goes by that version, those that were proposed by `candidate 1`, `candidate 2`.
    """

    name: str
    version: str = ""
    instructions: dict[str, str] = {}
    scores: dict[Split, float] = {}


class Optimization(_Seen):
    """A run that tried `program` on `dataset`, as far as it has come. Times are seconds since the epoch.

    `status` is None while it goes on, `phase` the last one that it came to. `best` is the candidate that scored most on
    val, the earliest of equals; where nothing was proposed it is the program. `usage` is what was spent by now.
    """

    run_id: str
    session_id: str
    program: str
    dataset: str
    trial: Trial
    started_at: float
    ended_at: float | None
    status: RunStatus | None
    phase: Literal["starting", "scoring", "baseline", "search", "test", "saving"]
    candidates: list[Candidate]
    best: str
    error: ErrorText | None = None
    usage: Usage = Usage()

    @classmethod
    def of(cls, kept: KeptRun, facts: Iterable[Fact], ended: Run | None, versions: dict[str, str]) -> Optimization:
        """From the facts about it, in their order; `versions` are those that were kept of it, by candidate."""
        said: dict[str, Any] = {} if ended is None else {"usage": ended.usage, "error": ended.error}
        tried: dict[str, Candidate] = {}
        for fact in facts:
            if isinstance(fact, RunStarted):
                said |= {"program": fact.program, "dataset": fact.dataset, "trial": fact.trial}
            elif isinstance(fact, PhaseStarted):
                said["phase"] = fact.phase
            elif isinstance(fact, BudgetSpent):
                said["usage"] = Usage(calls=fact.calls, cost=fact.cost, seconds=fact.seconds)
            elif isinstance(fact, ScoreReported):
                known = tried.get(fact.candidate, Candidate(name=fact.candidate))
                update: dict[str, Any] = {"scores": {**known.scores, fact.split: fact.score}}
                if fact.instructions:
                    update["instructions"] = fact.instructions
                tried[fact.candidate] = known.model_copy(update=update)
        program = said["program"]
        versions = {program: program, **versions}
        candidates = [one.model_copy(update={"version": versions.get(one.name, "")}) for one in tried.values()]
        best = max(candidates, key=lambda one: one.scores.get("val", -1.0), default=None)
        return cls(
            **{"phase": "starting", **said},
            **kept.model_dump(include={"run_id", "session_id", "started_at", "ended_at", "status"}),
            candidates=candidates,
            best=program if best is None else best.name,
        )

    def candidate(self, name: str = "") -> Candidate:
        """That one, or the best. Raises BadRequest."""
        found = next((one for one in self.candidates if one.name == (name or self.best)), None)
        if found is None:
            raise BadRequest(f"run {self.run_id} has scored no {name or self.best}", "look at its candidates")
        return found


class RowResult(_Seen):
    """How a candidate did on a row. `expected` and `found` are previews of JSON.

    The whole is the value `outputs` of call `call_id`; `seq` is the event that tells of it.
    """

    seq: int
    call_id: str | None
    candidate: str
    split: Split
    row_id: str
    score: float
    expected: str
    found: str
    error: ErrorText | None = None


class RowsPage(_Seen):
    """Rows in the order they were scored. The next page begins at `cursor`; None: there is none."""

    rows: list[RowResult]
    cursor: int | None = None


class Side(_Seen):
    """What is compared: a candidate of a run. `score` is its mean over the rows that all sides have.

    `difference` is to the first side. `left_out` counts its rows that some other side has not.
    """

    name: str
    run_id: str
    candidate: str
    dataset: str
    instructions: dict[str, str]
    score: float
    difference: float
    left_out: int


class ComparedRow(_Seen):
    """One row side by side, in the order of the sides. `differences` are to the first side."""

    row_id: str
    expected: str
    found: list[str]
    scores: list[float]
    differences: list[float]


class Comparison(_Seen):
    """Candidates on the rows of a split that all of them were scored on: `total` rows, of which these are a page.

    The rows on which the sides differ most come first. The next page begins at `cursor`; None: there is none.
    """

    split: Split
    sides: list[Side]
    total: int
    rows: list[ComparedRow]
    cursor: int | None = None


@dataclass(frozen=True, slots=True)
class RowScore:
    """A row's score without its texts; `seq` is the event that has them."""

    row_id: str
    score: float
    seq: int


def most_different_first(sides: Sequence[dict[str, RowScore]]) -> list[list[RowScore]]:
    """The rows that all sides have, by the span of their scores; equal ones always in the same order."""
    shared = set(sides[0]).intersection(*sides[1:])
    rows = [[side[row_id] for side in sides] for row_id in sorted(shared)]
    return sorted(rows, key=lambda row: min(one.score for one in row) - max(one.score for one in row))
