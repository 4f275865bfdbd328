"""A Jupyter-native workbench for Recursive Language Models.

`interpreter` is a zero-argument callable for `dspy.RLM(…, interpreter_factory=fleet.interpreter)`; `Workbench`,
`Question` and `Settings` are for programs of your own. In a notebook, `%load_ext fleet_rlm_jupyter` brings `%%fleet`,
and `start` is the same from Python. Nothing heavy is imported before one of them is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from fleet_rlm_jupyter.deferred import defer, imported

if TYPE_CHECKING:
    from fleet_rlm_jupyter.domain.errors import BadRequest, FleetError, ForUser
    from fleet_rlm_jupyter.domain.events import Limits
    from fleet_rlm_jupyter.engine.recipes.plan import RECIPES
    from fleet_rlm_jupyter.kernel.handles import start
    from fleet_rlm_jupyter.kernel.programs import run
    from fleet_rlm_jupyter.remote import RemoteWorkbench
    from fleet_rlm_jupyter.settings import Settings
    from fleet_rlm_jupyter.workbench import Question, Workbench, interpreter

# DSPy imports jsonschema, which imports this to check IRIs: a second of CPU for a check that hardly anybody asks for.
defer("rfc3987_syntax", "is_valid_syntax")

__version__ = "0.1.0"

__all__ = [
    "RECIPES",
    "BadRequest",
    "FleetError",
    "ForUser",
    "Limits",
    "Question",
    "RemoteWorkbench",
    "Settings",
    "Workbench",
    "__version__",
    "interpreter",
    "run",
    "start",
]

# Where a public name lives. Its module is imported on first use: DSPy alone takes two seconds.
_HOMES = {
    "BadRequest": "domain.errors",
    "FleetError": "domain.errors",
    "ForUser": "domain.errors",
    "Limits": "domain.events",
    "RECIPES": "engine.recipes.plan",
    "Settings": "settings",
    "Question": "workbench",
    "RemoteWorkbench": "remote",
    "Workbench": "workbench",
    "interpreter": "workbench",
    "run": "kernel.programs",
    "start": "kernel.handles",
}
_MODULES = {
    "domain",
    "engine",
    "kernel",
    "localdaytona",
    "sandbox",
    "server",
    "settings",
    "store",
    "workbench",
    "terminal",
    "testing",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(imported(f"{__name__}.{_HOMES[name]}"), name)
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _jupyter_server_extension_points() -> list[dict[str, Any]]:  # pyright: ignore[reportUnusedFunction]
    """The Jupyter server's way in."""
    module = f"{__name__}.server.extension"
    return [{"module": module, "app": importlib.import_module(module).FleetApp}]


def load_ipython_extension(ip: Any) -> None:
    """`%load_ext fleet_rlm_jupyter`."""
    importlib.import_module(f"{__name__}.kernel.magics").load(ip)


def unload_ipython_extension(ip: Any) -> None:
    """`%unload_ext fleet_rlm_jupyter`."""
    importlib.import_module(f"{__name__}.kernel.magics").unload(ip)
