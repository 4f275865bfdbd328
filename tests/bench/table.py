"""The small table in which the figures are printed."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from typing import Any

FIRST, WIDTH = 36, 20


def row(*columns: str) -> None:
    """One line: what is measured, then the figures."""
    print(f"{columns[0]:<{FIRST}}" + "".join(f"{column:>{WIDTH}}" for column in columns[1:]), flush=True)


def seconds(values: list[float]) -> str:
    """The median, in the unit that is easiest to read."""
    value = statistics.median(values)
    return f"{value:.2f} s" if value >= 1 else f"{value * 1000:.2f} ms"


def timed(work: Callable[[], Any], times: int) -> list[float]:
    taken: list[float] = []
    for _ in range(times):
        begun = time.perf_counter()
        work()
        taken.append(time.perf_counter() - begun)
    return taken


def load() -> str:
    return f"load {os.getloadavg()[0]:.1f}"
