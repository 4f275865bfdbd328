"""A loopback server that speaks the Daytona API and runs each sandbox as an isolated local process.

`main(argv)` is the program. `serve` is imported on first use: by then the fork server, which imports the same
libraries, has been started and does so at the same time.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fleet_rlm_jupyter.localdaytona.cli import main
    from fleet_rlm_jupyter.localdaytona.server import serve

__all__ = ["main", "serve"]

_HOMES = {"main": "cli", "serve": "server"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        home = "unsupported" if sys.platform == "win32" else _HOMES[name]
        return getattr(importlib.import_module(f"{__name__}.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
