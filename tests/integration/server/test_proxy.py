"""The way to the worker and back: bodies of any size, a worker that dies, one that cannot start."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import threading

import pytest
import requests
import websocket
from jupyter_process import STUB, TOKEN, JupyterProcess, below, lives, wait_until

from fleet_rlm_jupyter.connection import Connection
from fleet_rlm_jupyter.domain.errors import ServerUnavailable
from fleet_rlm_jupyter.server.supervisor import Supervisor, WorkerUnavailable

CONFIG = f"c = get_config()\nc.FleetApp.worker_command = {STUB!r}\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    process = JupyterProcess(tmp_path_factory.mktemp("server"), CONFIG + 'c.FleetApp.worker_log = "json"\n')
    yield process
    process.stop()


def resident_mb(pid: int) -> float:
    with open(f"/proc/{pid}/status", encoding="ascii") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM"))


def test_an_upload_of_a_hundred_megabytes_is_passed_on_and_never_held(server):
    server.ask("GET", "/anything")
    before = resident_mb(server.process.pid)
    answer = server.ask("PUT", "/contexts/x", data=(b"x" * 1_000_000 for _ in range(100)))
    assert answer.json()["size"] == 100_000_000
    assert server.ask("PUT", "/contexts/x", data=b"y" * 20_000_000).json()["size"] == 20_000_000
    assert resident_mb(server.process.pid) - before < 40


def test_an_answer_that_breaks_off_does_not_pass_for_a_whole_one(server):
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        server.ask("GET", "/break-off")
    line = Connection(server.url, {"Authorization": f"token {TOKEN}"})
    for read in (lambda: list(line.pieces("/break-off", {})), lambda: list(line.lines("/break-off"))):
        with pytest.raises(ServerUnavailable):
            read()


def test_the_request_id_is_echoed_and_passed_on(server):
    answer = server.ask("GET", "/anything", headers={"X-Request-ID": "abc-1"})
    assert answer.headers["X-Request-ID"] == answer.json()["headers"]["X-Request-Id"] == "abc-1"
    made = server.ask("GET", "/anything", headers={"X-Request-ID": "x" * 129})
    assert made.headers["X-Request-ID"] == made.json()["headers"]["X-Request-Id"] != "x" * 129
    refused = server.ask("GET", "/anything", token=None, headers={"X-Request-ID": "abc-2"})
    assert (refused.status_code, refused.headers["X-Request-ID"]) == (403, "abc-2")


def test_the_worker_is_told_how_to_write_its_log(server):
    assert server.ask("GET", "/anything").json()["log"] == "json"


def test_whatever_the_worker_sends_never_runs_as_a_page_of_ours(server):
    policy = server.ask("GET", "/anything").headers
    assert "sandbox" in policy["Content-Security-Policy"]
    assert "default-src 'none'" in policy["Content-Security-Policy"]
    assert policy["X-Content-Type-Options"] == "nosniff"


def test_a_worker_that_dies_is_started_anew_and_its_sockets_are_told(server):
    connection = server.socket()
    connection.send("hello")
    assert json.loads(connection.recv())["said"] == "hello"
    died = server.ask("GET", "/die")
    assert died.status_code == 503
    assert died.json()["code"] == "worker_restarted"
    assert json.loads(connection.recv())["code"] == "worker_restarted"
    code, reason = connection.recv_data()
    assert code == websocket.ABNF.OPCODE_CLOSE
    assert int.from_bytes(reason[:2], "big") == 1012
    wait_until(lambda: server.ask("GET", "/status").json()["worker"]["state"] == "running")
    assert server.ask("GET", "/anything").status_code == 200


def test_a_socket_whose_other_end_is_silent_is_dropped_and_one_that_answers_is_not(tmp_path):
    server = JupyterProcess(tmp_path, f"{CONFIG}c.ServerApp.websocket_ping_interval = 1\n")
    try:
        alive, dead = server.socket(), server.socket()
        said: list[str] = []
        # Whoever reads answers pings with it.
        reads = threading.Thread(target=lambda: said.append(alive.recv()))
        reads.start()
        dead.sock.settimeout(30)
        got = b""
        while b"ping timed out" not in got:
            got += dead.sock.recv(4096)
        assert got[0] == 0x80 | websocket.ABNF.OPCODE_PING
        assert reads.is_alive()
        alive.send("still here")
        reads.join(30)
        assert json.loads(said[0])["said"] == "still here"
        alive.close()
    finally:
        server.stop()


def test_a_worker_that_cannot_start_is_a_problem_and_not_a_crash(tmp_path):
    problem = {"code": "bad_settings", "message": "no such model", "hint": "choose another"}
    said = {"problem": problem}
    command = [sys.executable, "-c", f"import json; print(json.dumps({said!r}))"]
    server = JupyterProcess(tmp_path, f"c = get_config()\nc.FleetApp.worker_command = {command!r}\n")
    try:
        for _ in range(2):
            answer = server.ask("GET", "/anything")
            assert (answer.status_code, answer.json()) == (503, problem)
        with pytest.raises(websocket.WebSocketBadStatusException) as refused:
            server.socket()
        assert refused.value.status_code == 503
        status = server.ask("GET", "/status").json()
        assert status["worker"] == {"state": "failed", "running": 0, "problem": problem}
        assert "Traceback" not in server.log.read_text()
    finally:
        server.stop()


@pytest.mark.parametrize("command", [["false"], ["true"], ["/nowhere/python"]], ids=str)
def test_a_worker_that_says_nothing_is_told_so_and_tried_again(command):
    async def twice() -> list[str]:
        supervisor = Supervisor(command, {}, None, logging.getLogger(), lambda running: None)
        codes = []
        for _ in range(2):
            with pytest.raises(WorkerUnavailable) as failed:
                await supervisor.address()
            codes.append(failed.value.problem["code"])
        assert supervisor.state == "failed"
        await supervisor.stop()
        return codes

    assert asyncio.run(twice()) == ["worker_unavailable"] * 2


@pytest.mark.parametrize("how", ["TERM", "KILL"])
def test_no_process_is_left_when_the_server_has_ended_however_it_ended(tmp_path, how):
    server = JupyterProcess(tmp_path, CONFIG)
    server.ask("GET", "/anything")
    connection = server.socket()
    family = server.family()
    assert len(below(server.process.pid)) >= 1
    if how == "KILL":
        server.process.kill()
        server.process.wait()
    else:
        server.process.terminate()
    wait_until(lambda: not any(map(lives, family)), 5)
    connection.close()
