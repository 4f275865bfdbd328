"""Where a question of a notebook runs: on the server that started the kernel, or in the kernel; the output says it."""

from __future__ import annotations

import socket
import threading

import pytest
from integration.jupyter_servers import JupyterServer, text_of, until
from scripted_model import ScriptedModel

from fleet_rlm_jupyter.settings import variable
from fleet_rlm_jupyter.testing import code

MIME = "application/vnd.fleet-rlm.run+json"
LOG = "log = ''.join(f'level={(\"INFO\", \"ERROR\")[n % 7 == 0]} service=s{n % 5} n={n}\\n' for n in range(5000))"
COUNT = "--recipe count --slot unit=lines\nHow many lines?"


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with JupyterServer("jupyter server", tmp_path_factory.mktemp("server"), {"FLEET_MODEL": "offline/recipes"}) as made:
        yield made


@pytest.fixture(scope="module")
def kernel(served):
    with served.kernel() as made:
        made.run(f"%load_ext fleet_rlm_jupyter\nimport fleet_rlm_jupyter as fleet\n{LOG}")
        yield made


def shown(outputs) -> str:
    return outputs[-1]["data"]["text/plain"]


def test_a_question_over_a_variable_runs_on_the_server_and_says_so(served, kernel):
    live: list[str] = []
    outputs = kernel.run(
        "%%fleet --var log -o result\nWhich service has the most errors?", see=lambda o: live.append(str(o))
    )
    assert shown(outputs).endswith(f" · on the server at {served.url}")
    assert served.url in outputs[-1]["data"]["text/html"]
    assert any(f"running on the server at {served.url}" in text for text in live)
    assert outputs[-1]["data"][MIME]["status"] == "done"
    printed = text_of(kernel.run("print(result.status, len(result.tree.calls), result.run_id)"))
    status, calls, run_id = printed.split()
    assert (status, int(calls) > 3) == ("done", True)
    assert served.call("GET", f"fleet/api/v1/runs/{run_id}")["status"] == "done"
    assert run_id in text_of(kernel.run("%fleet runs"))
    assert "asks:    on the server" in text_of(kernel.run("%fleet status"))


KINDS = {
    "log.encode()": "5,000 lines",
    "log.splitlines()": "5,000 lines",
    "dict(a=log, b=log)": "10,000 lines",
    "pd.DataFrame(dict(n=range(20), level='INFO'))": "21 lines",
    "np.arange(20)": "20 lines",
    "path": "5,000 lines",
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_variable_travels(served, kernel, tmp_path, kind):
    given = f"import numpy as np, pandas as pd, pathlib\npath = pathlib.Path({str(tmp_path)!r}, 'log.txt')\n"
    kernel.run(f"{given}path.write_text(log)\nvalue = {kind}")
    outputs = kernel.run(f"%%fleet --var value --on server {COUNT}")
    assert KINDS[kind].split()[0] in outputs[-1]["data"][MIME]["answer"]
    assert "on the server" in shown(outputs)


def test_a_file_outside_the_servers_folder_goes_by_content(kernel, tmp_path):
    (tmp_path / "notes.txt").write_text("one\ntwo\nthree\n")
    outputs = kernel.run(f"%%fleet --context {tmp_path}/notes.txt {COUNT}")
    assert "3 lines" in shown(outputs)
    assert "on the server" in shown(outputs)


def test_what_holds_a_run_in_the_kernel_is_said_and_what_cannot_travel_is_refused_there(served, kernel):
    outputs = kernel.run(f"%%fleet --var log --on kernel {COUNT}")
    assert shown(outputs).endswith("in this kernel, as asked for")
    outputs = kernel.run(f"%%fleet --var log --model offline/recipes {COUNT}")
    assert shown(outputs).endswith("in this kernel: it has settings of its own (model)")
    refused = text_of(kernel.run(f"%%fleet --var log --on server --model offline/recipes {COUNT}"))
    assert "cannot run on the server: it has settings of its own" in refused
    assert "on is server or kernel" in text_of(kernel.run("fleet.start('q', log, on='moon')"))


def test_a_program_by_its_name_goes_where_questions_go(kernel):
    cell = "fleet.run('ask', context={'a.log': log}, question='How many records are there?', limits={'calls': 17})"
    outputs = kernel.run(cell)
    assert "5,000" in outputs[-1]["data"][MIME]["answer"]
    assert "of 17 LM calls" in shown(outputs)
    assert "on the server" in shown(outputs)


def test_a_smoke_test_is_made_where_questions_go_or_where_it_is_asked_for(served, kernel):
    for words, where in (("", f"on the server at {served.url}:"), (" --on kernel", "in this kernel, as asked for:")):
        lines = text_of(kernel.run(f"%fleet smoke{words}")).splitlines()
        assert lines[0] == where
        assert [line.split()[:2] for line in lines[1:]] == [
            ["✓", name] for name in ("config", "create", "state", "callback", "volume", "clean-up")
        ]
    *lines, error = kernel.run("%fleet smoke --repo https://127.0.0.1:1/none --ref main")
    assert "✗ clone" in text_of(lines)
    assert error["traceback"][0] == "error: the phase clone failed"
    assert error["traceback"][1].startswith("next:  ")


def test_status_and_doctor_describe_the_place_where_runs_happen(served, kernel):
    """The server's model is recipes; this kernel's own settings name another, which no question goes to."""
    kernel.run("import os; os.environ['FLEET_API_BASE'] = 'http://127.0.0.1:9/v1'")
    try:
        status = text_of(kernel.run("%fleet status"))
        doctor = text_of(kernel.run("%fleet doctor"))
    finally:
        kernel.run("del os.environ['FLEET_API_BASE']")
    assert "model:   offline recipes" in status
    assert "FLEET_MODEL" in status
    there, _, here = doctor.partition("in this kernel, where runs go that are tied to it:")
    assert there.startswith(f"on the server at {served.url}, where questions go:")
    assert "✓ model: offline recipes" in there
    assert "✓ store: " in there
    assert "127.0.0.1:9" not in there
    assert "127.0.0.1:9" in here


def test_a_budget_travels(kernel):
    outputs = kernel.run(f"%%fleet --var log --calls 17 {COUNT}")
    assert "of 17 LM calls" in shown(outputs)
    assert "on the server" in shown(outputs)
    kernel.run("%fleet config budget.calls 19")
    assert "of 19 LM calls" in shown(kernel.run(f"%%fleet --var log {COUNT}"))
    kernel.run("%fleet config reset")


def test_a_handle_and_await_leave_the_kernel_free(kernel):
    cell = "handle = fleet.start('How many records are there?', log, on='server')\nresult = await handle"
    assert kernel.run(cell) == []
    assert "done on the server" in text_of(kernel.run("print(result.status, handle.where)"))


def test_a_server_that_is_gone_leaves_the_kernel_to_do_it(kernel):
    with socket.create_server(("127.0.0.1", 0)) as other:
        gone = f"http://127.0.0.1:{other.getsockname()[1]}/"
    kernel.run(f"import os; os.environ['FLEET_SERVER_URL'] = {gone!r}")
    outputs = kernel.run(f"%%fleet --var log {COUNT}")
    assert shown(outputs).endswith(f"in this kernel: the server at {gone} does not answer")
    assert "does not answer" in text_of(kernel.run(f"%%fleet --var log --on server {COUNT}"))
    kernel.run("del os.environ['FLEET_SERVER_URL']")


class Counter:
    """Passes a server's traffic on and counts what is sent to it."""

    def __init__(self, port: int) -> None:
        self.sent = 0
        self._to = port
        self._door = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._door.getsockname()[1]}/"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._door.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self._to))
            threading.Thread(target=self._pass, args=(near, far, True), daemon=True).start()
            threading.Thread(target=self._pass, args=(far, near, False), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, is_sent: bool) -> None:
        try:
            while data := source.recv(65536):
                self.sent += len(data) if is_sent else 0
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def close(self) -> None:
        self._door.close()


def test_a_variable_reaches_the_server_once(served, kernel):
    counter = Counter(int(served.url.rstrip("/").rpartition(":")[2]))
    environ = {"FLEET_SERVER_URL": counter.url, "FLEET_SERVER_TOKEN": served.token}
    kernel.run(f"import os; os.environ.update({environ!r})\nlarge = log * 40")
    size = int(text_of(kernel.run("print(len(large))")))
    assert size > 4_000_000
    assert "on the server" in shown(kernel.run(f"%%fleet --var large {COUNT}"))
    first, counter.sent = counter.sent, 0
    assert "200,000 lines" in shown(kernel.run(f"%%fleet --var large {COUNT}"))
    counter.close()
    kernel.run("del os.environ['FLEET_SERVER_URL'], os.environ['FLEET_SERVER_TOKEN']")
    assert size < first < 1.1 * size
    assert counter.sent < 20_000


def test_a_kernel_interrupt_cancels_the_run_on_the_server_and_keeps_what_was_found(tmp_path):
    steps = iter([code("print('found: half of it')"), code("import time; time.sleep(60)")])
    with ScriptedModel(lambda prompt: next(steps)) as model:
        environ = {variable(name): str(value) for name, value in model.settings.items()}
        with JupyterServer("jupyter server", tmp_path, environ) as server, server.kernel() as kernel:
            kernel.run("%load_ext fleet_rlm_jupyter")
            asked = kernel.begin("%%fleet_rlm -o partial\nanything?")
            until(lambda: model.calls == 2, "the second step was not asked for")
            kernel.interrupt()
            outputs = kernel.finish(asked)
            assert outputs[0]["data"][MIME]["status"] == "cancelled"
            assert outputs[-1]["ename"] == "FleetInterrupted"
            kept = text_of(kernel.run("print(partial.status, partial.found, partial.run_id)")).split()
            assert kept[:3] == ["cancelled", "found:", "half"]
            assert server.call("GET", f"fleet/api/v1/runs/{kept[-1]}")["status"] == "cancelled"
            assert model.calls == 2


LOOKS = """
import os
found = {}
for here, _, names in os.walk("workspace/context"):
    found |= {os.path.relpath(os.path.join(here, name), "workspace/context"): name for name in names}
SUBMIT(answer=",".join(sorted(found)) + " " + open("workspace/context/01-data/deep/b.bin", "rb").read().hex())
"""


def test_files_of_the_kernels_folder_are_staged_by_path_wherever_the_question_runs(tmp_path):
    """The server's root is another folder than the kernel's, and none that files may be staged from."""
    folder = tmp_path / "elsewhere"
    (folder / "data" / "deep").mkdir(parents=True)
    (folder / "data" / "deep" / "b.bin").write_bytes(b"\0\xff")
    (folder / "my notes.txt").write_text("one")
    with ScriptedModel(lambda prompt: code(LOOKS)) as model:
        environ = {variable(name): str(value) for name, value in model.settings.items()}
        with JupyterServer("jupyter server", tmp_path, environ) as server, server.kernel() as kernel:
            kernel.run(f"%load_ext fleet_rlm_jupyter\nimport os, fleet_rlm_jupyter as fleet\nos.chdir({str(folder)!r})")
            for place, says in (("server", "on the server"), ("kernel", "in this kernel")):
                cell = f"%%fleet --stage data --stage 'my notes.txt' --on {place} -o found\nwhat is there?"
                outputs = kernel.run(cell)
                told = "01-data/deep/b.bin,02-my-notes.txt/my notes.txt,manifest.json 00ff"
                assert outputs[-1]["data"][MIME]["answer"] == told, text_of(outputs)
                assert says in shown(outputs)
                sent = "print(next(e.fact.staged.sent for e in found.trace if e.fact.type == 'sandbox.changed'))"
                assert text_of(kernel.run(sent)) == "2\n"
                kernel.run(cell)
                assert text_of(kernel.run(sent)) == "0\n", "what the session has is not sent again"
                asked = f"fleet.start('what?', stage='data', on={place!r}).result(60).answer"
                assert text_of(kernel.run(f"print({asked})")) == "01-data/deep/b.bin,manifest.json 00ff\n"
                for given, why in (("/etc/hostname", "none of the folders"), ("nothing.txt", "nothing.txt")):
                    refused = text_of(kernel.run(f"%%fleet --stage {given} --on {place}\nwhat?"))
                    assert why in refused
                    assert "Traceback" not in refused
