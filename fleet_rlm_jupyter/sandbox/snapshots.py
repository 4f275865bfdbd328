"""Whether the snapshot that sandboxes are to be made of is there, and large enough."""

from __future__ import annotations

from fleet_rlm_jupyter.domain.errors import BadSettings, SandboxLost
from fleet_rlm_jupyter.sandbox.client import CALL_SECONDS, DaytonaClient
from fleet_rlm_jupyter.sandbox.retries import retried
from fleet_rlm_jupyter.settings import SandboxSettings


def preflight(client: DaytonaClient, settings: SandboxSettings) -> None:
    """Raise BadSettings, with the command that builds it, for a snapshot that is missing, not ready or too small."""
    name = settings.snapshot
    if name is None or not client.is_remote:
        return
    wanted = {"cpu": settings.cpu or 1, "memory": settings.memory_gb or 1, "disk": settings.disk_gb or 1}
    sizes = " ".join(f"--{option} {value}" for option, value in wanted.items())
    build = f"build it: daytona snapshot create {name} --image python:3.12-slim {sizes}"
    try:
        known = client.get()
        found = client.call(retried(lambda: known.snapshot.get(name)), CALL_SECONDS)
    except SandboxLost as err:  # not found
        raise BadSettings(f"there is no snapshot {name} at Daytona", build) from err
    state = str(getattr(found.state, "value", found.state)).lower()
    if state != "active":
        raise BadSettings(f"the snapshot {name} is {state}", f"activate it at Daytona, or {build}")
    has = {"cpu": found.cpu, "memory": found.mem, "disk": found.disk}
    small = [f"{option} {has[option]:g} < {value}" for option, value in wanted.items() if has[option] < value]
    if small:
        raise BadSettings(
            f"the snapshot {name} is too small: {', '.join(small)}", build.replace("build it", "rebuild it")
        )
