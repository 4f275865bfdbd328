"""Session, Turn and Run as records: what a conversation is, and what became of each message."""

from __future__ import annotations

import secrets
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from fleet_rlm_jupyter.domain.errors import ErrorText
from fleet_rlm_jupyter.domain.events import RunStatus, Usage


def new_id(prefix: Literal["s", "r", "t"]) -> str:
    """An id of 80 random bits that says what it names: s-… session, r-… run, t-… turn."""
    return f"{prefix}-{secrets.token_hex(10)}"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Run(_Record):
    """One execution of one program, as it ended. `model` and `sandbox` say what it ran on, in words."""

    run_id: str
    session_id: str
    program: str
    question: str
    status: RunStatus
    answer: str | None = None
    outputs: dict[str, JsonValue] = {}
    error: ErrorText | None = None
    usage: Usage = Usage()
    model: str = ""
    sandbox: str = ""


class Turn(_Record):
    """One message and its answer, backed by one run."""

    turn_id: str = Field(default_factory=lambda: new_id("t"))
    message: str
    run: Run


class Session(_Record):
    """A conversation with memory."""

    session_id: str = Field(default_factory=lambda: new_id("s"))
    turns: tuple[Turn, ...] = ()

    def after(self, turn: Turn) -> Session:
        return self.model_copy(update={"turns": (*self.turns, turn)})
