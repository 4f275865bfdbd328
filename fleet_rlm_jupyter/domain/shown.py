"""What anybody may see of a Workbench: its settings with keys as stars, and what can be run by name."""

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


class ProgramInfo(BaseModel):
    """A program, what it takes and what it gives."""

    model_config = ConfigDict(frozen=True)

    name: str
    description: str
    inputs: list[str]
    outputs: list[str]
