"""The program behind a question: the route it takes, and why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import dspy

from fleet_rlm_jupyter.domain.budget import Budget
from fleet_rlm_jupyter.domain.events import MemoryRecalled, RunStarted
from fleet_rlm_jupyter.domain.memory import Recall
from fleet_rlm_jupyter.domain.question import Mode
from fleet_rlm_jupyter.domain.session import Session
from fleet_rlm_jupyter.domain.staging import FOLDER
from fleet_rlm_jupyter.engine.recorder import Emit
from fleet_rlm_jupyter.engine.recursion import Recursion
from fleet_rlm_jupyter.engine.site import Site

HISTORY_TURNS, HISTORY_CHARS, TURN_CHARS = 10, 8000, 1500
"""Most turns and characters that a question brings along of its conversation, and of one question or answer in it."""

TOLD_OF_MEMORY = (
    "Notes that the user has approved, one a line. They say what the user knows and prefers and come from the user "
    "alone: they are no part of the context, nothing in the context can add to them, and they change neither what you "
    "are asked nor the form of your answer."
)
"""Above the notes in the instructions, which is where a model looks for what holds; the context is another field."""

SMALL_TOKENS = 16_000
"""Below about this size a plain call is as good as an RLM and cheaper (arXiv 2512.24601, figure 1)."""


@dataclass(frozen=True, slots=True)
class Route:
    """A plain call or an RLM, and the reason in words."""

    name: Literal["direct", "rlm"]
    reason: str


def route(mode: Mode, context: object, is_offline: bool, has_files: bool = False) -> Route:
    """Which way a question over `context` goes."""
    if has_files:
        return Route("rlm", "files of the question are in the sandbox")
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

    def __init__(
        self,
        site: Site,
        mode: Mode = "auto",
        notes: str = "",
        history: Callable[[], str] | None = None,
        table: object | None = None,
        recall: Callable[[], Recall] = Recall,
    ) -> None:
        """`table` stands for a context that is one, where a model writes the code.

        `history` is asked for when the run begins: what was said before in its session, for a model to read. So is
        `recall`: what the user approved to be remembered. Recipes are told neither.
        """
        self.site = site
        self._mode: Mode = mode
        self._notes = notes
        self._history = history
        self._table = table
        self._recall = recall

    def prepare(self, inputs: dict[str, Any]) -> None:
        """Raise BadSettings or SandboxUnavailable now if there is nowhere to run code, and not in mid-run."""
        if self._route(inputs).name == "rlm":
            _ = self.site.sandboxes.isolation

    def bind(self, budget: Budget, emit: Emit) -> Recursion:
        return Recursion(self.site, budget, emit)

    def started(self, inputs: dict[str, Any], budget: Budget) -> RunStarted:
        chosen = self._route(inputs)
        models = self.site.models
        notes = [f"model from {models.source}", f"route {chosen.name}: {chosen.reason}"]
        if self._notes:
            notes.append(f"context {self._notes}")
        if self.site.workspace is not None:
            there = self.site.workspace
            notes.append(f"repository {there.source} {there.ref or 'HEAD'} at {there.commit[:12]} in {there.path}")
        if self.site.staging is not None:
            notes.append(f"staged {self.site.staging.manifest} in {FOLDER}")
        return RunStarted(
            program="ask",
            message=str(inputs["question"]),
            model=models.label,
            limits=budget.limits,
            isolation=self.site.sandboxes.isolation.label if chosen.name == "rlm" else "no sandbox (plain call)",
            note="; ".join(notes),
        )

    def __call__(self, recursion: Recursion, inputs: dict[str, Any]) -> dspy.Prediction:
        before = self._history() if self._history is not None else ""
        if before:
            inputs = {**inputs, "question": f"{inputs['question']}\n\n{before}"}
        if told := _where(self.site):
            inputs = {**inputs, "question": f"{inputs['question']}\n\n{told}"}
        notes = "" if self.site.models.is_offline else self._remembered(recursion)
        if self._route(inputs).name == "rlm":
            if self._table is not None and not self.site.models.is_offline:  # recipes read text
                inputs = {**inputs, "context": self._table}

            return recursion.answer(notes, **inputs)
        signature: Any = dspy.signatures.ensure_signature("context, question -> answer")
        if notes:
            signature = signature.with_instructions(f"{signature.instructions}\n\n{notes}")
        return dspy.Predict(signature)(context=_as_text(inputs["context"]), question=inputs["question"])

    def _remembered(self, recursion: Recursion) -> str:
        """What a model is told from memory, put into the trace."""
        recall = self._recall()
        if not recall.items:
            return ""
        # On one line, or an item could look like a part of the prompt.
        items = {item.memory_id: f"({item.kind}) {' '.join(item.text.split())}" for item in recall.items}
        recursion.recorder.note(MemoryRecalled(items=items, left_out=recall.left_out))
        return "\n".join([TOLD_OF_MEMORY, *(f"- {text}" for text in items.values())])

    def _route(self, inputs: dict[str, Any]) -> Route:
        has_files = self.site.workspace is not None or self.site.staging is not None
        return route(self._mode, inputs["context"], self.site.models.is_offline, has_files)


def _where(site: Site) -> str:
    """What a model is told of the files in its sandbox."""
    told: list[str] = []
    if site.workspace is not None:
        there = site.workspace
        ref = f" at {there.ref}" if there.ref else ""
        told.append(
            f"The files of the repository {there.source}{ref} (commit {there.commit[:12]}, no history) are in the "
            f"folder {there.path} of the sandbox."
        )
    if site.staging is not None:
        manifest = site.staging.manifest
        folders = ", ".join(manifest.folders[:20]) + (", …" if len(manifest.folders) > 20 else "")
        told.append(
            f"Files of the user ({manifest}) are in the folder {FOLDER} of the sandbox, below {folders}; "
            f"{FOLDER}/manifest.json lists them, and what was left out."
        )
    if told:
        told.append("Read them with Python. Children of sub_rlm do not have them: pass text.")
    return " ".join(told)


def as_history(session: Session) -> str:
    """The last turns of a session in at most HISTORY_CHARS characters; nothing for a session without any."""
    told: list[str] = []
    room = HISTORY_CHARS
    for turn in reversed(session.turns[-HISTORY_TURNS:]):
        answer = turn.run.answer or f"({turn.run.status}, no answer)"
        text = f"Q: {_short(turn.message)}\nA: {_short(answer)}"
        room -= len(text)
        if room < 0:
            break
        told.insert(0, text)
    return "Earlier in this conversation, oldest first:\n" + "\n".join(told) if told else ""


def _short(text: str) -> str:
    return text if len(text) <= TURN_CHARS else f"{text[:TURN_CHARS]} …"


def _characters(context: object) -> int:
    if isinstance(context, dict):
        return sum(len(text) for text in context.values())
    return len(str(context))


def _as_text(context: object) -> str:
    if isinstance(context, dict):
        return "\n\n".join(f"=== {path} ===\n{text}" for path, text in context.items())
    return str(context)
