"""In a venv with nothing in it, `pip install` of the wheel is all that is needed, whichever Jupyter comes beside it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import requests
from integration.jupyter_servers import JupyterServer

ROOT = Path(__file__).parents[2]
# Neither what runs these tests nor where it lies is to be found from there.
OWN = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "JUPYTER", "VIRTUAL"))}


def run(*command: object) -> str:
    done = subprocess.run([str(part) for part in command], env=OWN, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    return re.sub(r"\x1b\[\d*m", "", done.stdout + done.stderr)


@pytest.mark.timeout(600)
def test_the_extension_is_enabled_and_ok_in_the_server_alone_in_lab_and_in_notebook(tmp_path):
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", tmp_path, ROOT)
    run(sys.executable, "-m", "venv", tmp_path / "venv")
    place = tmp_path / "venv" / "bin"
    wheel = next(tmp_path.glob("*.whl"))

    def install(*what: object) -> str:
        run(place / "pip", "install", "--quiet", "--no-compile", *what)
        return run(place / "jupyter", "server", "extension", "list")

    def pages(*command: str) -> list[int]:
        """The status of the extension's API, of Lab's page and of Notebook's in what `command` starts."""
        home = tmp_path / "-".join(command)
        with JupyterServer([str(place / command[0]), *command[1:]], home, {}) as server:
            headers = {"Authorization": f"token {server.token}"}
            urls = [f"{server.url}{page}" for page in ("fleet/api/v1/status", "lab", "tree")]
            return [requests.get(url, headers=headers, timeout=30).status_code for url in urls]

    for what, commands, seen in (
        ([wheel], ["jupyter server", "fleet lab"], [200, 404, 404]),
        (["jupyterlab"], ["jupyter lab", "jupyter fleet"], [200, 200, 404]),
        (["notebook"], ["jupyter notebook"], [200, 200, 200]),
    ):
        listed = install(*what)
        assert re.search(r"fleet_rlm_jupyter enabled\n.*\n +fleet_rlm_jupyter \S+ OK\n", listed), listed
        for command in commands:
            assert pages(*command.split()) == seen, command
