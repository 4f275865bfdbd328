"""Session, Turn and Run as records: what a conversation is, and what became of each message."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from fleet_rlm_jupyter.domain.calls import CallTree
from fleet_rlm_jupyter.domain.errors import ErrorText, FleetError
from fleet_rlm_jupyter.domain.events import RunStatus, Usage


def new_id(prefix: Literal["s", "r", "t", "a", "m"]) -> str:
    """An id of 80 random bits that says what it names: session, run, turn, allocation or item of memory."""
    return f"{prefix}-{secrets.token_hex(10)}"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Run(_Record):
    """One execution of one program, as it ended. `model` and `sandbox` say what it ran on, in words.

    `not_kept` says why the store has not all of it; empty where it has.
    """

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
    not_kept: str = ""

    @classmethod
    def of(cls, tree: CallTree, question: str, session_id: str) -> Run:
        """The record of a run whose events were folded to `tree`, its end among them."""
        if tree.status is None:
            raise FleetError("the run ended without saying how", "this is a defect; please report it")
        spent, started = tree.spent, tree.started
        tokens = [call.usage for call in tree.calls.values() if call.usage is not None]
        usage = Usage(
            calls=spent.calls if spent else 0,
            tokens_in=_sum(item.tokens_in for item in tokens),
            tokens_out=_sum(item.tokens_out for item in tokens),
            cost=spent.cost if spent else None,
            seconds=spent.seconds if spent else None,
        )
        return cls(
            run_id=tree.run_id,
            session_id=session_id,
            program=started.program if started else "",
            question=question,
            status=tree.status,
            answer=tree.answer,
            outputs=tree.outputs,
            error=tree.error,
            usage=usage,
            model=started.model if started else "",
            sandbox=started.isolation if started else "",
        )


class Turn(_Record):
    """One message and its answer, backed by one run."""

    turn_id: str = Field(default_factory=lambda: new_id("t"))
    message: str
    run: Run


class Session(_Record):
    """A conversation with memory."""

    session_id: str = Field(default_factory=lambda: new_id("s"))
    title: str = ""
    turns: tuple[Turn, ...] = ()

    def after(self, turn: Turn) -> Session:
        return self.model_copy(update={"turns": (*self.turns, turn)})


class KeptRun(_Record):
    """A line of the list of runs; times are seconds since the epoch. `status` is None while it goes on."""

    run_id: str
    session_id: str
    question: str
    started_at: float
    ended_at: float | None
    status: RunStatus | None


class KeptSession(_Record):
    """A line of the list of sessions; times are seconds since the epoch."""

    session_id: str
    title: str
    created_at: float
    updated_at: float
    archived_at: float | None
    turns: int


class Artifact(_Record):
    """A file of the session's volume, as the call `call_id` wrote it."""

    path: str
    bytes: int
    sha256: str
    run_id: str
    call_id: str | None
    at: float


class DeletedSession(_Record):
    """What is left of a session that was deleted: its files stay in `folder` of `volume`, both empty without a volume.

    `sandbox` is ended, none where it had none, or left where the service could not be reached: that one ends when idle.
    """

    session_id: str
    sandbox: Literal["ended", "none", "left"]
    volume: str
    folder: str


class Feedback(_Record):
    """What its user thought of a turn: 1 good, -1 bad, 0 neither; the answer that was expected; a remark."""

    turn_id: str
    rating: Literal[-1, 0, 1]
    expected: str = ""
    comment: str = ""


class SessionStats(_Record):
    """What a session has cost so far. `by_status` counts turns; unknown tokens or dollars are None."""

    turns: int
    by_status: dict[str, int]
    usage: Usage


def _sum(values: Iterator[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None
