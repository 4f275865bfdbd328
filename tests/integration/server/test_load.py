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


def resident_mb(server: JupyterProcess) -> dict[int, float]:
    found = {}
    for pid in [server.process.pid, *below(server.process.pid)]:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        found[pid] = next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))
    return found


@pytest.mark.parametrize(("sockets", "runs", "rate", "seconds"), SIZES)
def test_every_watcher_sees_every_event_once_in_order_and_soon(tmp_path, sockets, runs, rate, seconds, capsys):
    told = {"TALK_RUNS": str(runs), "TALK_RATE": str(rate), "TALK_SECONDS": str(seconds), "PYTHONPATH": str(TESTS)}
    server = JupyterProcess(tmp_path, f"c = get_config()\nc.FleetApp.worker_command = {COMMAND!r}\n", **told)
    try:
        server.ask("GET", "/runs")
        wait_until(lambda: (server.root / "runs.json").exists() and (server.root / "runs.json").read_text())
        ids = json.loads((server.root / "runs.json").read_text())
        readers = [Reader(server, ids[number % runs]) for number in range(sockets)]
        # Until everybody has the first event, which is old by then.
        wait_until(lambda: all(reader.seqs for reader in readers))
        before = resident_mb(server)
        (server.root / "go").touch()
        for reader in readers:
            reader.join(seconds + 60)
        after = resident_mb(server)
    finally:
        server.stop()
    expected = list(range(rate * seconds + 2))
    assert all(reader.seqs == expected for reader in readers)
    late = sorted(second for reader in readers for second in reader.late[1:])
    p99 = late[int(len(late) * 0.99)]
    rate_of_frames = max(reader.frames for reader in readers) / seconds
    grown = {pid: after[pid] - before[pid] for pid in before if pid in after}
    figures = [f"{sockets} sockets, {runs} runs, {rate} events/s, {seconds} s", f"p50 {late[len(late) // 2]:.3f} s"]
    figures += [f"p99 {p99:.3f} s", f"{rate_of_frames:.1f} frames/s", *(f"grown {mb:.0f} MB" for mb in grown.values())]
    with capsys.disabled():
        print(f"\n{', '.join(figures)}")
    assert p99 <= 0.25
    assert rate_of_frames <= 22
    assert grown[server.process.pid] < 40, "the Jupyter server holds nothing of it"
