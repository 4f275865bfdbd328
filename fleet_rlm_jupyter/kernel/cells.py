"""`%%fleet_sandbox`: a cell's code goes to the session's sandbox, its lines come here as they are written."""

from __future__ import annotations

import ast
import sys
from collections.abc import Mapping
from typing import Any, Literal

from fleet_rlm_jupyter.domain.events import ArtifactWritten, SandboxChanged
from fleet_rlm_jupyter.domain.lines import written_line
from fleet_rlm_jupyter.domain.masking import Mask
from fleet_rlm_jupyter.kernel.arguments import SandboxArguments
from fleet_rlm_jupyter.kernel.handles import Notebook
from fleet_rlm_jupyter.terminal import clean

MOST_TOLD = 20


class SandboxCell:
    """One cell in the sandbox of this kernel's questions."""

    def __init__(self, book: Notebook, mask: Mask) -> None:
        self._book = book
        self._mask = mask
        self._cells = book.bench().cells()
        self._is_in_line = False

    def run(self, code: str, variables: Mapping[str, object], given: SandboxArguments) -> Any:
        """Run it and show what it prints; what `-o` asks for, else None. Raises FleetError; CellFailed for the code's.

        The first cell says where it runs, and each which files below artifacts/ it wrote.
        """
        changed = self._cells.start()
        if changed is not None:
            print(clean(self._mask(self._where(changed))), flush=True)
        wrote: list[ArtifactWritten] = []
        try:
            done = self._cells.execute(code, dict(variables), given.seconds, self._show, wrote.append)
        finally:
            self._tell(wrote)
        if given.out is None:
            return None
        if done.submitted is not None:
            return done.submitted
        return self._cells.pull("_" if ends_with_value(code) else given.out)

    def after_interrupt(self) -> str:
        """What became of the cell that was interrupted."""
        kept = "are kept" if self._cells.is_alive() else "are gone; the next cell begins anew"
        return f"interrupted: the cell was stopped, the sandbox's variables {kept}"

    def _tell(self, wrote: list[ArtifactWritten]) -> None:
        lines = [written_line(one) for one in wrote[:MOST_TOLD]]
        if len(wrote) > MOST_TOLD:
            lines.append(f"and {len(wrote) - MOST_TOLD:,} files more were written")
        if lines and self._is_in_line:
            print()
        for line in lines:
            print(clean(self._mask(line)), flush=True)

    def _show(self, stream: Literal["stdout", "stderr"], text: str) -> None:
        self._is_in_line = not text.endswith("\n")
        print(clean(self._mask(text)), end="", file=sys.stderr if stream == "stderr" else sys.stdout, flush=True)

    def _where(self, changed: SandboxChanged) -> str:
        parts = [f"in this kernel's sandbox {changed.sandbox_id[:12]}: {changed.isolation}"]
        if changed.reason:
            parts.append(changed.reason)
        if self._book.place().server is not None:
            parts.append("questions run on the server, in another one")
        return "; ".join(parts)


def ends_with_value(code: str) -> bool:
    """Whether the last statement is an expression, whose value is shown."""
    body = ast.parse(code).body
    return bool(body) and isinstance(body[-1], ast.Expr)
