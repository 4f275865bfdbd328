"""Hostile frames and requests: no 500, no traceback to the client, and the server is alive afterwards."""

from __future__ import annotations

import json
import os
import random
import string

import pytest
import requests
import websocket
from worker_thread import Socket, WorkerThread

from fleet_rlm_jupyter.domain.api import API
from fleet_rlm_jupyter.server.routes import ROUTES
from fleet_rlm_jupyter.testing import ScriptedEngine, code, scripted_workbench

COUNTS = [100, pytest.param(10_000, marks=[pytest.mark.soak, pytest.mark.timeout(3000)])]

OPS = ["ask", "follow", "unfollow", "cancel", "answer"]
FIELDS = [
    "op",
    "id",
    "question",
    "run_id",
    "since",
    "call_id",
    "text",
    "session_id",
    "paths",
    "context_paths",
    "staged",
    "context",
    "limits",
    "key",
]


@pytest.fixture(scope="module")
def worker():
    thread = WorkerThread(scripted_workbench(ScriptedEngine(lambda prompt: code("SUBMIT(answer='yes')"))))
    yield thread
    thread.close()


def text(rng: random.Random) -> str:
    pools = [string.printable, "\x00\x1b\x7f\u202e\ufeff☃𝕏", "../%2e\\", "'\";--<script>"]
    return "".join(rng.choice(rng.choice(pools)) for _ in range(rng.choice([0, 1, 5, 60, 3000])))


def value(rng: random.Random, depth: int = 0) -> object:
    kinds = [None, True, -1, 2**70, 1.5, 1e308, text(rng), "r-0", "s-0", "ask", [], {}]
    if depth < 4 and rng.random() < 0.3:
        inner = [value(rng, depth + 1) for _ in range(rng.randrange(4))]
        return inner if rng.random() < 0.5 else {text(rng)[:20]: item for item in inner}
    return rng.choice(kinds)


def frame(rng: random.Random) -> str | bytes:
    op = {"op": rng.choice(OPS)} if rng.random() < 0.8 else {}
    # A question that is good by accident would start a run; the mode makes it a bad one.
    made = {**{rng.choice(FIELDS): value(rng) for _ in range(rng.randrange(6))}, **op, "mode": "no such mode"}
    if rng.random() < 0.3:
        del made["mode"]
        made["question"] = " "
    said = json.dumps(made, ensure_ascii=rng.random() < 0.5)
    match rng.randrange(12):
        case 0:
            return said[: rng.randrange(len(said))]
        case 1:
            return os.urandom(rng.randrange(200))
        case 2:
            return "[" * rng.choice([10, 33, 100_000])
        case 3:
            return said.replace('"', "'")
        case 4:
            return '{"op":"ask","question":"' + "x" * 1_048_600 + '"}' if rng.random() < 0.1 else said + said
        case _:
            return said


@pytest.mark.parametrize("count", COUNTS)
def test_hostile_frames_are_told_what_is_wrong_and_harm_nothing(worker, count):
    rng = random.Random(count)
    connection, sent = worker.socket(), 0
    for _ in range(count):
        made = frame(rng)
        try:
            connection.line.send(made, websocket.ABNF.OPCODE_BINARY if isinstance(made, bytes) else 0x1)
            answer = connection.receive()
        except (websocket.WebSocketException, OSError):
            connection = worker.socket()  # strikes
            continue
        sent += 1
        assert answer["type"] in ("error", "ok"), made
        assert answer.get("code") != "internal", made
        assert "Traceback" not in json.dumps(answer)
        if sent % 50 == 0:
            alive(connection)
    alive(connection)
    connection.close()
    assert sent > count * 0.9


def alive(connection: Socket) -> None:
    assert connection.reply(op="unfollow", run_id="r-0", id="alive")["id"] == "alive"


@pytest.mark.parametrize("count", COUNTS)
def test_hostile_requests_are_told_what_is_wrong_and_harm_nothing(worker, count):
    rng = random.Random(count)
    paths = [endpoint.path for endpoint in ROUTES if endpoint.path not in ("/ready", "/checks")] + [
        "/contexts/{sha256}"
    ]
    refused = 0
    with requests.Session() as session:
        for _ in range(count):
            path = rng.choice(paths)
            while "{" in path:
                begin, end = path.index("{"), path.index("}")
                word = requests.utils.quote(text(rng)[:80] or "x", safe="")
                path = path[:begin] + word + path[end + 1 :]
            method = rng.choice(["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE"])
            body = rng.choice([b"", os.urandom(100), json.dumps(value(rng)).encode(), b"{" * 50_000])
            query = {text(rng)[:20]: text(rng)[:200] for _ in range(rng.randrange(3))}
            try:
                answer = session.request(
                    method, worker.url + API + path, headers=worker.headers(), params=query, data=body, timeout=60
                )
            except requests.ConnectionError:
                # Refused and closed while the body was still being sent.
                refused += 1
                continue
            assert answer.status_code < 500, (method, path, query, body[:100], answer.text)
            assert "Traceback" not in answer.text
    assert refused <= count / 20
    assert worker.ask("GET", "/status").status_code == 200
