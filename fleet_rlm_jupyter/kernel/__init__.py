"""The notebook surface: magics, variables as contexts, live lines, and what a saved notebook shows.

`magics` is all that `%load_ext` imports; the other modules bring pydantic and DSPy in and are imported on first use.
"""

from __future__ import annotations

import importlib
from typing import Any

_MODULES = {
    "arguments",
    "bundle",
    "cells",
    "completion",
    "connect",
    "display",
    "export",
    "handles",
    "looks",
    "magics",
    "memory",
    "page",
    "programs",
    "resume",
    "sandboxes",
    "variables",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
