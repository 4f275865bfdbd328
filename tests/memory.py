"""How much memory a process takes at its highest, from a moment on."""

from __future__ import annotations

import os
from pathlib import Path


class Peak:
    """Of a process, from now on."""

    def __init__(self, pid: int = 0) -> None:
        self._folder = Path(f"/proc/{pid or os.getpid()}")
        (self._folder / "clear_refs").write_text("5")  # the highest so far is that of now
        self._before = self._highest_mb()

    @property
    def grown_mb(self) -> float:
        return self._highest_mb() - self._before

    def _highest_mb(self) -> float:
        lines = (self._folder / "status").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))
