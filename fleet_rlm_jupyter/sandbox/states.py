"""The state that a sandbox is in at the service, and how it comes into another."""

from __future__ import annotations

from typing import Any

from fleet_rlm_jupyter.domain.errors import SandboxLost
from fleet_rlm_jupyter.sandbox.client import CALL_SECONDS, DaytonaClient

START_SECONDS = 120
RESTORE_SECONDS = 600
"""An archived sandbox comes back from cold storage."""


def state_of(sandbox: Any) -> str:
    """The service's word: started, stopped, archived…"""
    return str(getattr(sandbox.state, "value", sandbox.state)).lower()


def started(client: DaytonaClient, sandbox: Any) -> str:
    """Have it running; returns what it had come to meanwhile, empty if it was running all the time.

    Raises SandboxLost for one that cannot be started, and SandboxUnavailable.
    """
    state = state_of(sandbox)
    if state == "started":
        return ""
    if state in ("stopping", "archiving"):
        _wait(client, sandbox.wait_for_sandbox_stop, START_SECONDS)
        state = "stopped"
    if state in ("stopped", "archived"):
        _wait(client, sandbox.start, RESTORE_SECONDS if state == "archived" else START_SECONDS)
        return f"it was {state}"
    if state in ("creating", "starting", "restoring", "resuming"):
        seconds = RESTORE_SECONDS if state == "restoring" else START_SECONDS
        _wait(client, sandbox.wait_for_sandbox_start, seconds)
        return f"it was {state}"
    if state == "error" and sandbox.recoverable:
        _wait(client, sandbox.recover, START_SECONDS)
        return "it was recovered from an error"
    why = f": {sandbox.error_reason}" if sandbox.error_reason else ""
    raise SandboxLost(f"it is in the state {state}{why}", "ask again")


def stopped(client: DaytonaClient, sandbox: Any) -> None:
    """Have it stopped, its files kept; an archived one is started for that. Raises what `started` raises."""
    if state_of(sandbox) != "stopped":
        started(client, sandbox)
        _wait(client, sandbox.stop, START_SECONDS)


def _wait(client: DaytonaClient, act: Any, seconds: float) -> None:
    client.call(act(timeout=seconds), seconds + CALL_SECONDS)
