"""A kernel finds the Jupyter server that started it: Lab, Notebook 7, the server alone, and nothing where none is."""

from __future__ import annotations

import json
from pathlib import Path

import nbformat
import papermill
import pytest
from integration.jupyter_servers import APPS, JupyterServer, text_of
from nbclient import NotebookClient

WHERE = """
from fleet_rlm_jupyter.kernel.connect import find_server
from fleet_rlm_jupyter.settings import load
found = find_server(load().settings)
print("server:", found.server and (found.server.url, found.server.source), found.reason)
"""
RECIPES = {"FLEET_MODEL": "offline/recipes"}


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with JupyterServer("jupyter server", tmp_path_factory.mktemp("server"), RECIPES) as server:
        yield server


def where_in(kernel) -> str:
    """What a kernel finds."""
    return text_of(kernel.run(WHERE))


def test_a_kernel_of_the_server_alone_finds_it(served):
    with served.kernel() as kernel:
        text = text_of(kernel.run("%load_ext fleet_rlm_jupyter\n%fleet status\n%fleet config\n%fleet doctor"))
        assert f"server:  {served.url} (jpserver-{served.process.pid}.json)" in text.splitlines()
        assert served.token not in text


@pytest.mark.parametrize("app", [app for app in APPS if app != "jupyter server"])
def test_a_kernel_of_each_other_application_finds_it(tmp_path, app):
    with JupyterServer(app, tmp_path, RECIPES) as server, server.kernel() as kernel:
        assert server.url in where_in(kernel)


def test_a_server_without_the_extension_and_one_that_is_dead_are_said(tmp_path):
    with JupyterServer("jupyter server", tmp_path, RECIPES, has_fleet=False) as server:
        with server.kernel() as kernel:
            assert "no fleet extension" in where_in(kernel)
    info = json.dumps({"url": server.url, "token": "t", "hostname": "127.0.0.1", "port": 1, "sock": ""})
    assert "stale" in in_a_notebook(tmp_path, info, server.process.pid)


def in_a_notebook(tmp_path: Path, info: str, pid: int) -> str:
    """What `%fleet status` says in a kernel whose parent left this runtime file."""
    place = tmp_path / "runtime-of-another"
    place.mkdir(parents=True)
    (place / f"jpserver-{pid}.json").write_text(info)
    environ = f"import os\nos.environ.update(JPY_PARENT_PID={str(pid)!r}, JUPYTER_RUNTIME_DIR={str(place)!r})"
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in (environ, WHERE)])
    NotebookClient(book, timeout=60, kernel_name="python3").execute()
    return book.cells[-1].outputs[0].text


def test_an_explicit_url_wins_and_needs_its_token(served, tmp_path, monkeypatch):
    monkeypatch.setenv("FLEET_MODEL", "offline/recipes")
    monkeypatch.setenv("FLEET_SERVER_URL", served.url)
    assert "FLEET_SERVER_TOKEN" in in_a_notebook(tmp_path / "a", "{", 1)
    monkeypatch.setenv("FLEET_SERVER_TOKEN", served.token)
    assert f"('{served.url}', 'FLEET_SERVER_URL')" in in_a_notebook(tmp_path / "b", "{", 1)


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
    assert book.cells[0].outputs[0].text.split() == ["server:", "None"]
