"""What the extension costs a Jupyter server: its start, with and without, also beside jupyter-ai; then how late it is.

Seconds of CPU from start to the first answer and not of the clock, for on a shared machine the clock mostly tells of
the neighbors. jupyter-ai gets a venv of its own in FOLDER, from PyPI; without FOLDER it is left out.

    python tests/bench/server.py [FOLDER]
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from jupyter_process import JupyterProcess
from loop import measure_loop

ROOT = Path(__file__).parents[2]
ROUNDS = 5
OURS = "fleet_rlm_jupyter"
OF_LAB = {"jupyterlab", "jupyter_lsp", "jupyter_server_terminals", "notebook", "notebook_shim"}


def main() -> None:
    measure({"without": [OURS], "with": []})
    if len(sys.argv) > 1:
        beside_jupyter_ai(Path(sys.argv[1]).resolve())
    measure_loop()


def measure(cases: Mapping[str, list[str]], python: str = sys.executable) -> None:
    """The start with each of these lists of extensions turned off.

    In turns, so that whatever else the machine does falls on all alike; the least of each is the machine's own.
    """
    found: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(ROUNDS):
        for name, off in cases.items():
            found[name].append(start(off, python))
    first = next(iter(cases))
    for name, times in found.items():
        shown = f"server start {name}: {min(times):.2f} s (least of {ROUNDS})"
        if name != first:
            least = 1000 * (min(times) - min(found[first]))
            median = 1000 * (statistics.median(times) - statistics.median(found[first]))
            shown += f", {least:+.0f} ms of least, {median:+.0f} ms of medians"
        print(shown, flush=True)
    print("(aim: ours adds at most 100 ms)")


def start(off: list[str], python: str) -> float:
    extensions = dict.fromkeys(off, False)
    with tempfile.TemporaryDirectory() as folder:
        config = f"c = get_config()\nc.ServerApp.jpserver_extensions = {extensions!r}\n"
        server = JupyterProcess(Path(folder), config, python=python)
        fields = Path(f"/proc/{server.process.pid}/stat").read_text().rsplit(") ", 1)[1].split()
        server.stop()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def beside_jupyter_ai(folder: Path) -> None:
    python = folder / "bin" / "python"
    pip = [str(python), "-m", "pip", "install", "--quiet"]
    # Without what ours needs: the server's process loads none of it.
    for command in ([sys.executable, "-m", "venv", str(folder)], [*pip, "jupyter-ai"], [*pip, "--no-deps", str(ROOT)]):
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode:
            print(f"jupyter-ai cannot be had: {done.stderr.strip().splitlines()[-1]}")
            return
    places = (folder / "etc" / "jupyter" / "jupyter_server_config.d").glob("*.json")
    names = {name for place in places for name in json.loads(place.read_text())["ServerApp"]["jpserver_extensions"]}
    theirs = sorted(names - OF_LAB - {OURS})
    print(f"\nin a venv with jupyter-ai, which has {len(theirs)} extensions:")
    cases = {"without either": [OURS, *theirs], "with ours": theirs, "with jupyter-ai": [OURS], "with both": []}
    measure(cases, str(python))


if __name__ == "__main__":
    main()
