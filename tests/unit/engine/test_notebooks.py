"""A notebook read as a text."""

from __future__ import annotations

import json

import pytest

from fleet_rlm_jupyter.engine.notebooks import notebook_text

CELLS = [
    {"cell_type": "markdown", "source": ["# Title\n", "words"]},
    {
        "cell_type": "code",
        "source": "print(1)\n1 / 0",
        "outputs": [
            {"output_type": "stream", "name": "stdout", "text": ["1\n"]},
            {"output_type": "execute_result", "data": {"text/html": "<b>2</b>", "text/plain": "2"}},
            {"output_type": "display_data", "data": {"image/png": "iVBORw0KGgo="}},
            {"output_type": "error", "ename": "E", "evalue": "v", "traceback": ["\x1b[0;31mE\x1b[0m", "E: v"]},
        ],
    },
    {"cell_type": "code", "source": [], "outputs": []},
]

TEXT = """\
# %% [markdown] cell 1
# Title
words

# %% [code] cell 2
print(1)
1 / 0

# %% [output] cell 2
1
2
(image/png left out)
E
E: v

# %% [code] cell 3
"""


def test_cells_and_text_outputs_stand_under_their_markers():
    assert notebook_text(json.dumps({"nbformat": 4, "nbformat_minor": 5, "cells": CELLS})) == TEXT


def test_notebooks_of_the_third_format_are_read_too():
    output = {"output_type": "pyout", "text": ["5"]}
    old = {"nbformat": 3, "worksheets": [{"cells": [{"cell_type": "code", "input": ["2 + 3"], "outputs": [output]}]}]}
    assert notebook_text(json.dumps(old)) == "# %% [code] cell 1\n2 + 3\n\n# %% [output] cell 1\n5\n"


@pytest.mark.parametrize(
    "raw", ["", "{}", "[]", "null", '{"cells": []}', "[" * 100_000, '{"nbformat": "4"}', "no json"]
)
def test_what_is_no_notebook_stays_what_it_is(raw):
    assert notebook_text(raw) is None


@pytest.mark.parametrize("cells", [None, 3, [None], [{}], [{"cell_type": 1, "source": 2, "outputs": [3, {"data": 4}]}]])
def test_a_damaged_notebook_gives_what_it_has(cells):
    assert isinstance(notebook_text(json.dumps({"nbformat": 4, "cells": cells})), str)
