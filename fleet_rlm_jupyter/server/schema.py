"""What goes over the wire: bodies, queries, frames of the socket, and the codes of what is wrong with them."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from fleet_rlm_jupyter.domain.calls import CallTree
from fleet_rlm_jupyter.domain.errors import ErrorText, SandboxPhase
from fleet_rlm_jupyter.domain.events import BudgetSpent, CallKind, CodeResult, Limits, RunStatus, SandboxChanged, Usage
from fleet_rlm_jupyter.domain.ports import Entry
from fleet_rlm_jupyter.domain.session import KeptRun, KeptSession
from fleet_rlm_jupyter.domain.shown import LiveSandbox, ShownSetting
from fleet_rlm_jupyter.domain.words import Grown

MAX_SEQ = 2**53

MAX_FILE_BYTES = 256 * 1024**2
"""Of a file of a session."""


FRAME_CODES = {
    "bad_json": "the frame or body is no JSON object",
    "binary_frame": "the frame is binary; frames are text",
    "too_large": "larger than 1 MB; contexts go by PUT /contexts/{sha256}",
    "too_deep": "nested deeper than 32 levels",
    "unknown_op": "there is no such op",
    "unknown_field": "a field that the op does not have",
    "missing_field": "a field that the op needs is not there",
    "wrong_type": "a field has a value of the wrong type",
    "too_many": "more than 32 ops of this socket are under way",
    "strikes": "a hundred bad frames in a row: the socket is closed",
}
"""Codes of the socket's error frames, beside those of docs/reference/errors.md."""

_SEE = "GET /fleet/api/v1/openapi.json has every field"
_CODE_OF = {
    "extra_forbidden": "unknown_field",
    "missing": "missing_field",
}


class Wire(BaseModel):
    """A model that crosses the wire: unknown fields are refused, infinities are not JSON."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, hide_input_in_errors=True)


class Problem(Grown):
    """What is wrong, in one sentence, and the next step. `code` is stable.

    `phase` says where in a sandbox's life it failed; left out where it was elsewhere.
    """

    _later = ("phase",)

    code: str
    message: str
    hint: str = ""
    phase: SandboxPhase = ""


class ContextRef(Wire):
    """A context that was uploaded: its digest, and what its bytes are.

    A text, JSON of texts by name, or a table with its types: Arrow's stream, or columns as this package writes them.
    """

    sha256: str = Field(max_length=64)
    kind: Literal["text", "json", "arrow", "columns"] = "text"
    note: str = Field(default="", max_length=1000, description="what its user is to be told of it, beside its size")


class Readable(Wire):
    """With which libraries tables are read; with none of them only texts are."""

    libraries: list[str]


class StartBody(Wire):
    """What all have that starts a run."""

    limits: Limits | None = Field(default=None, description="what the run may spend; else the settings' budget")
    key: str | None = Field(default=None, min_length=1, max_length=200, description="the same key never runs twice")


class AskBody(StartBody):
    """A question, over a context that was uploaded or over files under the server's root folder."""

    question: str = Field(max_length=200_000)
    session_id: str | None = Field(
        default=None, description="whose turn this is; the user's current one where left out"
    )
    context: ContextRef | None = None
    paths: list[str] = Field(default=[], max_length=1000, description="files, folders under the server's root")
    mode: Literal["auto", "rlm_only", "direct"] = "auto"
    recipe: str | None = None
    slots: dict[str, str] = {}
    when_busy: Literal["refuse", "queue"] = Field(default="refuse", description="where a run of the session goes on")
    can_answer: bool = Field(default=False, description="the run may ask back; the op `answer` answers")
    repo_url: str | None = Field(default=None, max_length=2000, description="repository for the sandbox to hold")
    repo_ref: str | None = Field(default=None, max_length=300, description="its branch, tag or commit id")
    context_paths: list[str] = Field(default=[], max_length=1000, description="of there too, staged in the sandbox")
    snapshot: bool = Field(default=False, description="keep what is asked and told, to be evaluated on")
    staged: str | None = Field(default=None, max_length=64, description="digest of an uploaded manifest of such files")


class RunBody(StartBody):
    """What a program is run on."""

    inputs: dict[str, JsonValue]
    session_id: str | None = None


class CancelBody(Wire):
    """What to stop: the whole run, or one call of it and what is below."""

    call_id: str | None = None


class AnswerBody(Wire):
    """The answer to an open `question.asked`."""

    call_id: str
    text: str = Field(max_length=100_000)


class UpdatesBody(Wire):
    """Settings to change, by dotted name; a value of stars changes nothing."""

    updates: dict[str, JsonValue]


class SettingsList(Wire):
    """Every setting, keys as stars."""

    settings: list[ShownSetting]


class SandboxesList(Wire):
    """The user's live sandboxes, newest first."""

    sandboxes: list[LiveSandbox]


class Pruned(Wire):
    """How many of what was left behind are surely gone."""

    sandboxes: int


class UploadQuery(Wire):
    """Which part of a context comes."""

    offset: int = Field(default=0, ge=0, le=MAX_SEQ, description="bytes that came before; what comes is all the rest")


class Upload(Wire):
    """How much of a context is here; an upload that broke off goes on at `received`."""

    sha256: str
    is_complete: bool
    received: int


class RunsQuery(Wire):
    """Which runs."""

    search: str = Field(default="", max_length=500, description="in the question, or the beginning of the id")
    session_id: str | None = None
    limit: int = Field(default=20, ge=1, le=200)
    before: float | None = Field(default=None, description="only runs that began before, seconds since the epoch")


class RunsPage(Wire):
    """Runs, newest first."""

    runs: list[KeptRun]


class EventsQuery(Wire):
    """Which events of a run."""

    since: int = Field(default=0, ge=0, le=MAX_SEQ)
    limit: int = Field(default=1000, ge=1, le=5000)


class ValueQuery(Wire):
    """Which value of a run."""

    call_id: str
    name: str = Field(default="outputs", description="an input by its name, or `outputs`")


class ValueBody(Wire):
    """The full text behind a preview."""

    text: str


class FeedbackBody(Wire):
    """What its user thinks of a turn."""

    rating: Literal[-1, 0, 1] = Field(description="1 good, -1 bad, 0 neither")
    expected: str = Field(default="", max_length=100_000, description="the answer that was expected")
    comment: str = Field(default="", max_length=10_000)


class SessionsQuery(Wire):
    """Which sessions."""

    search: str = Field(default="", max_length=500, description="in the title")
    archived: bool = False
    limit: int = Field(default=50, ge=1, le=200)
    cursor: str | None = Field(default=None, max_length=200, description="of the page before")


class SessionPage(Wire):
    """Sessions, last used first; `cursor` leads to the next page, null: there is none."""

    sessions: list[KeptSession]
    cursor: str | None


class SessionBody(Wire):
    """A session's title."""

    title: str = Field(default="", max_length=500)


class TreeQuery(Wire):
    """What of a session's files."""

    path: str = Field(default="", description="a folder; all of them where left out")
    depth: int = Field(default=10, ge=1, le=100)
    most: int = Field(default=2000, ge=1, le=20_000, description="most entries")


class FileQuery(Wire):
    """Which file of a session."""

    path: str = Field(description="relative, below memory/, artifacts/, buffers/ or meta/")


class ReadQuery(FileQuery):
    """Which file of a session, and how much of it is wanted at most."""

    most_bytes: int = Field(default=1_000_000, ge=0, le=MAX_FILE_BYTES, description="a larger file is refused")


class FolderBody(Wire):
    """A folder to make."""

    path: str


class MoveBody(Wire):
    """A file or folder, and where it goes."""

    path: str
    to: str


class FileEntry(Wire):
    """Something on a volume."""

    path: str
    kind: Literal["file", "folder", "link", "other"]
    bytes: int
    modified_at: float

    @classmethod
    def of(cls, entry: Entry) -> FileEntry:
        return cls.model_validate(entry, from_attributes=True)


class FileTree(Wire):
    """What is there; `is_cut`: there is more than was asked for."""

    entries: list[FileEntry]
    is_cut: bool


class CallBody(Wire):
    """One node of the recursion tree."""

    id: str
    parent_id: str | None
    kind: CallKind | None
    name: str
    depth: int
    iteration: str | None
    inputs: dict[str, str]
    code_sha256: str = Field(description="of code: the first 16 digits of the SHA-256 of all of it")
    texts: dict[str, str]
    outputs: str
    result: CodeResult = Field(description="how code ended; empty for any other call")
    error: ErrorText | None
    usage: Usage | None
    total: Usage | None = Field(description="of an RLM: what it spent with everything below it, and its seconds")
    started_at: float | None
    ended_at: float | None


class TreeBody(Wire):
    """A run as one looks at it; `status` is null while it goes on."""

    run_id: str
    status: RunStatus | None
    answer: str | None
    outputs: dict[str, JsonValue]
    error: ErrorText | None
    spent: BudgetSpent | None
    sandboxes: dict[str, SandboxChanged] = Field(description="by id, what was last said of it; a child's has `child`")
    calls: list[CallBody]
    last_seq: int

    @classmethod
    def of(cls, tree: CallTree) -> TreeBody:
        calls = [
            CallBody(**{name: getattr(call, name) for name in CallBody.model_fields}) for call in tree.calls.values()
        ]
        rest = {name: getattr(tree, name) for name in cls.model_fields if name != "calls"}
        return cls(calls=calls, **rest)


class Accepted(Wire):
    """The run that works on it; with a key that was used before, the run of then."""

    run_id: str
    session_id: str


class Worker(Wire):
    """The process that holds the Workbench."""

    state: str
    running: int
    problem: Problem | None = None


class Status(Wire):
    """Who is here."""

    version: str
    api: int
    user: str
    where: str
    worker: Worker


class Identity(Wire):
    """Who the server thinks is asking, and whose sessions they therefore see."""

    user: str
    username: str
    name: str
    provider: str


class CheckResult(Wire):
    """One thing looked at: whether it works, what was seen, and the next step."""

    name: str
    is_good: bool
    text: str
    hint: str = ""


class SmokeBody(Wire):
    """A repository that the sandbox is to hold, too."""

    repo_url: str | None = Field(default=None, max_length=2000)
    repo_ref: str | None = Field(default=None, max_length=300, description="its branch, tag or commit id")


class SizeBody(Wire):
    """What a sandbox is to have; what is left out stays."""

    cpu: int | None = Field(default=None, ge=1, description="cores")
    memory_gb: int | None = Field(default=None, ge=1)
    disk_gb: int | None = Field(default=None, ge=1, description="can only grow")


class Checks(Wire):
    """Everything looked at; `is_ready` when nothing is missing that a run needs."""

    is_ready: bool
    checks: list[CheckResult]


def frame_problem(error: ValidationError) -> Problem:
    """The first thing wrong with a body or frame; what was sent is not repeated, it may be a key."""
    first = error.errors(include_url=False, include_input=False)[0]
    code = _CODE_OF.get(first["type"], "wrong_type")
    where = ".".join(str(part) for part in first["loc"] if part != "function-wrap")
    message = first["msg"].removeprefix("Value error, ")
    return Problem(code=code, message=f"{where}: {message}" if where else message, hint=_SEE)
