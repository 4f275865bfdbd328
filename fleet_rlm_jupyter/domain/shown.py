"""What anybody may see of a Workbench: its settings with keys as stars, live sandboxes."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, JsonValue


class ShownSetting(BaseModel):
    """A setting as anybody may see it: keys are stars."""

    model_config = ConfigDict(frozen=True)

    name: str
    value: JsonValue
    source: str
    description: str
    is_changeable: bool


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
