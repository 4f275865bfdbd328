"""JupyterLab and Notebook 7: `fleet lab` starts one, and a kernel finds the server of either."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import requests
from integration.jupyter_servers import APPS, RECIPES, WHERE, JupyterServer, asks, text_of
from jupyter_process import API, wait_until


@pytest.mark.parametrize("app", [app for app in APPS if app != "jupyter server"])
def test_a_kernel_of_each_other_application_asks_there(tmp_path, app):
    with JupyterServer(app, tmp_path, RECIPES) as server, server.kernel() as kernel:
        assert asks(text_of(kernel.run(WHERE))).startswith(f"on the server at {server.url} (jpserver-")


def test_fleet_lab_starts_jupyterlab_here_on_loopback_with_the_extension_on_whatever_a_configuration_says(tmp_path):
    off = {"ServerApp": {"jpserver_extensions": {"fleet_rlm_jupyter": False}}}
    (tmp_path / "jupyter_server_config.json").write_text(json.dumps(off))
    environ = {**os.environ, "JUPYTER_CONFIG_DIR": str(tmp_path), "JUPYTER_RUNTIME_DIR": str(tmp_path)}
    command = [str(Path(sys.executable).with_name("fleet")), "lab", "--no-browser", "--allow-root", "--port=0"]
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(command, cwd=tmp_path, env=environ, stdout=log, stderr=log)
    try:
        file = tmp_path / f"jpserver-{server.pid}.json"
        wait_until(lambda: file.exists() and file.read_text().endswith("}"))
        said = json.loads(file.read_text())
        assert (said["hostname"], said["root_dir"]) == ("localhost", str(tmp_path))
        assert len(said["token"]) >= 32
        headers = {"Authorization": f"token {said['token']}"}
        assert requests.get(f"{said['url']}lab", headers=headers, timeout=30).status_code == 200
        assert requests.get(f"{said['url']}{API[1:]}/status", headers=headers, timeout=30).json()["user"] == "local"
        assert requests.get(f"{said['url']}{API[1:]}/status", timeout=30).status_code == 403
    finally:
        server.terminate()
        server.wait(15)
