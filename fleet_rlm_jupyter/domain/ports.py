"""What the engine asks of the rest of the house."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from fleet_rlm_jupyter.domain.events import ArtifactWritten, Lease, SandboxChanged
from fleet_rlm_jupyter.domain.shown import LiveSandbox, Size
from fleet_rlm_jupyter.domain.staging import Staging

OnOutput = Callable[[Literal["stdout", "stderr"], str], None]
"""Called with the stream and the text while a cell runs, in a copy of the context captured at `execute`."""


@dataclass(frozen=True, slots=True)
class Isolation:
    """How well code is kept apart, shown wherever a run is shown. `level` is remote, L3, L2 or L1."""

    level: str
    label: str
    reason: str = ""


OnFact = Callable[[SandboxChanged | ArtifactWritten], None]
"""Called with what becomes of a sandbox and of files in it, in the thread that starts or ends the interpreter."""


@dataclass(frozen=True, slots=True)
class Workspace:
    """The files of a repository at one commit. `pack` writes them into a file, as a .tar.gz; `digest` tells them apart.

    `release` says that nobody will pack them any more: what they are made of may go.
    `source` is the repository's URL, which holds no password, and `name` the last part of it; `files` counts them.
    """

    name: str
    source: str
    ref: str
    commit: str
    digest: str
    files: int
    pack: Callable[[Path], None]
    release: Callable[[], object]

    @property
    def path(self) -> str:
        """Where a sandbox has it, below its working folder."""
        return f"workspace/{self.name}"


@dataclass(frozen=True, slots=True)
class Role:
    """Whom a sandbox works for; becomes its labels.

    `is_kept`: the sandbox is the session's and outlives this role; who comes next in that session finds its files.
    `files`: paths below the roots of the volume that a child is given copies of, and `texts` (path there, text) what
    it is given from this side; `lease`: what its run could still spend. `is_beside`: its REPL stays in the session's
    sandbox beside those of the runs, and keeps none of them waiting.
    `workspace`: the repository whose files its sandbox holds before the first cell, and `staging`: other files.
    """

    session_id: str
    run_id: str
    name: str
    depth: int
    is_kept: bool = False
    files: tuple[str, ...] = ()
    texts: tuple[tuple[str, str], ...] = ()
    lease: Lease | None = None
    is_beside: bool = False
    workspace: Workspace | None = None
    staging: Staging | None = None


class Interpreter(Protocol):
    """DSPy's `CodeInterpreter` with an identity and a brake (hence more members than a port's usual four).

    Whoever gets one shuts it down; twice is harmless. `tools` is a mutable dict of host functions. Values and errors of
    `execute` are DSPy's: FinalOutput, str or None; CodeExecutionError or SyntaxError for what the code can mend;
    CodeInterpreterError when the session is over. The caller's context is captured at `execute` and used for the tools.
    """

    @property
    def tools(self) -> dict[str, Callable[..., Any]]: ...
    @property
    def output_fields(self) -> list[dict[str, Any]] | None: ...
    @output_fields.setter
    def output_fields(self, fields: list[dict[str, Any]] | None) -> None: ...
    @property
    def sandbox_id(self) -> str: ...  # empty before start
    def start(self) -> None: ...  # idempotent; raises SandboxUnavailable
    def execute(self, code: str, variables: dict[str, Any] | None = None) -> Any: ...
    def interrupt(self) -> None:
        """Stop the running cell from any thread; its variables stay if it yields, else the sandbox is lost."""
        ...

    def shutdown(self) -> None: ...


class PullableInterpreter(Interpreter, Protocol):
    """One whose values come out by name too."""

    def pull(self, name: str) -> Any:
        """The value of a variable; "_" is what the last cell ended with. Raises CodeExecutionError."""
        ...


@dataclass(frozen=True, slots=True)
class Entry:
    """Something on a volume. `kind` is file, folder, link or other; `modified_at` is seconds since the epoch."""

    path: str
    kind: str
    bytes: int
    modified_at: float


@dataclass(frozen=True, slots=True)
class Listing:
    """Entries, a folder before what is in it; `is_cut` says that there is more than was asked for."""

    entries: list[Entry]
    is_cut: bool


class Files(Protocol):
    """The files of one session, by relative paths below the volume's roots (hence more members than usual).

    Reading makes nothing, neither volume nor folder. Links are shown and never followed. A file is written whole; what
    is in a file of this machine is given as its Path and never held in memory.
    Raises BadPath for what is not there, no file, a link or too large, and SandboxUnavailable. Thread-safe.
    """

    def tree(self, path: str = "", depth: int = 10, most: int = 2000) -> Listing: ...
    def read(self, path: str, most_bytes: int = 1_000_000) -> bytes: ...
    def pieces(self, path: str, most_bytes: int) -> Iterator[bytes]:
        """What `read` reads, piece by piece and never held; what it raises is raised at once, or where it breaks."""
        ...

    def write(self, path: str, data: bytes | Path) -> None: ...
    def make_folder(self, path: str) -> None: ...
    def move(self, path: str, to: str) -> None: ...
    def delete(self, path: str) -> None: ...


class Sandboxes(Protocol):
    """Where generated code runs. Whoever opens shuts down; `close` ends whatever is left.

    `list`, `get` and `stop` know every sandbox of ours, those of other processes too where the service is shared; they
    start nothing.
    """

    @property
    def isolation(self) -> Isolation: ...  # may start the local server; raises SandboxUnavailable, BadSettings
    def open(
        self, role: Role, on_output: OnOutput | None = None, on_fact: OnFact | None = None
    ) -> PullableInterpreter: ...
    def child(
        self, parent_id: str, role: Role, on_output: OnOutput | None = None, on_fact: OnFact | None = None
    ) -> Interpreter: ...
    def files(self, session_id: str) -> Files: ...
    def is_gone(self, sandbox_id: str, seconds: float) -> bool:
        """Whether the service has no such sandbox any more; waits so long for that. Raises SandboxUnavailable."""
        ...

    def list(self) -> list[LiveSandbox]: ...  # newest first; raises SandboxUnavailable
    def get(self, sandbox_id: str) -> LiveSandbox: ...  # raises NoSuchSandbox, SandboxUnavailable
    def stop(self, sandbox_id: str) -> None:
        """End it for good; a cell in it ends with SandboxLost. Raises NoSuchSandbox, SandboxUnavailable."""
        ...

    def archive(self, sandbox_id: str) -> None:
        """Stop one that its session keeps and put it away: its files stay, and its session's next turn restores it.

        Like `resize` for whoever saw that nobody works in it. Both raise BadRequest for one that ends with its run, and
        NoSuchSandbox, SandboxUnavailable.
        """
        ...

    def resize(self, sandbox_id: str, size: Size) -> None:
        """Stop one that its session keeps and give it another size; its session's next turn starts it."""
        ...

    def start(self, sandbox_id: str) -> None:
        """Have it running that was stopped, archived or failed in a way that the service mends.

        Raises SandboxLost if it cannot be, NoSuchSandbox, SandboxUnavailable.
        """
        ...

    def end_session(self, session_id: str) -> bool:
        """End the sandbox that a session keeps, had here or left by a process that is gone; whether there was one.

        Its files on the volume stay. Raises SandboxUnavailable.
        """
        ...

    def prune(self) -> int:
        """Delete what processes that are gone left behind; how many are surely gone. Raises SandboxUnavailable."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Allocation:
    """A sandbox that was asked for. `sandbox_id` is empty where the answer did not come any more."""

    allocation_id: str
    sandbox_id: str
    labels: Mapping[str, str]
    created_at: float


class Allocations(Protocol):
    """The journal of sandboxes: written before one is made, so that a crash leaves none behind unseen.

    Never raises, for a journal that fails is no reason for having no sandbox. Thread-safe.
    """

    def begin(self, labels: Mapping[str, str]) -> str:
        """Write down that a sandbox with these labels is about to be asked for; returns the allocation's id."""
        ...

    def made(self, allocation_id: str, sandbox_id: str) -> None: ...
    def ended(self, allocation_id: str) -> None:
        """The sandbox is surely gone, or was never made."""
        ...

    def left(self) -> list[Allocation]:
        """Those of processes that are gone, oldest first: whoever sweeps deletes them and says `ended`."""
        ...


EXECUTION_INSTRUCTIONS = (
    "Code runs as ordinary Python in an isolated sandbox without network. Variables, imports and functions stay "
    "between steps; inputs are set anew before each step. Threads may be used. Tools and SUBMIT are global functions "
    "that take positional and keyword arguments. What is printed and the value of the last expression are shown."
)
"""What the planner is told about the REPL. The same for every back end: saved programs embed it."""
