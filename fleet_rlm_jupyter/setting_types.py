"""How the value of a setting is read: from an argument as it is, from a variable as text."""

from __future__ import annotations

import json
import os
import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

URL_PASSWORD = re.compile(r"^(\w[\w+]*://[^:/@]*:)([^@]+)@")
"""The password of a URL is its second group."""


class SettingGroup(BaseModel):
    """Settings that belong together; a name that it does not have is refused."""

    # An error must not repeat its input: a key may stand where it does not belong.
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, hide_input_in_errors=True)


def _url(text: str) -> str:
    if not text.startswith(("http://", "https://")):
        raise ValueError("a URL begins with http:// or https://")
    return text


Url = Annotated[str, AfterValidator(_url)]


def _words(value: object) -> object:
    """A list, also as a variable has it: parts between commas or blanks."""
    return value.replace(",", " ").split() if isinstance(value, str) else value


def _pairs(value: object) -> object:
    """A map, also as a variable has it: NAME=VALUE parts between commas, or a JSON object."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("{"):
        return json.loads(value)
    parts = [part.strip().partition("=") for part in value.split(",")]
    return {name: text if sign else None for name, sign, text in parts}  # None is refused, by its name


Words = Annotated[tuple[str, ...], BeforeValidator(_words)]
Folders = Annotated[tuple[str, ...], BeforeValidator(lambda v: v.split(os.pathsep) if isinstance(v, str) else v)]
Pairs = Annotated[dict[str, str], BeforeValidator(_pairs)]
UserName = Annotated[str, Field(pattern=r"^[^\s:]+$")]


def _store_url(text: str) -> str:
    if not text.startswith(("sqlite:///", "postgresql://", "postgresql+psycopg://")):
        raise ValueError("a store is sqlite:///PATH or postgresql://…")
    return text


StoreUrl = Annotated[str, AfterValidator(_store_url)]
