"""Every notebook runs from top to bottom, offline, and is kept without outputs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import papermill
import pytest
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_kept_clean(path):
    cells = [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    assert cells[0]["metadata"]["tags"] == ["parameters"]
    assert not any(cell["outputs"] or cell["execution_count"] for cell in cells)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_papermill_runs_it(path, tmp_path):
    papermill.execute_notebook(
        path, tmp_path / path.name, {"lines": 5000}, kernel_name="python3", progress_bar=False, cwd=tmp_path
    )


def nbval(path, folder):
    """How nbval ends for a notebook, and its last line."""
    command = [sys.executable, "-m", "pytest", "-p", "fleet_rlm_jupyter", "-p", "nbval.plugin", "--nbval-lax", "-q"]
    command += ["-p", "no:cacheprovider", "--current-env", path]
    plain = {name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"}  # no cell runs twice
    plain["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # they take seconds, and nbval needs none
    done = subprocess.run(command, cwd=folder, env=plain, capture_output=True, text=True, timeout=100, check=False)
    return done.returncode, done.stdout[-3000:]


@pytest.mark.parametrize("lines", [5000, pytest.param(None, marks=pytest.mark.soak)])
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_nbval_finds_nothing(path, lines, tmp_path):
    if lines is not None:
        smaller = parameterize_notebook(load_notebook_node(str(path)), {"lines": lines}, kernel_name="python3")
        path = tmp_path / path.name
        nbformat.write(smaller, path)
    kinds = [cell["cell_type"] for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]]
    code, said = nbval(path, tmp_path)
    assert code == 0, said
    assert f"{kinds.count('code')} passed" in said, "every cell was run"


def test_nbval_would_find_a_cell_that_fails(tmp_path):
    bad = ("assert 42 in [41]", "%%fleet --var nothing_of_that_name\nHow many lines?")
    cells = [nbformat.v4.new_code_cell(source) for source in ("%load_ext fleet_rlm_jupyter", *bad, "assert True")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "broken.ipynb")
    code, said = nbval(tmp_path / "broken.ipynb", tmp_path)
    assert code == 1, said
    assert "2 failed, 2 passed" in said
