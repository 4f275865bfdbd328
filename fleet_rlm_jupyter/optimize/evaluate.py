"""A program scored on the rows of a dataset, as a run: in parallel, in order, each failure in its place."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import dspy
from dspy.utils.exceptions import DSPyError
from pydantic import JsonValue

from fleet_rlm_jupyter.domain.budget import Budget
from fleet_rlm_jupyter.domain.dataset import DatasetRow, Split
from fleet_rlm_jupyter.domain.errors import BadRequest, EndsRun, ErrorText, FleetError
from fleet_rlm_jupyter.domain.events import Limits, Log, PhaseStarted, RowScored, RunStarted, ScoreReported
from fleet_rlm_jupyter.domain.previews import preview
from fleet_rlm_jupyter.domain.program import Definition, ProgramInfo, Trial
from fleet_rlm_jupyter.engine.failures import explained
from fleet_rlm_jupyter.engine.own import fitted
from fleet_rlm_jupyter.engine.recorder import Emit
from fleet_rlm_jupyter.engine.recursion import Recursion
from fleet_rlm_jupyter.engine.saved import build, strategies
from fleet_rlm_jupyter.engine.site import Site
from fleet_rlm_jupyter.engine.waiting import in_parallel
from fleet_rlm_jupyter.optimize.metrics import Metric

_OF_A_ROW = (FleetError, DSPyError, ValueError, TypeError, LookupError, AttributeError, RuntimeError)
"""What a program may raise over one row without the others' scores being lost."""

NO_SANDBOX = "none: no code runs"


@dataclass(frozen=True, slots=True)
class Subject:
    """What is tried on what. `rows` are those that have every input of the program and something to compare."""

    info: ProgramInfo
    definition: Definition
    dataset: str
    rows: tuple[DatasetRow, ...]
    unfit: int

    @classmethod
    def of(cls, info: ProgramInfo, definition: Definition, dataset: str, rows: Sequence[DatasetRow]) -> Subject:
        fit = tuple(
            row
            for row in rows
            if all(name in row.fields for name in info.inputs) and any(name in row.fields for name in info.outputs)
        )
        return cls(info, definition, dataset, fit, len(rows) - len(fit))

    @property
    def name(self) -> str:
        return self.info.label

    def of_split(self, split: Split) -> list[DatasetRow]:
        return [row for row in self.rows if row.split == split]

    def needs(self, *splits: Split) -> None:
        """Raise BadRequest where a split has no rows."""
        for split in splits:
            if not self.of_split(split):
                columns = ", ".join([*self.info.inputs, *self.info.outputs])
                raise BadRequest(
                    f"{self.dataset} has no rows for {split} that {self.name} can be tried on",
                    f"its rows need {columns}; a field split says which split a row is for",
                )


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one row. `trace` is DSPy's: (predictor, inputs, prediction) of each step."""

    score: float
    prediction: dspy.Prediction | None = None
    failure: Exception | None = None
    trace: list[Any] = field(default_factory=list[Any])


class Scorer:
    """Runs a program over rows within one run: all on its budget, as many at a time as that allows."""

    def __init__(self, recursion: Recursion, subject: Subject, metric: Metric) -> None:
        self._recursion = recursion
        self._subject = subject
        self._metric = metric
        self._workers = _workers(recursion.budget.limits, subject.definition)

    def outcomes(self, module: dspy.Module, rows: Sequence[DatasetRow], candidate: str = "") -> list[Outcome]:
        """One for each row, in the order of the rows; those of a named candidate are told.

        Raises what ends the run, and nothing else.
        """
        copy = fitted(module, self._recursion)
        return in_parallel(lambda row: self._outcome(copy, row, candidate), list(rows), min(self._workers, len(rows)))

    def score(
        self, module: dspy.Module, rows: Sequence[DatasetRow], candidate: str, *, is_needed: bool = False
    ) -> list[Outcome]:
        """The same, and the mean is told. Raises the first failure where every row failed and a score `is_needed`."""
        found = self.outcomes(module, rows, candidate)
        failures = [one.failure for one in found if one.failure is not None]
        if is_needed and len(failures) == len(found):
            raise failures[0]  # that is no score, but something to mend
        told = {name: task for name, (task, _) in strategies(module).items()}
        score = ScoreReported(candidate=candidate, split=rows[0].split, score=mean(found), instructions=told)
        self._recursion.recorder.note(score)
        return found

    def expected(self, row: DatasetRow) -> dict[str, JsonValue]:
        """What the program is to find for that row."""
        return {name: row.fields[name] for name in self._subject.info.outputs if name in row.fields}

    def _outcome(self, module: dspy.Module, row: DatasetRow, candidate: str) -> Outcome:
        recorder, call_id = self._recursion.recorder, None
        inputs = {name: row.fields[name] for name in self._subject.info.inputs}
        try:
            with recorder.part(f"row {row.row_id[:8]} of {row.split}", inputs) as done:
                call_id = recorder.here()
                self._recursion.budget.check()
                with dspy.context(trace=[]):
                    prediction: Any = module(**inputs)
                    trace = list(dspy.settings.trace)
                judged = self._metric.judge(self.expected(row), prediction)
                done(_json({**prediction.toDict(), "score": judged.score, "feedback": judged.feedback}))
                outcome = Outcome(judged.score, prediction, None, trace)
        except EndsRun:
            raise
        except _OF_A_ROW as err:
            self._recursion.budget.check()  # what was raised may only be what became of the stop
            outcome = Outcome(0.0, None, err)
        if candidate:
            recorder.note(self._told(row, candidate, outcome), call_id)
        return outcome

    def _told(self, row: DatasetRow, candidate: str, outcome: Outcome) -> RowScored:
        found, failure = outcome.prediction, outcome.failure
        said = {} if found is None else {name: found.get(name) for name in self._subject.info.outputs}
        return RowScored(
            candidate=candidate,
            split=row.split,
            row_id=row.row_id,
            score=outcome.score,
            expected=preview(_json(self.expected(row))),
            found="" if found is None else preview(_json(said)),
            error=None if failure is None else ErrorText.of(explained(failure)),
        )


class Evaluation:
    """The program of a run that scores a saved program on one split."""

    def __init__(self, site: Site, subject: Subject, trial: Trial) -> None:
        self.site = site
        self.subject = subject
        self.trial = trial
        self.metric = Metric(trial.metrics, trial.tolerance)

    def prepare(self) -> None:
        """Raise BadRequest where there is nothing to score, and what says that there is nowhere to run code."""
        self.subject.needs(self.trial.split)
        _ = self.isolation

    @property
    def isolation(self) -> str:
        """Where code runs, in words; only an RLM has any, and to find that out may start a server."""
        return self.site.sandboxes.isolation.label if self.subject.definition.kind == "rlm" else NO_SANDBOX

    def message(self) -> str:
        return f"evaluate {self.subject.name} on {self.subject.dataset}"

    def bind(self, budget: Budget, emit: Emit) -> Recursion:
        return Recursion(self.site, budget, emit)

    def started(self, inputs: dict[str, Any], budget: Budget) -> RunStarted:
        return RunStarted(
            program=self.subject.name,
            message=self.message(),
            model=self.site.models.label,
            limits=budget.limits,
            isolation=self.isolation,
            note=f"model from {self.site.models.source}",
            dataset=self.subject.dataset,
            trial=self.trial,
        )

    def __call__(self, recursion: Recursion, inputs: dict[str, Any]) -> dspy.Prediction:
        subject, split = self.subject, self.trial.split
        scorer = self.scorer(recursion)
        recursion.recorder.note(PhaseStarted(phase="scoring"))
        rows = subject.of_split(split)
        found = scorer.score(build(subject.definition), rows, subject.name, is_needed=True)
        score, errors = mean(found), sum(one.failure is not None for one in found)
        failed = f", of which {errors} failed" if errors else ""
        return dspy.Prediction(
            answer=f"{subject.name} scores {score:.3f} on {split} of {subject.dataset} ({len(rows)} rows{failed})",
            program=subject.name,
            scores={subject.name: {split: score}},
            rows=len(rows),
            errors=errors,
        )

    def scorer(self, recursion: Recursion) -> Scorer:
        if self.subject.unfit:
            lacking = f"{self.subject.unfit} rows of {self.subject.dataset} lack fields of the program and are left out"
            recursion.recorder.note(Log(level="warning", text=lacking))
        return Scorer(recursion, self.subject, self.metric)


def mean(found: Sequence[Outcome]) -> float:
    return math.fsum(one.score for one in found) / len(found)


def _workers(limits: Limits, definition: Definition) -> int:
    return min(limits.batch, limits.sandboxes) if definition.kind == "rlm" else limits.batch


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)
