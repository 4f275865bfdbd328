"""A real server with a real worker: what is in its process, what a crash leaves, what its end leaves."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
import requests
from jupyter_process import TOKEN, JupyterProcess, below, lives, wait_until

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
