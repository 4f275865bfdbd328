"""Many watchers of talkative runs through a real server: nothing is lost or late, and memory comes back."""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path

import pytest
from jupyter_process import JupyterProcess, below, frames, wait_until

TESTS = Path(__file__).parents[2]
COMMAND = [sys.executable, "-P", str(TESTS / "talking_worker.py")]

SIZES = [
    pytest.param(10, 2, 100, 3, id="small"),
    pytest.param(50, 10, 200, 60, id="full", marks=[pytest.mark.soak, pytest.mark.timeout(600)]),
]


class Reader(threading.Thread):
    """One socket that follows one run; `late` has the seconds from each event to its arrival."""

    def __init__(self, server: JupyterProcess, run_id: str) -> None:
        super().__init__(daemon=True)
        # The library looks at every byte in Python for UTF-8, which costs more than all that is measured here.
        self.socket = server.socket(timeout=100, skip_utf8_validation=True)
        self.socket.send(json.dumps({"op": "follow", "run_id": run_id}))
        self.seqs: list[int] = []
        self.late: list[float] = []
        self.frames = 0
        self.start()

    def run(self) -> None:
        for frame in frames(self.socket):
            now = time.time()
            self.frames += frame["type"] == "events"
            for event in frame.get("events", []):
                self.seqs.append(event["seq"])
                self.late.append(now - event["at"])
                if event["type"] == "run.ended":
                    self.socket.close()
                    return


def resident_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


def watched(server: JupyterProcess, wave: int, sockets: int, seconds: int) -> list[Reader]:
    """The readers of a wave of runs, when they have read all."""
    ids = server.root / f"runs-{wave}.json"
    (server.root / f"begin-{wave}").touch()
    wait_until(lambda: ids.exists() and ids.read_text().endswith("]"))
    runs = json.loads(ids.read_text())
    readers = [Reader(server, runs[number % len(runs)]) for number in range(sockets)]
    # Until everybody has the first event, which is old by then.
    wait_until(lambda: all(reader.seqs for reader in readers))
    (server.root / f"go-{wave}").touch()
    for reader in readers:
        reader.join(seconds + 60)
    return readers


@pytest.mark.parametrize(("sockets", "runs", "rate", "seconds"), SIZES)
def test_every_watcher_sees_every_event_once_in_order_and_soon(tmp_path, sockets, runs, rate, seconds, capsys):
    told = {"TALK_RUNS": str(runs), "TALK_RATE": str(rate), "TALK_SECONDS": str(seconds), "TALK_WAVES": "2"}
    config = f"c = get_config()\nc.FleetApp.worker_command = {COMMAND!r}\n"
    server = JupyterProcess(tmp_path, config, **told, PYTHONPATH=str(TESTS))
    try:
        server.ask("GET", "/runs")
        worker = next(
            pid for pid in below(server.process.pid) if b"talking" in Path(f"/proc/{pid}/cmdline").read_bytes()
        )
        found: list[list[float]] = []  # of the server and of its worker: before, after a wave, after the next
        readers: list[Reader] = []
        for wave in range(3):
            found.append([resident_mb(server.process.pid), resident_mb(worker)])
            readers += watched(server, wave, sockets, seconds) if wave < 2 else []
    finally:
        server.stop()
    assert len(readers) == 2 * sockets
    expected = list(range(rate * seconds + 2))
    assert all(reader.seqs == expected for reader in readers)
    late = sorted(second for reader in readers for second in reader.late[1:])
    p99 = late[int(len(late) * 0.99)]
    rate_of_frames = max(reader.frames for reader in readers) / seconds
    ours, theirs = zip(*found, strict=True)
    with capsys.disabled():
        print(f"\n{sockets} sockets, {runs} runs, {rate} events/s, {seconds} s, twice: ", end="")
        print(
            f"p50 {late[len(late) // 2]:.3f} s, p99 {p99:.3f} s, {rate_of_frames:.1f} frames/s; MB before, after, ",
            end="",
        )
        print("after the second: " + ", ".join(" ".join(f"{mb:.0f}" for mb in each) for each in (ours, theirs)))
    assert p99 <= 0.25
    assert rate_of_frames <= 22
    assert ours[2] - ours[0] < 40, "the Jupyter server holds nothing of it"
    assert theirs[2] - theirs[1] < 20, "nor does the worker of what is over"
