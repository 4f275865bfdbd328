"""What the extension costs a Jupyter server: seconds of CPU from start to the first answer, with it and without it.

CPU and not the clock, for on a shared machine the clock mostly tells of the neighbors.

    python tests/bench/server.py [ROUNDS]
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from jupyter_process import JupyterProcess

OFF = "c = get_config()\nc.ServerApp.jpserver_extensions = {'fleet_rlm_jupyter': False}\n"


def start(config: str) -> float:
    with tempfile.TemporaryDirectory() as folder:
        server = JupyterProcess(Path(folder), config)
        fields = Path(f"/proc/{server.process.pid}/stat").read_text().rsplit(") ", 1)[1].split()
        server.stop()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(rounds: int = 5) -> None:
    """In turns, so that whatever else the machine does falls on both alike; the least of each is the machine's own."""
    found: dict[str, list[float]] = {"without": [], "with": []}
    for _ in range(rounds):
        found["without"].append(start(OFF))
        found["with"].append(start(""))
    least = {name: min(times) for name, times in found.items()}
    median = {name: statistics.median(times) for name, times in found.items()}
    print(f"server start without {least['without']:.2f} s, with {least['with']:.2f} s (least of {rounds})")
    print(f"difference {1000 * (least['with'] - least['without']):.0f} ms of least, ", end="")
    print(f"{1000 * (median['with'] - median['without']):.0f} ms of medians; aim: at most 100 ms")


if __name__ == "__main__":
    measure(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
