"""The Jupyter server extension: `pip install` enables it. Imports nothing heavy, the work is the worker's."""

from __future__ import annotations

import importlib.util
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jupyter_server.extension.application import ExtensionApp
from jupyter_server.serverapp import ServerApp
from tornado.ioloop import PeriodicCallback
from traitlets import Dict, Enum, Float, List, Unicode

import fleet_rlm_jupyter
from fleet_rlm_jupyter.domain.api import API
from fleet_rlm_jupyter.server.handlers import IdentityHandler, ProxyHandler, SocketHandler, StatusHandler
from fleet_rlm_jupyter.server.supervisor import Supervisor

_ON = "--ServerApp.jpserver_extensions={'fleet_rlm_jupyter': True}"


class FleetApp(ExtensionApp):
    """fleet_rlm_jupyter in a Jupyter server: sessions, runs and sandboxes under /fleet/api/v1."""

    name = "fleet"
    load_other_extensions = True

    workbench_settings: Dict[str, Any] = Dict(
        key_trait=Unicode(),
        help="Settings of the Workbench by dotted name, e.g. {'model': 'openai/gpt-5', 'budget.calls': 40}. "
        "They win over the environment; `fleet doctor` and GET /fleet/api/v1/settings say where each came from.",
    ).tag(config=True)

    worker_command: List[str] = List(
        Unicode(),
        [sys.executable, "-P", "-m", "fleet_rlm_jupyter.server.worker"],
        help="How the worker process is started, e.g. with the Python of another environment. -P keeps the files of "
        "the folder it stands in from being taken for modules.",
    ).tag(config=True)

    worker_log: str = Enum(
        ["text", "json"],
        "text",
        help="How the worker writes its log, on the server's standard error: as text, or one JSON object a record and "
        "line, with the id of the request.",
    ).tag(config=True)  # pyright: ignore[reportAssignmentType]

    activity_seconds: float = Float(
        30.0,
        help="How often a run that goes on counts as activity of the server, for what culls idle ones; a JupyterHub "
        "only sees the last time.",
    ).tag(config=True)  # pyright: ignore[reportAssignmentType]

    def initialize_settings(self) -> None:
        assert self.serverapp is not None
        root = Path(self.serverapp.root_dir)
        self.supervisor = Supervisor(
            list(self.worker_command),
            self.workbench_settings,
            root if root.is_dir() else None,
            self.log,
            on_activity=self._note,
            log_form=self.worker_log,
        )
        self._alive = PeriodicCallback(self._note_runs, self.activity_seconds * 1000)
        self.serverapp.io_loop.add_callback(self._alive.start)
        self.settings.update(fleet_supervisor=self.supervisor, fleet_version=fleet_rlm_jupyter.__version__)

    def initialize_handlers(self) -> None:
        self.handlers.extend(
            [
                (f"{API}/status", StatusHandler),
                (f"{API}/identity", IdentityHandler),
                (f"{API}/ws", SocketHandler),
                (f"{API}/(.*)", ProxyHandler),
            ]
        )

    def current_activity(self) -> list[str]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """What keeps an idle server from being culled: its runs."""
        return ["fleet run"] * self.supervisor.running

    async def stop_extension(self) -> None:
        self._alive.stop()
        await self.supervisor.stop()

    def _note(self, running: int) -> None:
        assert self.serverapp is not None
        self.serverapp.web_app.settings["fleet_last_activity"] = datetime.now(UTC)

    def _note_runs(self) -> None:
        if self.supervisor.running:
            self._note(self.supervisor.running)


def main(arguments: list[str] | None = None) -> None:
    """`jupyter fleet` and `fleet lab`: JupyterLab where it is installed, else the server alone.

    On loopback, in this folder, with a browser: Jupyter's own defaults. The extension is on whatever a configuration
    says, for this is how one asks for it.
    """
    argv = [_ON, *(sys.argv[1:] if arguments is None else arguments)]
    if importlib.util.find_spec("jupyterlab") is None:
        ServerApp.launch_instance(argv)
    else:
        importlib.import_module("jupyterlab.labapp").LabApp.launch_instance(argv)
