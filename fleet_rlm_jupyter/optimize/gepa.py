"""Better instructions for a program by GEPA: proposed by the model from what went wrong, kept where they score more."""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import dspy
import gepa
from dspy.teleprompt.gepa.gepa_utils import DspyAdapter, LoggerAdapter

from fleet_rlm_jupyter.domain.dataset import DatasetRow, Split
from fleet_rlm_jupyter.domain.errors import Cancelled, EndsRun, StoreFailed
from fleet_rlm_jupyter.domain.events import Log
from fleet_rlm_jupyter.domain.program import Definition, ProgramInfo, Trial
from fleet_rlm_jupyter.engine.recursion import Recursion, Site
from fleet_rlm_jupyter.engine.saved import build, definition_of, strategies
from fleet_rlm_jupyter.optimize.evaluate import Evaluation, Scorer, Subject, mean, refuse_failed

Keep = Callable[[Definition, Mapping[Split, float]], ProgramInfo]
"""Keeps what was found as the next version. Raises StoreFailed."""

MINIBATCH = 3
"""Rows of train that one proposal is made from and tried on."""

CALLS_OF_A_PROPOSAL = 2
"""One, and one more where the reply did not have its form."""

_GEPA: Any = gepa  # its protocols ask for more than is needed

_Candidate = dict[str, str]


class Optimization(Evaluation):
    """The program of a run that looks for better instructions and keeps the best as a version that nobody approved yet.

    It learns on train and chooses on val. The rows of test are only seen at the end, once, where something better was
    found. Every LM call of it is on the run's budget, and it ends by itself while that still allows the last scores.
    """

    def __init__(self, site: Site, subject: Subject, trial: Trial, keep: Keep) -> None:
        super().__init__(site, subject, trial)
        self._keep = keep

    def prepare(self) -> None:
        self.subject.needs("train", "val")
        _ = self.isolation

    def message(self) -> str:
        return f"optimize {self.subject.name} on {self.subject.dataset}"

    def __call__(self, recursion: Recursion, inputs: dict[str, Any]) -> dspy.Prediction:
        search = _Search(recursion, self.subject, self.trial, self.scorer(recursion), self.metric)
        search.run()
        subject, name = self.subject, self.subject.name
        scores: dict[str, dict[Split, float]] = {name: {"val": search.baseline}}
        if isinstance(recursion.budget.stopped, Cancelled) or not search.has_found:
            answer = f"no better version of {name} is kept: it scores {search.baseline:.3f} on val of {subject.dataset}"
            return dspy.Prediction(answer=answer, program="", scores=scores, instructions={})
        found: dict[Split, float] = {"val": search.best_score}
        tested = search.tested()
        if tested is not None:
            scores[name]["test"], found["test"] = tested
        made = definition_of(search.program).model_copy(update={"signature": subject.definition.signature})
        label = self._kept(recursion, made, found)
        scores[label or "candidate"] = found
        gains = ", ".join(f"{split} {scores[name][split]:.3f} → {score:.3f}" for split, score in found.items())
        told = f"{label}, not approved" if label else "which could not be kept"
        return dspy.Prediction(
            answer=f"better than {name}: {told}; {gains}", program=label, scores=scores, instructions=search.best
        )

    def _kept(self, recursion: Recursion, definition: Definition, scores: Mapping[Split, float]) -> str:
        try:
            info = self._keep(definition, scores)
        except StoreFailed as err:
            recursion.recorder.note(Log(level="error", text=f"the version is not kept: {err}"))
            return ""
        return f"{info.name}@{info.version}"


class _Search:
    """One search by GEPA. `best` and its score are known as soon as they are found, however the search ends."""

    def __init__(self, recursion: Recursion, subject: Subject, trial: Trial, scorer: Scorer, metric: Any) -> None:
        self._recursion = recursion
        self._subject = subject
        self._trial = trial
        self._scorer = scorer
        self._adapter = _Adapter(recursion, subject, trial, scorer, metric)
        self._calls_per_row = 0.0
        self.baseline = 0.0
        self.best_score = -1.0
        self.best: _Candidate = {}
        self.has_found = False

    def run(self) -> None:
        """Search until the rounds, the budget or the room for improvement are used up.

        Raises what ends the run where not even the program itself could be scored.
        """
        seed = {name: task for name, (task, _) in self._adapter.tasks.items()}
        try:
            _GEPA.optimize(
                seed_candidate=seed,
                trainset=self._subject.of_split("train"),
                valset=self._subject.of_split("val"),
                adapter=self._adapter,
                reflection_minibatch_size=MINIBATCH,
                stop_callbacks=self._is_over,
                callbacks=[self],
                logger=LoggerAdapter(logging.getLogger("fleet_rlm_jupyter.optimize")),
                raise_on_exception=True,
                seed=self._trial.seed,
            )
        except EndsRun:
            if not self.best:
                raise

    def tested(self) -> tuple[float, float] | None:
        """The scores of the program as it was and of the best one on the rows held out, where there are any.

        None where the budget does not allow it any more.
        """
        rows = self._subject.of_split("test")
        if not rows or self._recursion.budget.stopped is not None:
            return None
        before, after = build(self._subject.definition), self.program
        try:
            found = [self._scorer.outcomes(module, rows) for module in (before, after)]
        except EndsRun:
            return None
        first, second = (mean([one.score for one in outcomes]) for outcomes in found)
        self._scorer.report(self._subject.name, "test", first)
        self._scorer.report("best candidate", "test", second)
        return first, second

    @property
    def program(self) -> dspy.Module:
        return self._adapter.build_program(self.best)

    def on_valset_evaluated(self, event: Mapping[str, Any]) -> None:
        """GEPA tells what a candidate scores on all of val; the first one is the program as it is."""
        score, number = float(event["average_score"]), int(event["candidate_idx"])
        if number == 0:
            self.baseline = score
            spent = self._recursion.budget.spent().calls
            self._calls_per_row = spent / len(self._subject.of_split("val"))
        if score > self.best_score:
            self.best_score, self.best, self.has_found = score, dict(event["candidate"]), number > 0
        self._scorer.report(f"candidate {number}" if number else self._subject.name, "val", score)

    def _is_over(self, state: Any) -> bool:
        rounds = int(state.i) + 1
        if self._recursion.budget.stopped is not None or self.best_score >= 1.0 or rounds >= self._trial.rounds:
            return True
        rows_of_a_round = 2 * MINIBATCH + len(self._subject.of_split("val"))
        rows_at_the_end = 2 * len(self._subject.of_split("test"))
        needed = math.ceil(self._calls_per_row * (rows_of_a_round + rows_at_the_end)) + CALLS_OF_A_PROPOSAL
        free, _ = self._recursion.budget.free_calls()
        if free >= needed:
            return False
        text = f"the search ended after {rounds} rounds: {free} LM calls are left, one more round could need {needed}"
        self._recursion.recorder.note(Log(level="info" if rounds else "warning", text=text))
        return True


class _Adapter(DspyAdapter):
    """DSPy's adapter for GEPA with our runner: DSPy's own runs slow rows again and takes a stop for a wrong answer.

    Candidates are the tasks only; the protocol of an RLM's REPL is put behind them when a program is built.
    """

    def __init__(self, recursion: Recursion, subject: Subject, trial: Trial, scorer: Scorer, metric: Any) -> None:
        student = build(subject.definition)
        self.tasks = strategies(student)
        self._scorer = scorer
        self._metric = metric
        super().__init__(
            student_module=student,
            metric_fn=metric,
            feedback_map=dict.fromkeys(self.tasks, self._feedback),
            rng=random.Random(trial.seed),
            reflection_lm=recursion.planner,
            reflection_minibatch_size=MINIBATCH,
        )

    def build_program(self, candidate: _Candidate) -> dspy.Module:
        return super().build_program({name: task + self.tasks[name][1] for name, task in candidate.items()})

    def evaluate(
        self, batch: Sequence[DatasetRow], candidate: _Candidate, capture_traces: bool = False, num_threads: Any = None
    ) -> Any:
        found = self._scorer.outcomes(self.build_program(candidate), batch)
        if not capture_traces and candidate == {name: task for name, (task, _) in self.tasks.items()}:
            refuse_failed(found)  # the program as it is, on all of val
        traces = [
            {"example_ind": at, "example": row, "prediction": one.prediction, "trace": one.trace, "score": one.score}
            for at, (row, one) in enumerate(zip(batch, found, strict=True))
            if one.prediction is not None
        ]
        return _GEPA.EvaluationBatch(
            outputs=[one.prediction for one in found],
            scores=[one.score for one in found],
            trajectories=traces if capture_traces else None,
        )

    def _feedback(self, *, module_inputs: DatasetRow, module_outputs: dspy.Prediction, **_: Any) -> dict[str, Any]:
        return self._metric.judge(self._scorer.expected(module_inputs), module_outputs)._asdict()
