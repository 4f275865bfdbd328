"""A kernel finds the Jupyter server that started it, and nothing where none did; tests/hub has Lab and Notebook 7."""

from __future__ import annotations

import http.server
import json
import os
import socket
import subprocess
import threading

import nbformat
import papermill
import pytest
from integration.jupyter_servers import RECIPES, WHERE, JupyterServer, asks, text_of
from nbclient import NotebookClient


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with JupyterServer("jupyter server", tmp_path_factory.mktemp("server"), RECIPES) as server:
        yield server


def test_a_kernel_of_the_server_alone_finds_it(served):
    with served.kernel() as kernel:
        text = text_of(kernel.run("%load_ext fleet_rlm_jupyter\n%fleet status\n%fleet config\n%fleet doctor"))
        assert f"server:  {served.url} (jpserver-{served.process.pid}.json)" in text.splitlines()
        assert served.token not in text


def test_a_server_without_the_extension_leaves_the_kernel_to_do_it_and_says_so(tmp_path):
    with JupyterServer("jupyter server", tmp_path, RECIPES, has_fleet=False) as server:
        with server.kernel() as kernel:
            said = asks(text_of(kernel.run(WHERE)))
    assert said.startswith("in this kernel: ")
    assert "no fleet extension" in said


class OlderServer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"version": "0.0.1", "api": 0}')


def test_a_server_that_is_dead_or_older_leaves_the_kernel_to_do_it_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("FLEET_MODEL", "offline/recipes")
    older = http.server.ThreadingHTTPServer(("127.0.0.1", 0), OlderServer)
    threading.Thread(target=older.serve_forever, daemon=True).start()
    with socket.create_server(("127.0.0.1", 0)) as door:
        closed = door.getsockname()[1]
    ended = subprocess.Popen(["true"])
    ended.wait()
    says = {}
    for pid, port, words in (
        (ended.pid, closed, "stale"),
        (os.getpid(), closed, "does not answer"),
        (os.getpid(), older.server_port, "speaks an older API: 0"),
    ):
        place = tmp_path / str(len(says))
        place.mkdir()
        info = {"url": f"http://127.0.0.1:{port}/", "token": "t", "hostname": "127.0.0.1", "port": port, "sock": ""}
        (place / f"jpserver-{pid}.json").write_text(json.dumps(info))
        environ = f"import os\nos.environ.update(JPY_PARENT_PID='{pid}', JUPYTER_RUNTIME_DIR={str(place)!r})\n"
        says[environ + WHERE] = words
    for text, words in zip(in_a_notebook(list(says)), says.values(), strict=True):
        assert asks(text).startswith("in this kernel: ")
        assert words in asks(text)
    older.shutdown()
    older.server_close()


def in_a_notebook(cells: list[str]) -> list[str]:
    """What each cell prints, in a kernel that no server started."""
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    NotebookClient(book, timeout=60, kernel_name="python3").execute()
    return ["".join(output.get("text", "") for output in cell.outputs) for cell in book.cells]


def test_an_explicit_url_wins_and_needs_its_token(served, monkeypatch):
    monkeypatch.setenv("FLEET_MODEL", "offline/recipes")
    monkeypatch.setenv("FLEET_SERVER_URL", served.url)
    token = f"import os; os.environ['FLEET_SERVER_TOKEN'] = {served.token!r}"
    without, _, with_it = in_a_notebook([WHERE, token, WHERE])
    assert "FLEET_SERVER_TOKEN" in asks(without)
    assert asks(with_it) == f"on the server at {served.url} (FLEET_SERVER_URL)"


def test_a_server_is_named_in_the_notebook_and_forgotten_again(served, tmp_path):
    with served.kernel() as kernel:
        kernel.run("%load_ext fleet_rlm_jupyter")
        assert "does not answer" in text_of(kernel.run("%fleet connect http://127.0.0.1:9/"))
        assert served.url in text_of(kernel.run("%fleet connect")), "what was found before stays"
        assert "a token does not belong" in text_of(kernel.run(f"%fleet connect {served.url}?token={served.token}"))
        kernel.run(f"import os; os.environ['FLEET_SERVER_TOKEN'] = {served.token!r}")
        said = text_of(kernel.run(f"%fleet connect {served.url}lab/tree/x.ipynb"))
        assert f"{served.url} (FLEET_SERVER_URL)" in said
        assert "jpserver" in text_of(kernel.run("%fleet connect"))


@pytest.mark.parametrize("runner", ["papermill", "nbclient"])
def test_a_notebook_that_no_server_runs_finds_none_and_says_nothing_of_it(tmp_path, monkeypatch, runner):
    for name, value in RECIPES.items():
        monkeypatch.setenv(name, value)
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(WHERE)])
    if runner == "papermill":
        nbformat.write(book, tmp_path / "in.ipynb")
        papermill.execute_notebook(
            tmp_path / "in.ipynb", tmp_path / "out.ipynb", kernel_name="python3", progress_bar=False
        )
        book = nbformat.read(tmp_path / "out.ipynb", 4)
    else:
        NotebookClient(book, timeout=60, kernel_name="python3").execute()
    assert asks(book.cells[0].outputs[0].text) == "in this kernel"
