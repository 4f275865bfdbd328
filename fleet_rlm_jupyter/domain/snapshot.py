"""Snapshot: the inputs of a question, frozen, so that it can be asked again and be a row to evaluate on."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, JsonValue

from fleet_rlm_jupyter.domain.context import ContextDigest
from fleet_rlm_jupyter.domain.events import Limits
from fleet_rlm_jupyter.domain.memory import Recall
from fleet_rlm_jupyter.domain.question import Mode

CONTEXT_FIELD = "fleet_context"
"""A value of a dataset's row that is an object of this name stands for the context that is kept by that digest."""

FROZEN_SETTINGS = (
    "model", "sub_model", "max_tokens", "sandbox.facade", "sandbox.children", "sandbox.cell_seconds",
    "sandbox.output_chars",
)  # fmt: skip
"""Settings that an answer may depend on."""


class Snapshot(BaseModel):
    """What run `run_id` was asked and told: question, context by digest, what was said before, notes, limits.

    `model`, `program` and `settings` say what answered it then; asked again, it is answered by what is in force.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    run_id: str
    session_id: str
    program: str
    question: str
    context: ContextDigest
    mode: Mode
    recipe: str | None
    slots: dict[str, str]
    history: str
    recall: Recall
    model: str
    limits: Limits
    settings: dict[str, JsonValue]
    created_at: float
