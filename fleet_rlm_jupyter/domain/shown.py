"""What anybody may see of a Workbench: its settings with keys as stars, live sandboxes and what they are made of."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, JsonValue


class ShownSetting(BaseModel):
    """A setting as anybody may see it: keys are stars."""

    model_config = ConfigDict(frozen=True)

    name: str
    value: JsonValue
    source: str
    description: str
    is_changeable: bool


@dataclass(frozen=True, slots=True)
class Size:
    """Of a sandbox or a snapshot: cores and GB, whole numbers above 0; None leaves what it is."""

    cpu: int | None = None
    memory_gb: int | None = None
    disk_gb: int | None = None


class SandboxSnapshot(BaseModel):
    """What sandboxes can be made of at Daytona. `state` is the service's word; only an active one will do.

    `error` says why it could not be built; `created` is in seconds since the epoch.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    state: str
    image: str
    cpu: float
    memory_gb: float
    disk_gb: float
    error: str
    created: float


class LiveSandbox(BaseModel):
    """A sandbox that there is. Nothing of what is in it or of its environment.

    `state` is the service's word: started, stopped, archived… `session`, `run`, `role` and `depth` say whom it works
    for, or worked for last; all empty and 0 while it waits for somebody. `created` is in seconds since the epoch.
    """

    model_config = ConfigDict(frozen=True)

    id: str
    state: str
    session: str
    run: str
    role: str
    depth: int
    created: float
