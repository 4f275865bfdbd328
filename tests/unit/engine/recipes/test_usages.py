"""Where names are used in Python sources, and what there is in them."""

import json

import pytest

from fleet_rlm_jupyter.engine.recipes.inventory import python_rows
from fleet_rlm_jupyter.engine.recipes.profile import pieces_of
from fleet_rlm_jupyter.engine.recipes.records import Piece
from fleet_rlm_jupyter.engine.recipes.usages import merge_usages, report_usages, usages

CODE = {
    "pkg/net.py": '''"""Net."""
from .errors import TimeoutError as Late, Lost
import json as j

def read(stream):
    """raise TimeoutError is only said here"""
    try:
        return j.loads(stream)
    except (Late, KeyError):
        raise Lost() from None

class Link:
    def close(self):
        raise Late("gone")

    async def wait(self):
        if self.late:
            raise TimeoutError
        return [loads for loads in []]
''',
    "pkg/other.py": "import json\nx = json.loads('1')\ndef loads(text):\n    return json.loads(text)\n",
    "broken.py": "def (TimeoutError:\n",
    "__init__.py": "def load(f):\n    return loads(f.read())\ndef loads(s):\n    return s\n",
}


def places(name, how="any"):
    found = usages(pieces_of(CODE), {"name": name, "how": how})["found"]
    return [(one["path"], one["line"], one["how"], one["inside"]) for one in found]


def test_raises_are_found_under_every_name_and_not_in_texts():
    assert places("TimeoutError", "raise") == [
        ("pkg/net.py", 14, "raise", "Link.close"),
        ("pkg/net.py", 18, "raise", "Link.wait"),
    ]


def test_calls_catches_and_imports_are_told_apart():
    assert places("json.loads", "call") == [
        ("pkg/net.py", 8, "call", "read"),
        ("pkg/other.py", 2, "call", "(module level)"),
        ("pkg/other.py", 4, "call", "loads"),
        ("__init__.py", 2, "call", "load"),
    ]
    assert places("TimeoutError", "catch") == [("pkg/net.py", 9, "catch", "read")]
    assert places("json", "import") == [
        ("pkg/net.py", 3, "import", "(module level)"),
        ("pkg/other.py", 1, "import", "(module level)"),
    ]
    assert ("pkg/net.py", 2, "import", "(module level)") in places("TimeoutError")


def test_the_report_names_modules_functions_and_lines_and_files_that_do_not_parse():
    slots = {"name": "TimeoutError", "how": "raise"}
    done = usages(pieces_of(CODE), slots)
    merged = merge_usages([json.loads(json.dumps(done))], slots)
    report = report_usages("usages", slots, merged)
    assert "TimeoutError is raised 2 times in 1 module" in report.sentences[0]
    assert "pkg/net.py: Link.close (line 14), Link.wait (line 18)" in report.sentences[0]
    assert "Left out, since they do not parse: broken.py." in report.sentences
    assert report.claims[0] == {"usages": "TimeoutError", "how": "raise"}


SOURCE = '''"""Module."""
import os, sys
from json import loads
LIMIT = 3

class A(Base):
    KIND = "a"

    @property
    def one(self, x, *rest):
        return 1

    async def two(self):
        """Doc."""
        def inner():
            yield 1
        return inner

def _private(): ...
'''


@pytest.mark.parametrize(
    ("unit", "names"),
    [
        ("classes", ["A"]),
        ("methods", ["A.one", "A.two"]),
        ("functions", ["A.one", "A.two", "A.two.inner", "_private"]),
        ("imports", ["os", "sys", "json"]),
        ("constants", ["LIMIT", "A.KIND"]),
        ("modules", ["m.py"]),
    ],
)
def test_everything_in_a_file_is_a_record_of_its_unit(unit, names):
    rows = list(python_rows(Piece("python", 1, "m.py", SOURCE), unit))
    assert [row.fields["name"] for row in rows if row.fields] == names


def test_functions_know_their_sort_length_and_place():
    rows = {
        row.fields["name"]: row.fields
        for row in python_rows(Piece("python", 1, "m.py", SOURCE), "functions")
        if row.fields
    }
    assert rows["A.one"] | {"parameters.count": "3", "decorators": "property", "kind": "method"} == rows["A.one"]
    assert rows["A.two"] | {"async": "yes", "docstring": "yes", "generator": "no", "lines": "5"} == rows["A.two"]
    assert rows["A.two.inner"] | {"generator": "yes", "kind": "inside a function"} == rows["A.two.inner"]
    assert rows["_private"] | {"private": "yes", "within": ""} == rows["_private"]


def test_a_file_that_does_not_parse_is_a_record_without_fields():
    (row,) = python_rows(Piece("python", 1, "m.py", "def ("), "classes")
    assert row.fields is None
