"""Our sandboxes at one level of isolation, or a skip where the machine does not offer it."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import pytest

from fleet_rlm_jupyter.domain.errors import FleetError
from fleet_rlm_jupyter.sandbox.daytona import DaytonaSandboxes
from fleet_rlm_jupyter.settings import SandboxSettings, Settings


@contextmanager
def sandboxes_at(level: str, **given: Any) -> Generator[DaytonaSandboxes]:
    """Closed at the end; `given` are more settings of a sandbox."""
    home = DaytonaSandboxes(Settings(sandbox=SandboxSettings(level=level, allow_unisolated=True, **given)))
    try:
        _skip_unless_offered(home, level)
        yield home
    finally:
        home.close()


def _skip_unless_offered(home: DaytonaSandboxes, level: str) -> None:
    try:
        assert home.isolation.level == level
    except FleetError as err:
        if "no sandbox can be had here" not in err.text:
            raise  # a server that does not start is no missing level
        pytest.skip(f"{level} is not offered here: {err}")
