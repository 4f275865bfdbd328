"""The Jupyter server extension, and the worker process behind it that holds the Workbench."""

from __future__ import annotations

import importlib


def lab(arguments: list[str]) -> None:
    """Start JupyterLab, or a Jupyter server where Lab is not installed, with this extension."""
    importlib.import_module(f"{__name__}.extension").main(arguments)
