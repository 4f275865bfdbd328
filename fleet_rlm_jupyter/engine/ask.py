"""The program behind a question: the route it takes, and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import dspy

from fleet_rlm_jupyter.domain.budget import Budget
from fleet_rlm_jupyter.domain.events import RunStarted
from fleet_rlm_jupyter.domain.question import Mode
from fleet_rlm_jupyter.engine.recorder import Emit
from fleet_rlm_jupyter.engine.recursion import Recursion, Site

SMALL_TOKENS = 16_000
"""Below about this size a plain call is as good as an RLM and cheaper (arXiv 2512.24601, figure 1)."""


@dataclass(frozen=True, slots=True)
class Route:
    """A plain call or an RLM, and the reason in words."""

    name: Literal["direct", "rlm"]
    reason: str


def route(mode: Mode, context: object, is_offline: bool) -> Route:
    """Which way a question over `context` goes."""
    if mode == "rlm_only":
        return Route("rlm", "asked for")
    if mode == "direct":
        return Route("direct", "asked for")
    if is_offline:
        return Route("rlm", "offline recipes work in the REPL")
    tokens = _characters(context) // 4
    if tokens < SMALL_TOKENS:
        return Route("direct", f"about {tokens:,} tokens fit a plain call")
    return Route("rlm", f"about {tokens:,} tokens are too many for a plain call")


class Ask:
    """Answers `question` over `context` (a text, or texts by path)."""

    def __init__(self, site: Site, mode: Mode = "auto", notes: str = "") -> None:
        self._site = site
        self._mode: Mode = mode
        self._notes = notes

    def prepare(self, inputs: dict[str, Any]) -> None:
        """Raise BadSettings or SandboxUnavailable now if there is nowhere to run code, and not in mid-run."""
        if self._route(inputs).name == "rlm":
            _ = self._site.sandboxes.isolation

    def bind(self, budget: Budget, emit: Emit) -> Recursion:
        return Recursion(self._site, budget, emit)

    def started(self, inputs: dict[str, Any], budget: Budget) -> RunStarted:
        chosen = self._route(inputs)
        models = self._site.models
        notes = [f"model from {models.source}", f"route {chosen.name}: {chosen.reason}"]
        if self._notes:
            notes.append(f"context {self._notes}")
        return RunStarted(
            program="ask",
            message=str(inputs["question"]),
            model=models.label,
            limits=budget.limits,
            isolation=self._site.sandboxes.isolation.label if chosen.name == "rlm" else "no sandbox (plain call)",
            note="; ".join(notes),
        )

    def __call__(self, recursion: Recursion, inputs: dict[str, Any]) -> dspy.Prediction:
        if self._route(inputs).name == "rlm":
            return recursion.rlm(**inputs)
        return dspy.Predict("context, question -> answer")(
            context=_as_text(inputs["context"]), question=inputs["question"]
        )

    def _route(self, inputs: dict[str, Any]) -> Route:
        return route(self._mode, inputs["context"], self._site.models.is_offline)


def _characters(context: object) -> int:
    if isinstance(context, dict):
        return sum(len(text) for text in context.values())
    return len(str(context))


def _as_text(context: object) -> str:
    if isinstance(context, dict):
        return "\n\n".join(f"=== {path} ===\n{text}" for path, text in context.items())
    return str(context)
