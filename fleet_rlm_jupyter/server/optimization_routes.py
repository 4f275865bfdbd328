"""Routes of evaluations and optimizations, and what goes over the wire of them."""

from __future__ import annotations

from pydantic import Field

from fleet_rlm_jupyter.domain.dataset import Split
from fleet_rlm_jupyter.domain.optimization import Comparison, Optimization, RowsPage
from fleet_rlm_jupyter.domain.program import ProgramInfo, Trial
from fleet_rlm_jupyter.server.desk import Asked
from fleet_rlm_jupyter.server.schema import MAX_SEQ, Accepted, StartBody, Wire
from fleet_rlm_jupyter.server.web import Endpoint


class OptimizeBody(StartBody):
    """Which program is tried on which dataset, and how."""

    program: str = Field(description="a name, or name@version")
    dataset: str
    trial: Trial = Trial()


class OptimizationsQuery(Wire):
    """Which optimizations; `before` takes the `started_at` of the last one for the next page."""

    program: str = Field(default="", description="a name, or name@version")
    dataset: str = ""
    limit: int = Field(default=20, ge=1, le=200)
    before: float | None = None


class OptimizationsPage(Wire):
    """Optimizations, the newest first."""

    optimizations: list[Optimization]


class _Page(Wire):
    limit: int = Field(default=100, ge=1, le=500, description="most rows")
    cursor: int = Field(default=0, ge=0, le=MAX_SEQ, description="of the page before")


class ResultsQuery(_Page):
    """Which rows of an optimization."""

    candidate: str = ""
    split: Split | None = None


class ComparisonQuery(_Page):
    """What is compared."""

    sides: str = Field(
        max_length=2000, description="two to five, by commas: a run's id, id:candidate, a program, or name@version"
    )
    split: Split = "val"


class SaveCandidateBody(Wire):
    """Which candidate of the run."""

    candidate: str = Field(default="", description="the best where left out")


def optimize(asked: Asked, body: OptimizeBody) -> Accepted:
    """Start a run that looks for better instructions of a program, or with optimizer `none` only scores it.

    With a key that was used before: the run of then.
    """
    return asked.accepted(asked.bench.optimize(body.program, body.dataset, body.trial, body.limits, key=body.key))


def optimizations(asked: Asked, query: OptimizationsQuery) -> OptimizationsPage:
    """The user's evaluations and optimizations, newest first, those that go on among them."""
    found = asked.bench.optimizations.list(query.program, query.dataset, query.limit, query.before)
    return OptimizationsPage(optimizations=found)


def optimization(asked: Asked, run_id: str) -> Optimization:
    """How far an optimization has come: its phase, its candidates, their instructions and scores."""
    return asked.bench.optimizations.get(run_id)


def optimization_rows(asked: Asked, run_id: str, query: ResultsQuery) -> RowsPage:
    """A page of its rows, each with its score, what was expected and what was found."""
    return asked.bench.optimizations.rows(run_id, query.candidate, query.split, query.limit, query.cursor)


def save_candidate(asked: Asked, run_id: str, body: SaveCandidateBody) -> ProgramInfo:
    """Keep a candidate as the program's next version, also of a run that was stopped. Harmless when it is one."""
    return asked.bench.optimizations.save(run_id, body.candidate)


def compare(asked: Asked, query: ComparisonQuery) -> Comparison:
    """Optimizations, candidates or versions side by side, row by row; the rows that differ most come first."""
    names = [name.strip() for name in query.sides.split(",")]
    return asked.bench.optimizations.compare(*names, split=query.split, limit=query.limit, cursor=query.cursor)


ROUTES = (
    Endpoint("POST", "/optimizations", optimize, status=201),
    Endpoint("GET", "/optimizations", optimizations),
    Endpoint("GET", "/optimizations/{run_id}", optimization),
    Endpoint("GET", "/optimizations/{run_id}/rows", optimization_rows),
    Endpoint("POST", "/optimizations/{run_id}/versions", save_candidate, status=201),
    Endpoint("GET", "/comparisons", compare),
)
