"""A real server with a real worker: what is in its process, what a crash leaves, what its end leaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import requests
from jupyter_process import API, TOKEN, JupyterProcess, below, lives, wait_until

from fleet_rlm_jupyter.remote import RemoteWorkbench

HEAVY = ("dspy", "litellm", "daytona", "openai", "sqlalchemy", "pandas", "numpy", "aiohttp")


@pytest.fixture
def server(tmp_path):
    config = "c = get_config()\nc.FleetApp.workbench_settings = {'budget.calls': 33}\n"
    config += "c.ServerApp.jpserver_extensions = {'router_dump': True}\n"
    tests = str(Path(__file__).parents[2])
    process = JupyterProcess(tmp_path, config, PYTHONPATH=tests, ROUTER_DUMP=str(tmp_path / "routes.json"))
    yield process
    process.stop()


def worker_of(server: JupyterProcess) -> int:
    commands = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in below(server.process.pid) if lives(pid)}
    return next((pid for pid, command in commands.items() if b"fleet_rlm_jupyter.server.worker" in command), 0)


def test_a_run_leaves_the_servers_process_light_and_a_dead_worker_leaves_no_open_run(server):
    (server.root / "log.txt").write_text("ERROR one\nfine\nERROR two\n", encoding="utf-8")
    bench = RemoteWorkbench(server.url, TOKEN)
    assert bench.status()["worker"]["state"] == "idle", "nothing is started before it is used"
    body = {"question": "How many lines contain ERROR?", "paths": ["log.txt"]}
    run_id = server.ask("POST", "/runs", json=body).json()["run_id"]
    events = list(bench.follow(run_id))
    assert events[-1].fact.status in ("done", "abstained")
    shown = {setting.name: setting for setting in bench.settings_view.get()}
    assert (shown["budget.calls"].value, shown["budget.calls"].source) == (33, "c.FleetApp.workbench_settings")

    loaded = json.loads(requests.get(f"{server.url}/modules", timeout=30).text)
    assert "fleet_rlm_jupyter.server.handlers" in loaded
    assert {name.split(".")[0] for name in loaded}.isdisjoint(HEAVY)

    worker = worker_of(server)
    os.kill(worker, signal.SIGKILL)
    wait_until(lambda: worker_of(server) not in (0, worker))
    assert [event.seq for event in bench.follow(run_id)] == [event.seq for event in events]

    family = server.family()
    server.process.kill()
    server.process.wait()
    wait_until(lambda: not any(map(lives, family)), 5)


def test_pip_install_is_enough_for_the_extension_to_be_on(server):
    spec = server.ask("GET", "/status").json()
    assert spec["version"]
    assert "fleet_rlm_jupyter | extension was successfully loaded" in server.log.read_text()
    assert json.loads(server.ask("GET", "/identity").text)["user"] == "local"


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
