"""A worker whose runs talk, in TALK_WAVES: TALK_RUNS of them emit TALK_RATE events a second for TALK_SECONDS.

An event has TALK_CHARS characters, 200 where that is not said.

Of wave n, the file `begin-n` makes the runs, whose ids are then in `runs-n.json`, and `go-n` has them talk.
"""

import json
import os
import threading
import time
from pathlib import Path

from worker_thread import talk

from fleet_rlm_jupyter.domain.events import CallText
from fleet_rlm_jupyter.server import worker
from fleet_rlm_jupyter.testing import ScriptedEngine, scripted_workbench


def open_bench(settings):
    bench = scripted_workbench(ScriptedEngine(lambda prompt: ""))
    threading.Thread(target=start, args=(bench,), daemon=True).start()
    return bench


def start(bench):
    for wave in range(int(os.environ["TALK_WAVES"])):
        begin(bench, wave)


def begin(bench, wave):
    go = threading.Event()
    rate, seconds = float(os.environ["TALK_RATE"]), float(os.environ["TALK_SECONDS"])
    filling = "x" * int(os.environ.get("TALK_CHARS", "200"))

    def work(emit):
        go.wait(300)
        begun = time.monotonic()
        for number in range(int(rate * seconds)):
            time.sleep(max(0.0, begun + number / rate - time.monotonic()))
            emit(CallText(channel="stdout", text=f"line {number} {filling}\n"), f"c{number % 50}")

    while not Path(f"begin-{wave}").exists():
        time.sleep(0.05)
    runs = [talk(bench, "local", work).run_id for _ in range(int(os.environ["TALK_RUNS"]))]
    Path(f"runs-{wave}.json").write_text(json.dumps(runs))
    while not Path(f"go-{wave}").exists():
        time.sleep(0.05)
    go.set()


if __name__ == "__main__":
    worker.main(open_bench)
