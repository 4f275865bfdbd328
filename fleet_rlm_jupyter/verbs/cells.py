"""Cells of the user's own in a session's sandbox, `%%fleet_sandbox`: no model is asked, and variables stay."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from dspy.primitives.code_interpreter import CodeExecutionError, CodeInterpreterError, FinalOutput

from fleet_rlm_jupyter.domain.errors import BadRequest, BadSettings, CellFailed, SandboxError
from fleet_rlm_jupyter.domain.events import ArtifactWritten, SandboxChanged
from fleet_rlm_jupyter.domain.ports import OnOutput, PullableInterpreter, Role, Sandboxes
from fleet_rlm_jupyter.domain.session import new_id
from fleet_rlm_jupyter.verbs.house import House

OnArtifact = Callable[[ArtifactWritten], None]


@dataclass(frozen=True, slots=True)
class Executed:
    """What a cell printed, with the value it ended with, bounded; `submitted` is what it gave to SUBMIT."""

    text: str
    submitted: dict[str, Any] | None = None


class Cells:
    """One REPL beside those of the session's runs: the same sandbox and files, variables of its own.

    One cell at a time. It starts with the first cell, and anew after its sandbox was lost. The code is the user's, who
    may run it as they are: where no isolation is to be had it runs without, which `start` tells.
    """

    def __init__(self, house: House, session_id: str) -> None:
        self.session_id = session_id
        self._house = house
        self._repl: PullableInterpreter | None = None
        self._changed: SandboxChanged | None = None
        self._on_output: OnOutput | None = None
        self._on_artifact: OnArtifact | None = None
        self._lock = threading.Lock()

    def start(self) -> SandboxChanged | None:
        """Have a REPL: what was told of its sandbox if it is a new one. Raises SandboxUnavailable and BadSettings."""
        with self._lock:
            if self._repl is not None:
                return None
            role = Role(self.session_id, new_id("r"), "cells", 1, is_kept=True, is_beside=True)
            repl = self._home().open(role, self._show, self._take)
            repl.start()
            self._repl = repl
            return self._changed

    def execute(
        self,
        code: str,
        variables: dict[str, Any] | None = None,
        seconds: float | None = None,
        on_output: OnOutput | None = None,
        on_artifact: OnArtifact | None = None,
    ) -> Executed:
        """Run a cell, for at most `seconds`; `on_output` sees what it prints as it does.

        When it has run, also where it failed, `on_artifact` is told of each file below artifacts/ that it wrote.

        Raises CellFailed for what the code raised, BadRequest for a value that cannot travel, SandboxLost, and what
        `start` raises. A KeyboardInterrupt stops the cell; its variables stay if it yields (see `is_alive`).
        """
        most = self._house.settings.sandbox.cell_seconds
        if seconds is not None and not 0 < seconds <= most:
            raise BadRequest(f"seconds is a number above 0 and at most {most:g}", "sandbox.cell_seconds allows more")
        self.start()
        printed: list[str] = []

        def show(stream: Literal["stdout", "stderr"], text: str) -> None:
            printed.append(text)
            if on_output is not None:
                on_output(stream, text)

        self._on_output, self._on_artifact = show, on_artifact
        is_late = threading.Event()
        with _Alarm(seconds, lambda: (is_late.set(), self.interrupt())):
            try:
                result = self._asked(lambda repl: repl.execute(code, variables))
            except CellFailed as err:
                trace = err.trace.removeprefix("".join(printed)).strip("\n")
                if is_late.is_set() and "KeyboardInterrupt" in trace:
                    late = f"TimeoutError: the cell ran longer than {seconds:g} s and was stopped"
                    raise CellFailed(late, "its variables are kept; give it more --seconds", trace) from None
                raise CellFailed(_last_line(trace), err.hint, trace) from None
        if isinstance(result, FinalOutput):
            return Executed("".join(printed), result.output)
        return Executed(str(result or ""))

    def pull(self, name: str) -> Any:
        """A variable's value; "_" is what the last cell ended with. Plain values, arrays, Series and DataFrames.

        Raises CellFailed for one that is not there or cannot travel, and SandboxLost.
        """
        self.start()
        try:
            return self._asked(lambda repl: repl.pull(name))
        except CellFailed as err:
            text = f"{'the value' if name == '_' else name} cannot come out: {_last_line(err.trace)}"
            raise CellFailed(text, "pull plain values, arrays, Series and DataFrames") from None

    def interrupt(self) -> None:
        """Stop the running cell, from any thread."""
        repl = self._repl
        if repl is not None:
            repl.interrupt()

    def is_alive(self) -> bool:
        """Whether the variables are still there: asks the REPL, between two cells."""
        try:
            self._asked(lambda repl: repl.execute(""))
        except (SandboxError, CellFailed, BadRequest):
            return False
        return True

    def close(self) -> None:
        """End the REPL; its variables go, the session's sandbox and files stay."""
        repl, self._repl = self._repl, None
        if repl is not None:
            repl.shutdown()

    def _home(self) -> Sandboxes:
        """Where the session's runs are; where they may not run, as at level L1, where only trusted code may."""
        try:
            is_offline = self._house.models().is_offline
        except BadSettings:
            is_offline = False
        home = self._house.sandboxes(trusted_code=is_offline)
        try:
            _ = home.isolation
        except BadSettings:
            return self._house.sandboxes(trusted_code=True)
        return home

    def _asked(self, do: Callable[[PullableInterpreter], Any]) -> Any:
        repl = self._repl
        if repl is None:
            raise BadRequest("no cell has run here yet", "start one")
        try:
            return do(repl)
        except (CodeExecutionError, SyntaxError) as err:
            trace = str(err)
            raise CellFailed(_last_line(trace), "", trace) from err
        except CodeInterpreterError as err:
            if isinstance(err.__cause__, SandboxError):
                self.close()
                raise err.__cause__ from None
            raise BadRequest(str(err)) from err

    def _show(self, stream: Literal["stdout", "stderr"], text: str) -> None:
        if self._on_output is not None:
            self._on_output(stream, text)

    def _take(self, fact: SandboxChanged | ArtifactWritten) -> None:
        if isinstance(fact, SandboxChanged):
            self._changed = fact
        elif self._on_artifact is not None:
            self._on_artifact(fact)


class _Alarm:
    """Calls `act` unless what is inside ends within `seconds`."""

    def __init__(self, seconds: float | None, act: Callable[[], object]) -> None:
        self._timer = None if seconds is None else threading.Timer(seconds, act)

    def __enter__(self) -> None:
        if self._timer is not None:
            self._timer.daemon = True
            self._timer.start()

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()


def _last_line(trace: str) -> str:
    lines = [line for line in trace.splitlines() if line.strip()]
    return lines[-1].strip() if lines else "the cell failed"
