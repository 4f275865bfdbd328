"""The one vocabulary that leaves a run: an envelope around a fact in the past tense."""

from __future__ import annotations

import math
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, FiniteFloat, JsonValue, TypeAdapter

from fleet_rlm_jupyter.domain.errors import ErrorText
from fleet_rlm_jupyter.domain.program import Trial
from fleet_rlm_jupyter.domain.strict_json import of_json, to_json
from fleet_rlm_jupyter.domain.words import Grown, Word

VERSION = 1

RunStatus = Literal["done", "failed", "cancelled", "over_budget", "abstained"]
CallKind = Literal["agent", "rlm", "lm", "tool", "code"]
SandboxState = Literal["creating", "ready", "reused", "resumed", "recreated", "lost", "detached", "deleted"]
Channel = Literal["answer", "thought", "stdout", "stderr"]
TrialPhase = Literal["scoring", "baseline", "search", "test", "saving"]
CodeResult = Literal["", "final", "output", "nothing", "exception"]


class Usage(Word):
    """What was spent. `None` means unknown, which is not the same as zero. `cost` is in US dollars."""

    calls: int = 0
    tokens_in: int | None = None
    tokens_out: int | None = None
    cost: float | None = None
    seconds: float | None = None


class Limits(Word):
    """What a whole recursion tree may spend. `None` means no limit."""

    # Infinite seconds fit neither a timer nor JSON.
    model_config = ConfigDict(allow_inf_nan=False)

    calls: int = Field(default=150, gt=0, description="LM calls, planner and sub-queries together")
    sub_calls: int = Field(default=50, gt=0, description="LM calls made by generated code")
    tokens: int | None = Field(default=None, gt=0, description="tokens in and out")
    cost: float | None = Field(default=None, gt=0, description="US dollars")
    seconds: float = Field(default=900, gt=0, le=31_536_000, description="wall-clock seconds for the run")
    depth: int = Field(default=2, gt=0, description="levels of RLM below the chat agent")
    sandboxes: int = Field(default=8, gt=0, description="sandboxes alive at the same time")
    siblings: int = Field(default=4, gt=0, description="children of one call that run at the same time")
    batch: int = Field(default=16, gt=0, description="sub-queries of one batch that run at the same time")


class RunStarted(Grown):
    """The first event of a run. `isolation` says how well its code is kept apart, `note` the route and the context.

    A run that tries a program on a dataset names that, and its `trial`.
    """

    _later = ("dataset", "trial")

    type: Literal["run.started"] = "run.started"
    program: str
    message: str
    model: str
    limits: Limits
    isolation: str
    note: str = ""
    dataset: str = ""
    trial: Trial | None = None


class RunEnded(Word):
    """The last event of a run; there is exactly one. `outputs` are the program's further fields."""

    type: Literal["run.ended"] = "run.ended"
    status: RunStatus
    answer: str | None = None
    outputs: dict[str, JsonValue] = Field(default={})
    error: ErrorText | None = None


class CallStarted(Grown):
    """A node of the recursion tree began; `call_id` names it. `inputs` are previews, `iteration` is "k/N".

    `code_sha256`, for code, is the beginning of the digest of all of it, also where the preview is cut.
    """

    _later = ("code_sha256",)

    type: Literal["call.started"] = "call.started"
    parent_id: str | None
    kind: CallKind
    name: str
    depth: int
    inputs: dict[str, str] = Field(default={})
    iteration: str | None = None
    code_sha256: str = ""


class CallText(Word):
    """Text to append to a channel of a call: the only fact that appends."""

    type: Literal["call.text"] = "call.text"
    channel: Channel
    text: str


class CallEnded(Grown):
    """A node ended; `outputs` is a preview.

    `result` says how code ended: it submitted its `final` answer, gave `output` (what it printed, and its last value)
    or `nothing`, or raised an `exception`; empty where the sandbox failed or the run stopped, and for any other call.
    """

    _later = ("result",)

    type: Literal["call.ended"] = "call.ended"
    outputs: str = ""
    error: ErrorText | None = None
    usage: Usage | None = None
    result: CodeResult = ""


class BudgetSpent(Word):
    """Totals for the whole tree, with their limits."""

    type: Literal["budget.spent"] = "budget.spent"
    calls: int
    sub_calls: int
    tokens: int | None
    cost: float | None
    seconds: float
    sandboxes: int
    limits: Limits


class Lease(Word):
    """What was left of a run's budget when a child's sandbox was asked for. The whole tree draws on it, no child alone.

    `depth` counts the levels that may still be below the child, `calls` and `sub_calls` those that nobody had claimed.
    """

    depth: int
    calls: int
    sub_calls: int
    sandboxes: int
    seconds: float


class ChildIsolation(Grown):
    """How a child's sandbox came about and what passed between it and its parent's.

    `mode` is the setting. Where a fork was tried in vain, `fallback_from` and `fallback_error` say so. `inputs` and
    `artifacts` count the files copied in and out, `texts` are paths of what the host put there: a document, a copy of
    the project. `cleanup` is empty while it lives; deletion goes on behind the run. `cleanup_error` says why it is
    incomplete: which files were left behind. `lease` is what the run could still spend.
    """

    _later = ("texts", "cleanup_error", "lease")

    mode: Literal["auto", "fork", "clean", "context"]
    parent_id: str
    fallback_from: str = ""
    fallback_error: str = ""
    inputs: int = 0
    texts: list[str] = Field(default_factory=list[str])
    artifacts: int = 0
    cleanup: Literal["", "deleting", "shared", "incomplete"] = ""
    cleanup_error: str = ""
    lease: Lease | None = None


class WorkspacePlaced(Word):
    """The files of a repository in a sandbox: `path` is below its working folder, `source` the repository's URL.

    `state` says whether they were made now, found as they were, or brought from another commit to this one.
    """

    path: str
    source: str
    ref: str
    commit: str
    state: Literal["created", "reused", "reconciled"]


class FilesStaged(Word):
    """The files of a question in a sandbox: `path` is below its working folder, `sent` how many were not there.

    `state` says whether they were made now, found as they were, or brought up to date; `left_out` counts what was named
    or lay in a folder and is not there: manifest.json in that folder has the reasons.
    """

    path: str
    files: int
    bytes: int
    sent: int
    removed: int
    left_out: int
    state: Literal["created", "reused", "reconciled"]


class SandboxChanged(Grown):
    """A step in a sandbox's life. `origin` says whether it was forked from its parent's, shares it, or began clean.

    A session's sandbox is `detached` after a run, and then `reused` as it was, `resumed` after it had stopped, or
    `recreated` without what it held; `is_degraded` says that files are gone or no volume could be had. `volume` and
    `subpath` say what is mounted.
    """

    _later = ("is_degraded", "volume", "subpath", "child", "workspace", "staged")

    type: Literal["sandbox.changed"] = "sandbox.changed"
    sandbox_id: str
    state: SandboxState
    isolation: str
    origin: Literal["fork", "clean", "context"] = "clean"
    reason: str = ""
    is_degraded: bool = False
    volume: str = ""
    subpath: str = ""
    child: ChildIsolation | None = None
    workspace: WorkspacePlaced | None = None
    staged: FilesStaged | None = None


class ArtifactWritten(Grown):
    """A file of the session's volume was written. `origin` is the child's sandbox where it was copied from one."""

    _later = ("origin",)

    type: Literal["artifact.written"] = "artifact.written"
    path: str
    bytes: int
    sha256: str
    origin: str = ""


class QuestionAsked(Word):
    """The run asks its user; the verb `answer` answers."""

    type: Literal["question.asked"] = "question.asked"
    text: str
    options: list[str] = Field(default=[])


class MemoryRecalled(Word):
    """Notes that the user approved, by id, as the model is told them; `left_out` counts those that had no room."""

    type: Literal["memory.recalled"] = "memory.recalled"
    items: dict[str, str]
    left_out: int = 0


class ScoreReported(Grown):
    """An evaluation scored a candidate on a split. `instructions` are what it was told, by predictor."""

    _later = ("instructions",)

    type: Literal["score.reported"] = "score.reported"
    candidate: str
    split: str
    score: float
    instructions: dict[str, str] = Field(default={})


class PhaseStarted(Word):
    """A trial of a program came to its next phase."""

    type: Literal["phase.started"] = "phase.started"
    phase: TrialPhase


class RowScored(Word):
    """A candidate was scored on one row of a split; `call_id` is the call that worked on it.

    `expected` and `found` are previews of JSON; a row that failed scores 0 and has an `error`.
    """

    type: Literal["row.scored"] = "row.scored"
    candidate: str
    split: str
    row_id: str
    score: float
    expected: str = ""
    found: str = ""
    error: ErrorText | None = None


class Log(Word):
    """Something worth reading that is no fact about a call."""

    type: Literal["log"] = "log"
    level: Literal["debug", "info", "warning", "error"]
    text: str


class Unrecognized(Word):
    """A fact from a newer version: carried along, never interpreted."""

    type: str
    data: dict[str, JsonValue]


KnownFact = (
    RunStarted | RunEnded | CallStarted | CallText | CallEnded | BudgetSpent
    | SandboxChanged | ArtifactWritten | QuestionAsked | MemoryRecalled | ScoreReported | PhaseStarted | RowScored | Log
)  # fmt: skip
Fact = KnownFact | Unrecognized

_FACTS: TypeAdapter[KnownFact] = TypeAdapter(Annotated[KnownFact, Field(discriminator="type")])
_TYPES = {
    "run.started", "run.ended", "call.started", "call.text", "call.ended", "budget.spent",
    "sandbox.changed", "artifact.written", "question.asked", "memory.recalled", "score.reported", "phase.started",
    "row.scored", "log",
}  # fmt: skip


class Event(Word):
    """One fact with its place: `seq` counts 0, 1, 2… per run without gaps, `at` is seconds since the epoch, UTC."""

    v: int = VERSION
    seq: int = Field(ge=0)
    at: FiniteFloat
    session_id: str
    run_id: str
    call_id: str | None
    fact: Fact

    def encode(self) -> str:
        """One line of JSON: the envelope, then `type` and `data`. NaN and infinity, which JSON lacks, become texts."""
        return self._line

    @cached_property
    def _line(self) -> str:
        # The journal, the feed of each run and an export write the same line: it is made once.
        if isinstance(self.fact, Unrecognized):
            kind, data = self.fact.type, self.fact.data
        elif isinstance(self.fact, CallText):  # by far the most
            kind, data = self.fact.type, {"channel": self.fact.channel, "text": self.fact.text}
        else:
            kind, data = self.fact.type, self.fact.model_dump(mode="json", exclude={"type"})
        line = {
            "v": self.v, "seq": self.seq, "at": self.at, "session_id": self.session_id,
            "run_id": self.run_id, "call_id": self.call_id, "type": kind, "data": data,
        }  # fmt: skip
        return to_json(line)

    @classmethod
    def decode(cls, line: str | bytes) -> Event:
        """The inverse of `encode`. An unknown `type` becomes `Unrecognized`; raises ValueError on anything else."""
        return cls.read(of_json(line))

    @classmethod
    def read(cls, raw: Any) -> Event:
        """The event in an object that was JSON; as `decode`."""
        if not isinstance(raw, dict) or not isinstance(raw.get("data"), dict) or not isinstance(raw.get("type"), str):
            raise ValueError("an event is a JSON object with a text `type` and an object `data`")
        envelope = {name: value for name, value in raw.items() if name not in ("type", "data")}
        kind, data = raw["type"], raw["data"]
        known = kind in _TYPES
        # The envelope's type is the type, whatever `data` calls itself.
        fact = _FACTS.validate_python({**data, "type": kind}) if known else Unrecognized(type=kind, data=data)
        return cls._around(fact, envelope)

    @classmethod
    def stamp(cls, fact: Fact, *, seq: int, at: float, session_id: str, run_id: str, call_id: str | None) -> Event:
        """An event of this version around `fact`."""
        envelope = {"seq": seq, "at": at, "session_id": session_id, "run_id": run_id, "call_id": call_id}
        return cls._around(fact, {"v": VERSION, **envelope})

    @classmethod
    def _around(cls, fact: Fact, envelope: dict[str, Any]) -> Event:
        # Traces are made and read by the hundred thousand: an envelope as `encode` writes it need not be looked at.
        if envelope.keys() == _ENVELOPE and _is_plain(envelope):
            return cls.model_construct(_ENVELOPE_AND_FACT, **envelope, fact=fact)
        return cls.model_validate({**envelope, "fact": fact})


_ENVELOPE = {"v", "seq", "at", "session_id", "run_id", "call_id"}
_ENVELOPE_AND_FACT = {*_ENVELOPE, "fact"}


def _is_plain(envelope: dict[str, Any]) -> bool:
    call_id = envelope["call_id"]
    texts = (envelope["session_id"], envelope["run_id"], "" if call_id is None else call_id)
    return (
        type(envelope["v"]) is int
        and type(envelope["seq"]) is int
        and envelope["seq"] >= 0
        and type(envelope["at"]) is float
        and math.isfinite(envelope["at"])
        and all(type(text) is str and text.isascii() for text in texts)
    )
