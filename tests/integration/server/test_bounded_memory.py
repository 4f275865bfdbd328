"""What goes through a real server is held by neither of its processes: large files both ways, and who does not read."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path

import pytest
from jupyter_process import API, TOKEN, JupyterProcess, below, frames, wait_until
from memory import Peak

from fleet_rlm_jupyter.remote import RemoteWorkbench

TESTS = Path(__file__).parents[2]
COMMAND = [sys.executable, "-P", str(TESTS / "talking_worker.py")]
EVENTS, EVENTS_A_SECOND, CHARS = 3000, 1500, 8000
STALLED = 4
MB = 1_000_000


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    told = {"TALK_RUNS": "1", "TALK_RATE": str(EVENTS_A_SECOND), "TALK_SECONDS": str(EVENTS / EVENTS_A_SECOND)}
    config = f"c = get_config()\nc.FleetApp.worker_command = {COMMAND!r}\n"
    folder = tmp_path_factory.mktemp("server")
    process = JupyterProcess(folder, config, **told, TALK_WAVES="2", TALK_CHARS=str(CHARS), PYTHONPATH=str(TESTS))
    process.ask("GET", "/runs")
    yield process
    process.stop()


def peaks(server: JupyterProcess) -> dict[str, Peak]:
    worker = next(pid for pid in below(server.process.pid) if b"talking" in Path(f"/proc/{pid}/cmdline").read_bytes())
    return {"server": Peak(server.process.pid), "worker": Peak(worker)}


def grown(found: dict[str, Peak]) -> dict[str, float]:
    return {name: peak.grown_mb for name, peak in found.items()}


@pytest.fixture(scope="module")
def large() -> tuple[bytes, str]:
    """120 MB that repeat nothing, and their digest."""
    block = os.urandom(MB)
    raw = b"".join(block[number:] + block[:number] for number in range(120))
    return raw, hashlib.sha256(raw).hexdigest()


def digest_of(pieces: Iterable[bytes]) -> str:
    found = hashlib.sha256()
    for piece in pieces:
        found.update(piece)
    return found.hexdigest()


def send_a_part(server: JupyterProcess, path: str, raw: bytes, most: int) -> None:
    """Begin to upload all of it, and lose the line on the way."""
    line = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    line.putrequest("PUT", server.url.removeprefix(server.origin) + API + path)
    for name, value in {"Authorization": f"token {TOKEN}", "Content-Length": str(len(raw))}.items():
        line.putheader(name, value)
    line.endheaders()
    for at in range(0, most, MB):
        line.send(raw[at : at + MB])
    line.close()


def test_an_upload_of_120_megabytes_that_breaks_off_goes_on_where_it_broke_and_is_never_held(server, large):
    raw, sha256 = large
    contexts, found = RemoteWorkbench(server.url, TOKEN).contexts, peaks(server)
    send_a_part(server, f"/contexts/{sha256}", raw, 70 * MB)
    received = [0]

    def is_still() -> bool:
        received.append(contexts._state(sha256).received)
        return received[-1] == received[-2] > 0

    wait_until(is_still)
    assert 30 * MB < received[-1] <= 70 * MB
    assert not contexts.has(sha256)
    sent = 0
    send = contexts._connection.send

    def counted(method, path, pieces, headers, query):
        nonlocal sent
        sent += int(headers["Content-Length"])
        return send(method, path, pieces, headers, query)

    contexts._connection.send = counted
    contexts.put(sha256, raw)
    assert contexts.has(sha256)
    assert sent == len(raw) - received[-1]
    assert max(grown(found).values()) < 40, grown(found)
    other = hashlib.sha256(b"other").hexdigest()
    answer = server.ask("PUT", f"/contexts/{other}", data=raw)
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_request")
    assert contexts._state(other).received == 0


def test_a_download_of_120_megabytes_is_passed_on_as_it_is_read_and_never_held(server, large):
    raw, sha256 = large
    bench = RemoteWorkbench(server.url, TOKEN)
    files = bench.files(bench.sessions.create("large").session_id)
    files.write("artifacts/large", raw)
    found = peaks(server)
    slow = files.pieces("artifacts/large", len(raw))
    begun = next(slow)
    assert digest_of(files.pieces("artifacts/large", len(raw))) == sha256
    assert digest_of([begun, *slow]) == sha256, "though its reader stopped for a while"
    assert max(grown(found).values()) < 40, grown(found)


class Reader(threading.Thread):
    """One that reads the events of a run as they come."""

    def __init__(self, server: JupyterProcess, run_id: str) -> None:
        super().__init__(daemon=True)
        self.socket = follower(server, run_id)
        self.seqs: list[int] = []
        self.latest = 0.0
        self.start()

    def run(self) -> None:
        for frame in frames(self.socket):
            for event in frame.get("events", []):
                self.seqs.append(event["seq"])
                self.latest = max(self.latest, time.time() - event["at"] if event["seq"] else 0)
                if event["type"] == "run.ended":
                    self.socket.close()
                    return


def follower(server: JupyterProcess, run_id: str):
    made = server.socket(timeout=100, skip_utf8_validation=True)
    made.send(json.dumps({"op": "follow", "run_id": run_id}))
    return made


def talked(server: JupyterProcess, wave: int, stalled: int) -> tuple[list, Reader, dict[str, float]]:
    """A wave's run with so many followers who read nothing, and one who reads; what memory it took."""
    ids = server.root / f"runs-{wave}.json"
    (server.root / f"begin-{wave}").touch()
    wait_until(lambda: ids.exists() and ids.read_text().endswith("]"))
    (run_id,) = json.loads(ids.read_text())
    silent = [follower(server, run_id) for _ in range(stalled)]
    reader = Reader(server, run_id)
    wait_until(lambda: reader.seqs)
    found = peaks(server)
    (server.root / f"go-{wave}").touch()
    reader.join(60)
    return silent, reader, grown(found)


def test_watchers_who_stop_reading_cost_no_memory_and_hold_nobody_back(server, capsys):
    _, _, without = talked(server, 0, 0)
    silent, reader, found = talked(server, 1, STALLED)
    with capsys.disabled():
        print(
            f"\n{EVENTS * CHARS / MB:.0f} MB of events, none and {STALLED} watchers who do not read: MB grown ", end=""
        )
        print(f"{ {name: (round(without[name]), round(found[name])) for name in found} }, latest {reader.latest:.2f} s")
    assert reader.seqs == list(range(EVENTS + 2))
    assert reader.latest < 5
    assert found["server"] < without["server"] + 25
    assert found["worker"] < without["worker"] + 25
    seqs = []
    for frame in frames(silent[0]):
        seqs += [event["seq"] for event in frame.get("events", [])]
        if seqs and seqs[-1] == EVENTS + 1:
            break
    assert seqs == list(range(EVENTS + 2)), "who reads again misses nothing"
    for one in silent:
        one.close()
