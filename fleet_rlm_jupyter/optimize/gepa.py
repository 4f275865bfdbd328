"""Better instructions for a program by GEPA: proposed by the model from what went wrong, kept where they score more."""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Callable, Sequence
from typing import Any

import dspy
import gepa
from dspy.teleprompt.gepa.gepa_utils import DspyAdapter, LoggerAdapter

from fleet_rlm_jupyter.domain.dataset import DatasetRow, Split
from fleet_rlm_jupyter.domain.errors import Cancelled, EndsRun, StoreFailed
from fleet_rlm_jupyter.domain.events import Log, PhaseStarted
from fleet_rlm_jupyter.domain.optimization import Candidate
from fleet_rlm_jupyter.domain.program import ProgramInfo, Trial
from fleet_rlm_jupyter.engine.recursion import Recursion
from fleet_rlm_jupyter.engine.saved import build, rewritten, strategies
from fleet_rlm_jupyter.engine.site import Site
from fleet_rlm_jupyter.optimize.evaluate import Evaluation, Outcome, Scorer, Subject, mean
from fleet_rlm_jupyter.optimize.metrics import Metric

Keep = Callable[[Candidate], ProgramInfo]
"""Keeps what was found as the next version. Raises StoreFailed."""

MINIBATCH = 3
"""Rows of train that one proposal is made from and tried on."""

CALLS_OF_A_PROPOSAL = 2
"""One, and one more where the reply did not have its form."""

_GEPA: Any = gepa  # its protocols ask for more than is needed


class Improvement(Evaluation):
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
        tested = search.tested()
        name, baseline = self.subject.name, search.baseline
        scores: dict[str, dict[Split, float]] = {name: {"val": baseline}}
        if isinstance(recursion.budget.stopped, Cancelled) or search.best.name == name:
            answer = f"no better version of {name} is kept: it scores {baseline:.3f} on val of {self.subject.dataset}"
            return dspy.Prediction(answer=answer, program="", scores=scores, instructions={})
        found = dict(search.best.scores)
        if tested is not None:
            scores[name]["test"], found["test"] = tested
        label = self._kept(recursion, search.best.model_copy(update={"scores": found}))
        scores[label or search.best.name] = found
        gains = ", ".join(f"{split} {scores[name][split]:.3f} → {score:.3f}" for split, score in found.items())
        told = f"{label}, not approved" if label else "which could not be kept"
        answer = f"better than {name}: {told}; {gains}"
        return dspy.Prediction(answer=answer, program=label, scores=scores, instructions=search.best.instructions)

    def _kept(self, recursion: Recursion, best: Candidate) -> str:
        recursion.recorder.note(PhaseStarted(phase="saving"))
        try:
            return self._keep(best).label
        except StoreFailed as err:
            recursion.recorder.note(Log(level="error", text=f"the version is not kept: {err}"))
            return ""


class _Search(DspyAdapter):
    """One search by GEPA. `best` is known as soon as it is found, however the search ends.

    It is DSPy's adapter for GEPA with our runner: DSPy's own runs slow rows again and takes a stop for a wrong answer.
    Candidates are the tasks only; the protocol of an RLM's REPL is put behind them when a program is built.
    """

    def __init__(self, recursion: Recursion, subject: Subject, trial: Trial, scorer: Scorer, metric: Metric) -> None:
        self._recursion = recursion
        self._subject = subject
        self._trial = trial
        self._scorer = scorer
        self._metric = metric
        self._calls_per_row = 0.0
        self._valued = 0
        self.baseline = 0.0
        student = build(subject.definition)
        tasks = {name: task for name, (task, _) in strategies(student).items()}
        self.best = Candidate(name=subject.name, instructions=tasks)
        super().__init__(
            student_module=student,
            metric_fn=metric,
            feedback_map=dict.fromkeys(tasks, self._feedback),
            rng=random.Random(trial.seed),
            reflection_lm=recursion.planner,
            reflection_minibatch_size=MINIBATCH,
        )

    def run(self) -> None:
        """Search until the rounds, the budget or the room for improvement are used up.

        Raises what ends the run where not even the program itself could be scored.
        """
        self._enter("baseline")
        try:
            _GEPA.optimize(
                seed_candidate=self.best.instructions,
                trainset=self._subject.of_split("train"),
                valset=self._subject.of_split("val"),
                adapter=self,
                reflection_minibatch_size=MINIBATCH,
                stop_callbacks=self._is_over,
                logger=LoggerAdapter(logging.getLogger("fleet_rlm_jupyter.optimize")),
                raise_on_exception=True,
                seed=self._trial.seed,
            )
        except EndsRun:
            if not self._valued:
                raise

    def tested(self) -> tuple[float, float] | None:
        """The scores of the program as it was and of the best one on the rows held out.

        None where there are no such rows or nothing was found, and where the budget does not allow it any more.
        """
        rows = self._subject.of_split("test")
        if not rows or self.best.name == self._subject.name or self._recursion.budget.stopped is not None:
            return None
        self._enter("test")
        try:
            before = self._scorer.score(self.student, rows, self._subject.name)
            after = self._scorer.score(self.build_program(self.best.instructions), rows, self.best.name)
        except EndsRun:
            return None
        return mean(before), mean(after)

    def build_program(self, candidate: dict[str, str]) -> dspy.Module:
        return rewritten(self._subject.definition, candidate)

    def evaluate(
        self,
        batch: Sequence[DatasetRow],
        candidate: dict[str, str],
        capture_traces: bool = False,
        num_threads: Any = None,
    ) -> Any:
        module = self.build_program(candidate)
        is_chosen_by = batch[0].split == "val"
        found = self._valued_on(module, batch, candidate) if is_chosen_by else self._scorer.outcomes(module, batch)
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

    def _valued_on(self, module: dspy.Module, val: Sequence[DatasetRow], tasks: dict[str, str]) -> list[Outcome]:
        """GEPA scores on all of val first the program as it is, then each proposal that did well on a few rows."""
        name = f"candidate {self._valued}" if self._valued else self._subject.name
        found = self._scorer.score(module, val, name, is_needed=not self._valued)
        score = mean(found)
        if not self._valued:
            self.baseline = score
            self._calls_per_row = self._recursion.budget.spent().calls / len(val)
            self._enter("search")
        if not self._valued or score > self.best.scores["val"]:
            self.best = Candidate(name=name, instructions=dict(tasks), scores={"val": score})
        self._valued += 1
        return found

    def _is_over(self, state: Any) -> bool:
        rounds = int(state.i) + 1
        is_perfect = self.best.scores["val"] >= 1.0
        if self._recursion.budget.stopped is not None or is_perfect or rounds >= self._trial.rounds:
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

    def _enter(self, phase: Any) -> None:
        self._recursion.recorder.note(PhaseStarted(phase=phase))

    def _feedback(self, *, module_inputs: DatasetRow, module_outputs: dspy.Prediction, **_: Any) -> dict[str, Any]:
        return self._metric.judge(self._scorer.expected(module_inputs), module_outputs)._asdict()
