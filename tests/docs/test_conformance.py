"""The list of checks from outside names tests that there are, for every check or with the reason why there is none."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "reference" / "conformance.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| (Q\d+) \| (.+?) \| (.+) \|$", PAGE, re.MULTILINE)
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
WITHOUT = ("comes with ", "does not apply, because ")


@cache
def names_in(path: str) -> frozenset[str]:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def test_every_check_has_its_row():
    assert [number for number, _, _ in ROWS] == [f"Q{number}" for number in range(1, 56)]


@pytest.mark.parametrize(("number", "by"), [(number, by) for number, _, by in ROWS], ids=[row[0] for row in ROWS])
def test_a_check_is_shown_by_tests_that_there_are_or_says_why_it_is_not(number, by):
    named = NAMED.findall(by)
    assert named or by.startswith(WITHOUT), number
    if not by.startswith(WITHOUT):
        assert by.replace("<br>", "") == "".join(f"`{path}::{name}`" for path, name in named)
    for path, name in named:
        assert name in names_in(path), f"{number} names {path}::{name}"
