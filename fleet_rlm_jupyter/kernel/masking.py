"""Keys and the way to the user's home leave no trace in a saved notebook."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from pydantic import BaseModel, JsonValue, SecretStr

from fleet_rlm_jupyter.settings import Settings

STARS = "**********"
SHORTEST_SECRET = 6
"""Shorter values are no keys; hiding them would tear holes into ordinary words."""

# How the keys of well-known services look, wherever they come from.
_SHAPES = re.compile(
    r"\b(?:sk-[\w-]{16,}|gsk_\w{20,}|hf_\w{20,}|gh[pousr]_\w{30,}|github_pat_\w{30,}|xai-\w{20,}|dtn_\w{20,}"
    r"|AKIA[0-9A-Z]{16}|AIza[\w-]{30,}|xox[abp]-[\w-]{10,})"
)


class Mask:
    """Hides known secrets, what looks like a key, and the home folder's path. `mask(text)` gives the masked text."""

    def __init__(self, secrets: Iterable[str] = (), home: str | None = None) -> None:
        known = sorted({secret for secret in secrets if len(secret) >= SHORTEST_SECRET}, key=len, reverse=True)
        self._known = re.compile("|".join(re.escape(secret) for secret in known)) if known else None
        folder = str(Path.home()) if home is None else home
        self._home = re.compile(re.escape(folder) + r"(?![\w.-])") if len(folder) > 1 else None

    @classmethod
    def of(cls, settings: Settings) -> Mask:
        """What hides every key of `settings`."""
        return cls(_secrets(settings))

    def __call__(self, text: str) -> str:
        if self._known:
            text = self._known.sub(STARS, text)
        text = _SHAPES.sub(STARS, text)
        return self._home.sub("~", text) if self._home else text

    def everywhere(self, value: JsonValue) -> JsonValue:
        """`value` with every text in it masked, keys of objects included."""
        if isinstance(value, str):
            return self(value)
        if isinstance(value, dict):
            return {self(name): self.everywhere(item) for name, item in value.items()}
        return [self.everywhere(item) for item in value] if isinstance(value, list) else value


def _secrets(value: object) -> Iterable[str]:
    if isinstance(value, SecretStr):
        yield value.get_secret_value()
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _secrets(getattr(value, name))
    elif isinstance(value, dict):
        for item in value.values():
            yield from _secrets(item)
