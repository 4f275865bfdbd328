"""How runs happen: models, meter, recursion, recorder."""

from __future__ import annotations

import importlib
from typing import Any


def __getattr__(name: str) -> Any:
    # It imports DSPy, which a client of a server seldom needs.
    if name == "saved":
        return importlib.import_module(f"{__name__}.saved")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
