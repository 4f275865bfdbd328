"""What tests of programs on this package need: a scripted model and sandboxes without a server."""

from __future__ import annotations

import itertools
import json
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import dspy
from dspy import lm15

from fleet_rlm_jupyter.domain.errors import BadRequest, NoSuchSandbox
from fleet_rlm_jupyter.domain.events import Limits, SandboxChanged, SandboxState
from fleet_rlm_jupyter.domain.ports import (
    Allocation,
    Files,
    Interpreter,
    Isolation,
    OnFact,
    OnOutput,
    PullableInterpreter,
    Role,
    Sandboxes,
)
from fleet_rlm_jupyter.domain.shown import LiveSandbox, Size
from fleet_rlm_jupyter.engine.models import ANSWER, Models
from fleet_rlm_jupyter.sandbox import volume_tool
from fleet_rlm_jupyter.sandbox.files import VolumeFiles
from fleet_rlm_jupyter.settings import Settings, StoreSettings
from fleet_rlm_jupyter.workbench import Workbench

Policy = Callable[[str], str]
"""From the text of a prompt to the text of the reply."""


def code(source: str, reasoning: str = "next step") -> str:
    """The reply of a planner that wants `source` run."""
    return f"[[ ## reasoning ## ]]\n{reasoning}\n\n[[ ## code ## ]]\n```python\n{source}\n```\n\n[[ ## completed ## ]]"


class ScriptedEngine:
    """A DSPy engine that answers by a policy or from a list. Thread-safe; `prompts` keeps what it was asked.

    `seconds` is how long each call takes; `failures` maps the number of a call (0, 1, 2…) to what it raises.
    """

    def __init__(
        self,
        script: Policy | Iterable[str],
        seconds: float = 0.0,
        usage: tuple[int, int] | None = None,
        failures: dict[int, Exception] | None = None,
    ) -> None:
        self._replies = None if callable(script) else iter(script)
        self._policy = script if callable(script) else self._next
        self._seconds = seconds
        self._usage = lm15.Usage(*usage) if usage else lm15.Usage()
        self._failures = failures or {}
        self._count = itertools.count()
        self._lock = threading.Lock()
        self._in_flight = 0
        self.most_in_flight = 0
        self.prompts: list[str] = []

    @property
    def calls(self) -> int:
        return len(self.prompts)

    def complete(self, request: lm15.Request) -> lm15.Response:
        prompt = prompt_of(request)
        with self._lock:
            number = next(self._count)
            self.prompts.append(prompt)
            self._in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self._in_flight)
        try:
            time.sleep(self._seconds)
            if number in self._failures:
                raise self._failures[number]
            text = self._policy(prompt)
        finally:
            with self._lock:
                self._in_flight -= 1
        message = lm15.Message(role="assistant", parts=(lm15.TextPart(text),))
        return lm15.Response(id=None, model=request.model, message=message, finish_reason="stop", usage=self._usage)

    def close(self) -> None:
        """Nothing is open."""

    def _next(self, prompt: str) -> str:
        with self._lock:
            assert self._replies is not None
            reply = next(self._replies, None)
        if reply is None:
            raise lm15.ServerError("the script is at its end")
        return reply


def prompt_of(request: lm15.Request) -> str:
    """The text of a request: system, then messages."""
    parts: list[str] = []
    system = request.system
    if isinstance(system, str):
        parts.append(system)
    else:
        parts.extend(part.text for part in system or () if isinstance(part, lm15.TextPart))
    for message in request.messages:
        parts.extend(part.text for part in message.parts if isinstance(part, lm15.TextPart))
    return "\n".join(parts)


def scripted_models(engine: ScriptedEngine, sub: ScriptedEngine | None = None) -> Models:
    """Models whose planner (and sub-queries, unless `sub` is given) are answered by `engine`."""
    planner = dspy.LM("scripted/planner", engine=engine, cache=False, num_retries=0)
    asked = dspy.LM("scripted/sub", engine=sub, cache=False, num_retries=0) if sub else planner
    return Models(planner, asked, "scripted model", "test", is_offline=False, signature=ANSWER)


def scripted_workbench(
    script: ScriptedEngine | Policy | Iterable[str],
    sub: ScriptedEngine | None = None,
    home: Sandboxes | None = None,
    **limits: Any,
) -> Workbench:
    """A Workbench on a scripted model, in sandboxes from `home` (UnisolatedSandboxes by default), with `limits`.

    Its runs are kept until the process ends, and not among the user's own.
    """
    engine = script if isinstance(script, ScriptedEngine) else ScriptedEngine(script)
    settings = Settings(budget=Limits(**limits), store=StoreSettings(url=f"sqlite:///{_scratch().name}/fleet.db"))
    return Workbench(settings, home or UnisolatedSandboxes(), scripted_models(engine, sub))


@cache
def _scratch() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="fleet-testing-", ignore_cleanup_errors=True)


class UnisolatedSandboxes:
    """`Sandboxes` on DSPy's LocalInterpreter: a plain subprocess per sandbox, quick to start, no isolation at all.

    No repository or staged file is put anywhere: a role's `workspace` and `staging` can be looked at in `opened`. The
    functions of `sandbox/guest_tools.py` are not there, though a model is told of them.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._live: dict[str, tuple[LiveSandbox, Interpreter]] = {}
        self.most_live = 0
        self.opened: list[Role] = []
        self._folder = tempfile.TemporaryDirectory(prefix="fleet-files-")

    @property
    def isolation(self) -> Isolation:
        return Isolation("L1", "a plain subprocess (tests only)")

    def open(self, role: Role, on_output: OnOutput | None = None, on_fact: OnFact | None = None) -> PullableInterpreter:
        with self._lock:
            self.opened.append(role)
            return _PlainInterpreter(self, f"plain-{next(self._numbers)}", role, on_fact)

    def child(
        self, parent_id: str, role: Role, on_output: OnOutput | None = None, on_fact: OnFact | None = None
    ) -> Interpreter:
        return self.open(role, on_output, on_fact)

    def files(self, session_id: str) -> Files:
        folder = Path(self._folder.name) / session_id
        return VolumeFiles(lambda make: FolderPlace(folder) if make or folder.is_dir() else None)

    @property
    def live(self) -> int:
        return len(self._live)

    def is_gone(self, sandbox_id: str, seconds: float) -> bool:
        return sandbox_id not in self._live

    def list(self) -> list[LiveSandbox]:
        with self._lock:
            return [shown for shown, _ in reversed(self._live.values())]

    def get(self, sandbox_id: str) -> LiveSandbox:
        return self._one(sandbox_id)[0]

    def stop(self, sandbox_id: str) -> None:
        self._one(sandbox_id)[1].shutdown()

    def archive(self, sandbox_id: str) -> None:
        self._refuse(sandbox_id, "archived")

    def resize(self, sandbox_id: str, size: Size) -> None:
        self._refuse(sandbox_id, "resized")

    def start(self, sandbox_id: str) -> None:
        self._one(sandbox_id)  # it runs as long as it is there

    def end_session(self, session_id: str) -> bool:
        kept = [shown.id for shown in self.list() if shown.session == session_id]
        for sandbox_id in kept:
            self.stop(sandbox_id)
        return bool(kept)

    def prune(self) -> int:
        return 0

    def close(self) -> None:
        """Each interpreter is shut down by whoever opened it; the files go."""
        self._folder.cleanup()

    def began(self, sandbox_id: str, role: Role, interpreter: Interpreter) -> None:
        shown = LiveSandbox(
            id=sandbox_id,
            state="started",
            session=role.session_id,
            run=role.run_id,
            role=role.name,
            depth=role.depth,
            created=time.time(),
        )
        with self._lock:
            self._live[sandbox_id] = shown, interpreter
            self.most_live = max(self.most_live, self.live)

    def ended(self, sandbox_id: str) -> None:
        with self._lock:
            self._live.pop(sandbox_id, None)

    def _refuse(self, sandbox_id: str, done: str) -> None:
        self._one(sandbox_id)
        raise BadRequest(f"a plain subprocess cannot be {done}", "it ends with its run")

    def _one(self, sandbox_id: str) -> tuple[LiveSandbox, Interpreter]:
        with self._lock:
            if sandbox_id not in self._live:
                raise NoSuchSandbox(f"there is no sandbox {sandbox_id!r} of yours", "list them: fleet sandboxes")
            return self._live[sandbox_id]


class FolderPlace:
    """A folder of this machine with a volume's roots in it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def ask(self, do: str, **given: Any) -> Any:
        return json.loads(volume_tool.answer(json.dumps({"do": do, "base": str(self._folder), **given})))

    def pieces(self, path: str) -> Iterator[bytes]:
        with (self._folder / path).open("rb") as file:
            while piece := file.read(1_000_000):
                yield piece

    def put(self, path: str, data: bytes | Path) -> None:
        if isinstance(data, Path):
            shutil.copyfile(data, self._folder / path)
        else:
            (self._folder / path).write_bytes(data)


class MemoryAllocations:
    """`Allocations` in memory. `die` makes everything so far the leavings of a process that is gone."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._gone: set[str] = set()
        self.open: dict[str, Allocation] = {}

    def begin(self, labels: Mapping[str, str]) -> str:
        with self._lock:
            entry = f"a-{next(self._numbers)}-{time.monotonic_ns()}"
            self.open[entry] = Allocation(entry, "", dict(labels), time.time())
        return entry

    def made(self, allocation_id: str, sandbox_id: str) -> None:
        with self._lock:
            self.open[allocation_id] = replace(self.open[allocation_id], sandbox_id=sandbox_id)

    def ended(self, allocation_id: str) -> None:
        with self._lock:
            self.open.pop(allocation_id, None)

    def left(self) -> list[Allocation]:
        with self._lock:
            return [one for entry, one in self.open.items() if entry in self._gone]

    def die(self) -> None:
        self._gone.update(self.open)


class _PlainInterpreter(dspy.LocalInterpreter):
    def __init__(self, home: UnisolatedSandboxes, sandbox_id: str, role: Role, on_fact: OnFact | None) -> None:
        super().__init__()
        self._role = role
        self._tell = on_fact
        self._home = home
        self._id = sandbox_id
        self._is_live = False

    @property
    def sandbox_id(self) -> str:
        return self._id if self._is_live else ""

    def start(self) -> None:
        super().start()
        if not self._is_live:
            self._is_live = True
            self._home.began(self._id, self._role, self)
            self._told("ready")

    def pull(self, name: str) -> Any:
        return json.loads(str(self.execute(f"import json; print(json.dumps({name}))")))

    def interrupt(self) -> None:
        self.shutdown()

    def shutdown(self) -> None:
        super().shutdown()
        if self._is_live:
            self._is_live = False
            self._home.ended(self._id)
            self._told("deleted")

    def _told(self, state: SandboxState) -> None:
        if self._tell is not None:
            self._tell(SandboxChanged(sandbox_id=self._id, state=state, isolation=self._home.isolation.label))
