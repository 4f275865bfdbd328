"""Any DSPy program as a run: its LM calls on our meter, its sandboxes from our factory, its calls in our trace."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dspy

from fleet_rlm_jupyter.domain.budget import Budget
from fleet_rlm_jupyter.domain.events import RunStarted
from fleet_rlm_jupyter.domain.previews import preview
from fleet_rlm_jupyter.domain.question import digest_of
from fleet_rlm_jupyter.engine.recorder import Emit
from fleet_rlm_jupyter.engine.recursion import Recursion
from fleet_rlm_jupyter.engine.site import Site

_RLM: Any = dspy.RLM  # DSPy marks it experimental with a decorator that hides from type checkers that it is a class


class OwnProgram:
    """Runs a copy of `module` on the models in force; an LM that a part of it brings along is metered too.

    An RLM in it takes its sandboxes from the run: depth and machines are limited as everywhere.
    """

    def __init__(self, site: Site, module: dspy.Module, name: str) -> None:
        self.site = site
        self._module = module
        self._name = name

    def prepare(self) -> None:
        """Raise BadSettings or SandboxUnavailable now if there is nowhere to run code, and not in mid-run."""
        _ = self.site.sandboxes.isolation

    def message(self, inputs: Mapping[str, Any]) -> str:
        """What is asked of it, in words."""
        return preview(inputs["question"] if "question" in inputs else dict(inputs))

    def bind(self, budget: Budget, emit: Emit) -> Recursion:
        return Recursion(self.site, budget, emit)

    def started(self, inputs: dict[str, Any], budget: Budget) -> RunStarted:
        return RunStarted(
            program=self._name,
            message=self.message(inputs),
            model=self.site.models.label,
            limits=budget.limits,
            isolation=self.site.sandboxes.isolation.label,
            note=f"model from {self.site.models.source}",
        )

    def __call__(self, recursion: Recursion, inputs: dict[str, Any]) -> dspy.Prediction:
        found: Any = fitted(self._module, recursion)(**inputs)
        return found if isinstance(found, dspy.Prediction) else dspy.Prediction(answer=found)


def fitted(module: dspy.Module, recursion: Recursion) -> dspy.Module:
    """A copy of `module` whose every LM is on the run's meter and whose every RLM takes the run's sandboxes."""
    copy = module.deepcopy()
    for predictor in copy.predictors():
        if isinstance(predictor.lm, dspy.LM):
            predictor.lm = recursion.metered(predictor.lm, sub=False)
    parts: Any = copy.named_sub_modules(_RLM)
    for _, part in parts:
        part.sub_lm = recursion.sub if part.sub_lm is None else recursion.metered(part.sub_lm, sub=True)
        # dspy<3.5: a factory given to the constructor wins over the one of the context.
        part._interpreter_factory = recursion.factory
    return copy


def digest_of_run(program: str | dspy.Module, inputs: Mapping[str, Any]) -> str:
    """What tells this run of `program`, by its name or with its state, from another."""
    what = program if isinstance(program, str) else [type(program).__name__, program.dump_state()]
    return digest_of(["run", what, sorted(inputs.items())])
