"""`bench.settings_view`: what is set, and what may be changed while the Workbench lives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from fleet_rlm_jupyter.domain.errors import BadSettings
from fleet_rlm_jupyter.domain.masking import STARS
from fleet_rlm_jupyter.domain.shown import ShownSetting
from fleet_rlm_jupyter.settings import Loaded, Settings, describe, explained
from fleet_rlm_jupyter.verbs.house import House

CHANGEABLE = (
    "model", "sub_model", "api_base", "max_tokens", "model_seconds", "model_retries", "context.max_mb",
    "context.max_files", *(name for name in Settings.names() if name.startswith(("budget.", "memory."))),
)  # fmt: skip
"""What `patch` takes. Not keys, nor what sandboxes and store were built from: those are for whoever starts us."""

CHANGED = "changed while it runs; lasts until the worker starts anew"
"""Where a setting that `patch` has changed comes from."""


class SettingsView:
    """The settings of a Workbench, for all its users alike. Changes last as long as it does."""

    def __init__(self, house: House) -> None:
        self._house = house

    def get(self) -> list[ShownSetting]:
        """Every setting by its dotted name, keys masked."""
        loaded = self._house.loaded
        values = loaded.settings.model_dump(mode="json")
        return [
            ShownSetting(
                name=name,
                value=_at(values, name),
                source=loaded.sources.get(name, "default"),
                description=description,
                is_changeable=name in CHANGEABLE,
            )
            for name, description in describe().items()
        ]

    def patch(self, updates: Mapping[str, Any]) -> list[ShownSetting]:
        """Change settings by dotted name for the runs to come; all of them or, where one cannot be, none.

        A value of stars, as `get` shows a key, changes nothing. Raises BadSettings.
        """
        given = {name: value for name, value in updates.items() if value != STARS}
        for name in given:
            if name not in CHANGEABLE:
                raise BadSettings(f"{name} cannot be changed here", "set it where the server is started")
        loaded = self._house.loaded
        nested = loaded.settings.model_dump()
        for name, value in given.items():
            *groups, last = name.split(".")
            place = nested
            for group in groups:
                place = place[group]
            place[last] = value
        sources = {**loaded.sources, **dict.fromkeys(given, CHANGED)}
        try:
            changed = Loaded(settings=Settings.model_validate(nested), sources=sources)
        except ValidationError as err:
            raise explained(err, sources) from err
        self._house.change(changed)
        return self.get()


def _at(values: Any, name: str) -> Any:
    for part in name.split("."):
        values = values[part]
    return values
