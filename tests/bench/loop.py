"""How late the Jupyter server's loop is while four runs work, one of them over 100 MB; and a kernel's echo through it.

The same is measured with nothing to do, and beside four processes that only burn the machine's cores: what is late
there is late by the machine.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from integration.jupyter_servers import JupyterServer, ServedKernel
from table import load, row

from fleet_rlm_jupyter.remote import RemoteWorkbench
from fleet_rlm_jupyter.workbench import Question

TESTS = Path(__file__).parents[1]
ON = {"ServerApp": {"jpserver_extensions": {"loop_probe": True}}}
LINE = "2026-01-01T00:00:00 level={} service=s{} n={}\n"
MB = 1_000_000
SECONDS = 20.0


def measure_loop(seconds: float = SECONDS) -> None:
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        (home / "config").mkdir()
        (home / "config" / "jupyter_server_config.json").write_text(json.dumps(ON))
        environ = {"FLEET_MODEL": "offline/recipes", "PYTHONPATH": str(TESTS)}
        with JupyterServer("jupyter server", home, environ) as server, server.kernel() as kernel:
            RemoteWorkbench(server.url, server.token).ask(Question("How many lines?", context="a\nb\n")).result()
            row(f"{seconds:.0f} s each, {load()}", "loop p50", "loop p99", "loop most", "echo p50", "echo p99")
            row("nothing to do", *_figures(server, kernel, seconds))
            with _runs(server) as ended:
                row("four runs, one over 110 MB", *_figures(server, kernel, seconds))
            row("four processes that burn cores", *_beside_burners(server, kernel, seconds))
            print(
                f"(aim: loop p99 at most 50 ms; {len(ended)} runs ended meanwhile, all of them {'/'.join(set(ended))})"
            )


def _figures(server: JupyterServer, kernel: ServedKernel, seconds: float) -> list[str]:
    server.call("GET", "late")
    echoes: list[float] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        echoes.append(kernel.echo())
        time.sleep(0.02)
    late = sorted(server.call("GET", "late"))
    echoes.sort()
    shown = [_at(late, 0.5), _at(late, 0.99), late[-1], _at(echoes, 0.5), _at(echoes, 0.99)]
    return [f"{1000 * value:.1f} ms" for value in shown]


def _at(values: list[float], share: float) -> float:
    return values[int(len(values) * share)]


@contextmanager
def _runs(server: JupyterServer) -> Iterator[list[str]]:
    """Four runs at any time until the end, one of them over 110 MB; each kind's value is uploaded once."""
    stop, ended = threading.Event(), list[str]()
    bench = RemoteWorkbench(server.url, server.token)

    def ask(text: str) -> None:
        while not stop.is_set():
            ended.append(bench.ask(Question("How many errors per service?", context=text)).result().status)

    lines = "".join(LINE.format(("INFO", "ERROR")[n % 7 == 0], n % 5, n) for n in range(200_000))
    big = (lines * (110 * MB // len(lines) + 1))[: 110 * MB]
    threads = [threading.Thread(target=ask, args=(text,)) for text in (big, *(lines[: n * MB] for n in (1, 2, 3)))]
    for thread in threads:
        thread.start()
    try:
        yield ended
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def _beside_burners(server: JupyterServer, kernel: ServedKernel, seconds: float) -> list[str]:
    burners = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(4)]
    try:
        return _figures(server, kernel, seconds)
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()
