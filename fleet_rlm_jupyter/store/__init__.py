"""What survives a process: sessions, runs and their events, in SQLite or PostgreSQL.

Its modules import SQLAlchemy and come in when they are used: a run starts without waiting for them.
"""

from __future__ import annotations

from typing import Any

from fleet_rlm_jupyter.deferred import imported

_MODULES = {
    "allocations",
    "archive",
    "contexts",
    "datasets",
    "exports",
    "journal",
    "memory",
    "programs",
    "runs",
    "sessions",
    "snapshots",
    "store",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return imported(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
