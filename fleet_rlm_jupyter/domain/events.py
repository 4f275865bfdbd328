"""The one vocabulary that leaves a run: an envelope around a fact in the past tense."""

from __future__ import annotations

import json
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, TypeAdapter

from fleet_rlm_jupyter.domain.errors import ErrorText

VERSION = 1
PREVIEW_BYTES = 2000

RunStatus = Literal["done", "failed", "cancelled", "over_budget", "abstained"]
CallKind = Literal["agent", "rlm", "lm", "tool", "code"]
SandboxState = Literal["creating", "ready", "reused", "resumed", "recreated", "lost", "deleted"]
Channel = Literal["answer", "thought", "stdout", "stderr"]


class _Word(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Usage(_Word):
    """What was spent. `None` means unknown, which is not the same as zero. `cost` is in US dollars."""

    calls: int = 0
    tokens_in: int | None = None
    tokens_out: int | None = None
    cost: float | None = None
    seconds: float | None = None


class Limits(_Word):
    """What a whole recursion tree may spend. `None` means no limit."""

    calls: int = Field(default=150, gt=0, description="LM calls, planner and sub-queries together")
    sub_calls: int = Field(default=50, gt=0, description="LM calls made by generated code")
    tokens: int | None = Field(default=None, gt=0, description="tokens in and out")
    cost: float | None = Field(default=None, gt=0, description="US dollars")
    seconds: float = Field(default=900, gt=0, description="wall-clock seconds for the run")
    depth: int = Field(default=2, gt=0, description="levels of RLM below the chat agent")
    sandboxes: int = Field(default=8, gt=0, description="sandboxes alive at the same time")
    siblings: int = Field(default=4, gt=0, description="children of one call that run at the same time")
    batch: int = Field(default=16, gt=0, description="sub-queries of one batch that run at the same time")


class RunStarted(_Word):
    type: Literal["run.started"] = "run.started"
    program: str
    message: str
    model: str
    limits: Limits
    isolation: str
    note: str = ""


class RunEnded(_Word):
    """The last event of a run; there is exactly one. `outputs` are the program's further fields."""

    type: Literal["run.ended"] = "run.ended"
    status: RunStatus
    answer: str | None = None
    outputs: dict[str, JsonValue] = {}
    error: ErrorText | None = None


class CallStarted(_Word):
    type: Literal["call.started"] = "call.started"
    parent_id: str | None
    kind: CallKind
    name: str
    depth: int
    inputs: dict[str, str] = {}
    iteration: str | None = None


class CallText(_Word):
    type: Literal["call.text"] = "call.text"
    channel: Channel
    text: str


class CallEnded(_Word):
    type: Literal["call.ended"] = "call.ended"
    outputs: str = ""
    error: ErrorText | None = None
    usage: Usage | None = None


class BudgetSpent(_Word):
    """Totals for the whole tree, with their limits."""

    type: Literal["budget.spent"] = "budget.spent"
    calls: int
    sub_calls: int
    tokens: int | None
    cost: float | None
    seconds: float
    sandboxes: int
    limits: Limits


class SandboxChanged(_Word):
    type: Literal["sandbox.changed"] = "sandbox.changed"
    sandbox_id: str
    state: SandboxState
    isolation: str
    origin: Literal["fork", "clean"] = "clean"
    reason: str = ""


class ArtifactWritten(_Word):
    type: Literal["artifact.written"] = "artifact.written"
    path: str
    bytes: int
    sha256: str


class QuestionAsked(_Word):
    type: Literal["question.asked"] = "question.asked"
    text: str
    options: list[str] = []


class ScoreReported(_Word):
    type: Literal["score.reported"] = "score.reported"
    candidate: str
    split: str
    score: float


class Log(_Word):
    type: Literal["log"] = "log"
    level: Literal["debug", "info", "warning", "error"]
    text: str


class Unrecognized(_Word):
    """A fact from a newer version: carried along, never interpreted."""

    type: str
    data: dict[str, JsonValue]


KnownFact = (
    RunStarted | RunEnded | CallStarted | CallText | CallEnded | BudgetSpent
    | SandboxChanged | ArtifactWritten | QuestionAsked | ScoreReported | Log
)  # fmt: skip
Fact = KnownFact | Unrecognized

_FACTS: TypeAdapter[KnownFact] = TypeAdapter(Annotated[KnownFact, Field(discriminator="type")])
_TYPES = {
    "run.started", "run.ended", "call.started", "call.text", "call.ended", "budget.spent",
    "sandbox.changed", "artifact.written", "question.asked", "score.reported", "log",
}  # fmt: skip


class Event(_Word):
    """One fact with its place: `seq` counts 0, 1, 2… per run without gaps, `at` is seconds since the epoch, UTC."""

    v: int = VERSION
    seq: int
    at: float
    session_id: str
    run_id: str
    call_id: str | None
    fact: Fact

    def encode(self) -> str:
        """One line of JSON: the envelope, then `type` and `data`."""
        if isinstance(self.fact, Unrecognized):
            kind, data = self.fact.type, self.fact.data
        else:
            kind, data = self.fact.type, self.fact.model_dump(mode="json", exclude={"type"})
        line = {
            "v": self.v, "seq": self.seq, "at": self.at, "session_id": self.session_id,
            "run_id": self.run_id, "call_id": self.call_id, "type": kind, "data": data,
        }  # fmt: skip
        return json.dumps(line, ensure_ascii=False, separators=(",", ":"))

    @classmethod
    def decode(cls, line: str | bytes) -> Event:
        """The inverse of `encode`. An unknown `type` becomes `Unrecognized`; raises ValueError on anything else."""
        raw = json.loads(line)
        if not isinstance(raw, dict) or not isinstance(raw.get("data"), dict) or not isinstance(raw.get("type"), str):
            raise ValueError("an event is a JSON object with a text `type` and an object `data`")
        kind, data = raw.pop("type"), raw.pop("data")
        known = kind in _TYPES
        fact = _FACTS.validate_python({"type": kind, **data}) if known else Unrecognized(type=kind, data=data)
        return cls.model_validate({**raw, "fact": fact})


def preview(value: object) -> str:
    """`value` as text of at most PREVIEW_BYTES bytes, its head and tail kept, the cut said."""
    text = value if isinstance(value, str) else _as_text(value)
    raw = text.encode("utf-8", "replace")
    if len(raw) <= PREVIEW_BYTES:
        return raw.decode("utf-8")
    half = (PREVIEW_BYTES - 60) // 2
    head, tail = raw[:half].decode("utf-8", "ignore"), raw[-half:].decode("utf-8", "ignore")
    return f"{head}\n… {len(raw) - 2 * half:,} bytes left out …\n{tail}"


def _as_text(value: object) -> str:
    # A preview must not walk a 100 MB container only to throw it away.
    if isinstance(value, dict):
        shown = {str(key): _short(value[key]) for key in list(value)[:8]}  # pyright: ignore[reportUnknownArgumentType]
        return f"dict of {len(value)}: {shown}"
    if isinstance(value, list | tuple):
        return f"{type(value).__name__} of {len(value)}: {[_short(item) for item in value[:8]]}"
    return _short(value)


def _short(value: object) -> str:
    return value[:200] if isinstance(value, str) else repr(value)[:PREVIEW_BYTES]
