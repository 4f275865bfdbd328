"""Where what is kept is."""

from __future__ import annotations

from pathlib import Path

from fleet_rlm_jupyter.settings import StoreSettings, data_folder


def url_of(settings: StoreSettings) -> str:
    """`store.url`, or the file in the Jupyter data folder."""
    return settings.url or f"sqlite:///{data_folder() / 'fleet.db'}"


def folder_of(settings: StoreSettings) -> Path:
    """What is kept beside the store: the folder of its file, or ours in the Jupyter data folder."""
    url = settings.url or ""
    return Path(url.removeprefix("sqlite:///")).parent if url.startswith("sqlite:///") else data_folder()
