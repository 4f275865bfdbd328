"""Every error of ours, sorted by who must act on it.

FleetError(text, hint)
├── ForModel       becomes an observation; the run goes on
│   ├── ToolFailed · DepthExceeded · SandboxesExceeded · SubCallsExceeded · SandboxCodeFailed ·
│   │   CallCancelled
├── EndsRun        sticky; becomes run.ended
│   ├── BudgetExceeded · DeadlineExceeded · Cancelled · Interrupted
├── ForUser        said before any work
│   ├── BadSettings · NoSuchSession · NoSuchRun · NoSuchSandbox · SessionBusy ·
│   │   KeyReused · BadPath (NotText, BadUrl) · BadRequest (NoSuchDataset,
│   │   NoSuchProgram, NoSuchMemory) · CellFailed · ModelFailed
├── SandboxError   the machine under the code
│   ├── SandboxUnavailable   retry is safe
│   └── SandboxLost          its state is gone
│       └── OutcomeUnknown   whether the cell came to its end, too
├── ServerUnavailable   a Jupyter server does not answer
└── StoreFailed    what should survive could not be read or written
    └── ManifestConflict    two stores know different things of one session
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Generator
from contextlib import contextmanager
from typing import Literal

from pydantic import ConfigDict

from fleet_rlm_jupyter.domain.words import Grown

SandboxPhase = Literal[
    "", "clone", "snapshot", "volume", "create", "fork", "resume", "connect", "stage", "execute", "clean-up"
]
"""Where in a sandbox's life something failed; empty where it was elsewhere or is not known."""


class FleetError(Exception):
    """One sentence that says what is wrong (`text`), one that names the next step (`hint`).

    `code` is stable: programs may compare it, texts may change. `phase` is set by `during`.
    """

    code = "error"
    phase: SandboxPhase = ""

    def __init__(self, text: str, hint: str = "") -> None:
        super().__init__(text)
        self.text = text
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.text} ({self.hint})" if self.hint else self.text

    def lines(self) -> list[str]:
        """What a person is shown: what is wrong, and the next step."""
        return [f"error: {self.text}", *([f"next:  {self.hint}"] if self.hint else [])]

    def _render_traceback_(self) -> list[str]:
        """What IPython shows while this is being raised; `%tb`, which comes afterwards, gets the whole traceback."""
        return traceback.format_exception(self) if sys.exc_info()[1] is None else self.lines()


class ForModel(FleetError):
    """The model reads it and may adapt; the run goes on."""

    code = "for_model"


class ToolFailed(ForModel):
    """A host tool could not do what generated code asked for."""

    code = "tool_failed"


class DepthExceeded(ForModel):
    """A child would be deeper than `budget.depth`."""

    code = "depth_exceeded"


class SandboxesExceeded(ForModel):
    """A child would need more live sandboxes than `budget.sandboxes`."""

    code = "sandboxes_exceeded"


class SubCallsExceeded(ForModel):
    """More sub-queries than `budget.sub_calls`; the planner may still finish with what it has."""

    code = "sub_calls_exceeded"


class SandboxCodeFailed(ForModel):
    """Generated code raised."""

    code = "sandbox_code_failed"


class CallCancelled(ForModel):
    """Somebody stopped this part of the run; the rest goes on."""

    code = "call_cancelled"


class EndsRun(FleetError):
    """Sticky: once raised in a run, every later LM call of that run raises it again."""

    code = "ends_run"


class BudgetExceeded(EndsRun):
    """Calls, tokens or money are used up."""

    code = "budget_exceeded"


class DeadlineExceeded(EndsRun):
    """The run's seconds are used up."""

    code = "deadline"


class Cancelled(EndsRun):
    """Somebody stopped the run."""

    code = "cancelled"


class Interrupted(EndsRun):
    """The process that worked on the run ended before it, and nobody had stopped the run."""

    code = "interrupted"

    def __init__(
        self,
        text: str = "the process that worked on this run ended",
        hint: str = "ask again; what it found is kept",
    ) -> None:
        super().__init__(text, hint)


class ForUser(FleetError):
    """The caller must change something."""

    code = "for_user"


class BadSettings(ForUser):
    """A setting is missing, unknown or has a value that cannot work."""

    code = "bad_settings"


class NoSuchSession(ForUser):
    """No session of that id belongs to this user."""

    code = "no_such_session"


class NoSuchRun(ForUser):
    """No run of that id belongs to this user."""

    code = "no_such_run"


class NoSuchSandbox(ForUser):
    """No live sandbox of that id belongs to this user."""

    code = "no_such_sandbox"


class SessionBusy(ForUser):
    """A run of the session is still going on, and the question was not to wait for it."""

    code = "session_busy"


class KeyReused(ForUser):
    """The idempotency key stands for another request already."""

    code = "key_reused"

    @classmethod
    def of(cls, key: str) -> KeyReused:
        return cls(f"the key {key} stands for another request already", "use a new key for a new one")


class BadPath(ForUser):
    """A path does not exist, cannot be read or leaves its root."""

    code = "bad_path"


class NotText(BadPath):
    """A file is there but holds no text that can be read."""

    code = "not_text"


class BadUrl(BadPath):
    """A URL may not be fetched, or what is behind it cannot be a context."""

    code = "bad_url"


class BadRequest(ForUser):
    """The question or an argument cannot be worked on."""

    code = "bad_request"


class NoSuchDataset(BadRequest):
    """There is no dataset of that name, or it belongs to somebody else."""

    code = "no_such_dataset"


class NoSuchProgram(BadRequest):
    """There is no program of that name or version, or it belongs to somebody else."""

    code = "no_such_program"


class NoSuchMemory(BadRequest):
    """There is no item of memory of that id, or it belongs to somebody else."""

    code = "no_such_memory"


class CellFailed(ForUser):
    """A cell of the user's own raised in the sandbox; `trace` is the sandbox's traceback."""

    code = "cell_failed"

    def __init__(self, text: str, hint: str = "", trace: str = "") -> None:
        super().__init__(text, hint)
        self.trace = trace


class ModelFailed(ForUser):
    """The language model refused, timed out or answered nothing usable."""

    code = "model_failed"


class ServerUnavailable(FleetError):
    """A Jupyter server does not answer, or not as one with this package does."""

    code = "server_unavailable"


class SandboxError(FleetError):
    """Something about the machine under the code."""

    code = "sandbox_error"


class SandboxUnavailable(SandboxError):
    """No sandbox could be had; trying again is safe."""

    code = "sandbox_unavailable"


class SandboxLost(SandboxError):
    """The sandbox ended and its variables with it."""

    code = "sandbox_lost"


class OutcomeUnknown(SandboxLost):
    """The line to a running cell broke for good: whether the cell came to its end is not known. It never runs again."""

    code = "outcome_unknown"


class StoreFailed(FleetError):
    """The store cannot be opened, read or written; a run goes on without it and says so."""

    code = "store_failed"


class ManifestConflict(StoreFailed):
    """A session's volume holds a manifest of another store, which is left as it is; no answer is lost by that."""

    code = "manifest_conflict"


@contextmanager
def during(phase: SandboxPhase) -> Generator[None]:
    """What the sandbox fails with inside is said to have failed in `phase`, unless a narrower one is known already.

    Also a decorator. Errors of others that pass through, such as a model's or a stop, have no phase.
    """
    try:
        yield
    except (SandboxError, BadSettings, BadRequest, BadPath) as err:
        err.phase = phase_of(err) or phase
        raise


def phase_of(error: BaseException | None) -> SandboxPhase:
    """The phase of an error of ours, or of the nearest that it came from."""
    while isinstance(error, FleetError) and not error.phase:
        error = error.__cause__
    return error.phase if isinstance(error, FleetError) else ""


class ErrorText(Grown):
    """An error as events and JSON carry it: `code` is its category, `hint` the next step.

    `phase` is where in a sandbox's life it failed, where that is known.
    """

    model_config = ConfigDict(extra="ignore")

    _later = ("phase",)

    code: str
    text: str
    hint: str = ""
    phase: SandboxPhase = ""

    @classmethod
    def of(cls, error: BaseException) -> ErrorText:
        if isinstance(error, FleetError):
            return cls(code=error.code, text=error.text, hint=error.hint, phase=phase_of(error))
        return cls(
            code="internal", text=f"{type(error).__name__}: {error}", hint="run again with --debug for the traceback"
        )
