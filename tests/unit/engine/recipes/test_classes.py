"""Definitions and subclasses, against this Python's own library and hand-made trees."""

import ast
import sysconfig
from pathlib import Path

import pytest

from fleet_rlm_jupyter.engine.recipes.classes import census, merge_censuses
from fleet_rlm_jupyter.engine.recipes.records import Piece
from fleet_rlm_jupyter.engine.recipes.report import report_census

STDLIB = Path(sysconfig.get_paths()["stdlib"])


def found(files, **slots):
    done = census([Piece("python", 1, path, text) for path, text in files.items()], slots)
    return [(one["path"], one["name"]) for one in merge_censuses([done], slots)["found"]]


TREE = {
    "base.py": "class Base(Exception): pass\nclass Other: pass\n",
    "pkg/__init__.py": "from .core import Core\nfrom ..base import Base\n",
    "pkg/core.py": "import base as b\nclass Core(b.Base):\n    class Inner(b.Other): pass\n",
    "pkg/use.py": "from pkg import Core\nfrom base import Base as B\nclass Use(Core): pass\nclass Again(B): pass\n",
    "fake.py": "class Base: pass\nclass NotOurs(Base): pass\n",
    "generic.py": "from typing import Generic\nclass Box(Generic[int], metaclass=Base): pass\n",
    "hidden.py": "def f():\n  try:\n    class Deep(ValueError): pass\n  except Exception:\n    async def g(): pass\n",
    "broken.py": "class Exception(:\n",
}


def test_a_base_counts_as_written_with_imports_resolved():
    assert found(TREE, base="Exception") == [("base.py", "Base")]
    assert found(TREE, base="base.Base") == [("pkg/core.py", "Core"), ("pkg/use.py", "Again")]
    assert found(TREE, base="Other") == [("pkg/core.py", "Core.Inner")]
    assert found(TREE, base="typing.Generic") == [("generic.py", "Box")]
    assert found(TREE, base="pkg.Core") == [("pkg/use.py", "Use")]


def test_transitive_goes_through_classes_of_the_tree_and_builtins():
    assert found(TREE, base="Exception", transitive="yes") == [
        ("base.py", "Base"),
        ("hidden.py", "f.Deep"),
        ("pkg/core.py", "Core"),
        ("pkg/use.py", "Use"),
        ("pkg/use.py", "Again"),
    ]


def test_definitions_are_found_at_any_depth():
    assert found(TREE, name="g") == [("hidden.py", "f.g")]
    assert found(TREE, name="Core.Inner", kind="class") == [("pkg/core.py", "Core.Inner")]
    assert found(TREE, name="g", kind="class") == []


def test_files_that_do_not_parse_are_named_and_the_rest_is_read():
    files = {
        "a.py": "class E(Exception): pass",
        "bad.py": "Exception (",
        "null.py": "Exception\0",
        "cr.py": "x\rclass F(Exception):\r  pass",
    }
    done = census([Piece("python", 1, path, text) for path, text in files.items()], {"base": "Exception"})
    assert done["unparsed"] == ["bad.py", "null.py"]
    said = " ".join(report_census("subclasses", {"base": "Exception"}, done).sentences)
    assert said.startswith("2 classes in 2 modules subclass Exception directly: a.py (1); cr.py (1).")
    assert "2 files with the name that do not parse are left out: bad.py, null.py." in said


@pytest.fixture(scope="module")
def stdlib():
    paths = [p for p in sorted(STDLIB.rglob("*.py")) if not {"site-packages", "test", "tests"} & set(p.parts)]
    return {p.relative_to(STDLIB).as_posix(): p.read_bytes().decode("utf-8", "replace") for p in paths}


def test_the_standard_library_agrees_with_a_plain_walk_over_its_syntax_trees(stdlib):
    """Another way to the same figures; without the tests of the library, which the integration test reads."""
    truth = set()
    for path, text in stdlib.items():
        if "Exception" not in text:
            continue
        try:
            tree = ast.parse(text)
        except (SyntaxError, ValueError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and any(
                ast.unparse(base).split(".")[-1] == "Exception" for base in node.bases
            ):
                truth.add((path, node.name, node.lineno))
    done = census([Piece("python", 1, path, text) for path, text in stdlib.items()], {"base": "Exception"})
    assert {(one["path"], one["name"].split(".")[-1], one["line"]) for one in done["found"]} == truth
    assert len(truth) > 50
