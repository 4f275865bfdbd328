"""Kernel variables as contexts: each kind as text, or refused with the way out."""

import dataclasses
import datetime
import io
import json
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fleet_rlm_jupyter.domain.errors import BadPath, BadRequest
from fleet_rlm_jupyter.kernel.variables import as_context, context_of
from fleet_rlm_jupyter.settings import ContextSettings

LIMITS = ContextSettings()


@dataclasses.dataclass
class Row:
    n: int
    when: datetime.date


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("plain", "plain"),
        (b"gr\xc3\xbcn", "grün"),
        (42, "42"),
        (["a", "b"], "a\nb\n"),
        (["a\nb", "c"], '"a\\nb"\n"c"\n'),
        ([{"n": 1}, {"n": 2}], '{"n": 1}\n{"n": 2}\n'),
        ([Row(1, datetime.date(2026, 11, 24))], '{"n": 1, "when": "2026-11-24"}\n'),
        ([np.int64(3), np.float64(0.5)], "3\n0.5\n"),
        (pd.DataFrame({"a": [1, 2], "b": ["x", "y,z"]}), 'a,b\n1,x\n2,"y,z"\n'),
        (pd.DataFrame({"a": [1]}, index=["row"]), ",a\nrow,1\n"),
        (pd.Series([1, 2], name="n"), "n\n1\n2\n"),
        (np.array([1, 2]), "1\n2\n"),
        (np.array([[1, 2], [3, 4]]), "1,2\n3,4\n"),
        (np.zeros((1, 1, 2), dtype=int), "[[[0, 0]]]"),
    ],
)
def test_a_value_becomes_the_text_that_a_file_of_it_would_hold(value, text):
    assert as_context(value, LIMITS).value == text


def test_dicts_of_documents_stay_apart_and_others_become_json():
    table = pd.DataFrame({"a": [1]})
    assert as_context({"x": "text", "y": table}, LIMITS).value == {"x": "text", "y": "a\n1\n"}
    assert json.loads(str(as_context({"a": [1, 2], "b": {3}}, LIMITS).value)) == {"a": [1, 2], "b": [3]}


def test_several_variables_keep_their_names(tmp_path):
    (tmp_path / "f.txt").write_text("in a file")
    known = {"a": "text", "folder": tmp_path, "file": tmp_path / "f.txt"}
    made = context_of(["a", "folder", "file"], known, LIMITS)
    assert made.value == {"a": "text", "folder/f.txt": "in a file", "file": "in a file"}


def test_a_folder_in_a_variable_keeps_its_manifest(tmp_path):
    (tmp_path / "f.txt").write_text("in a file")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\0")
    for made in (as_context(tmp_path, LIMITS), context_of(["folder", "n"], {"folder": tmp_path, "n": 12}, LIMITS)):
        assert list(made.manifest.left_out) == ["picture.png"]
    assert str(made.manifest) == "2 files, 0.0 MB; left out 1 not readable as text (picture.png)"


def test_an_unknown_variable_names_the_nearest():
    with pytest.raises(BadRequest, match="report"):
        context_of(["reporT"], {"report": "x"}, LIMITS)


@pytest.mark.parametrize(
    ("value", "way_out"),
    [
        (io.StringIO("x"), "read()"),
        ((n for n in range(3)), "list(v)"),
        (iter([1]), "list(v)"),
        (json, "inspect.getsource"),
        (threading.Lock(), "data"),
        (threading.Thread(), "data"),
        (lambda: 1, "inspect.getsource"),
        (object(), "str(v)"),
        (None, "nothing"),
        (b"\xff\xfe\0", "decode"),
        ([1, object()], "v[1]"),
        ({"a": b"\xff"}, "v['a']"),
    ],
)
def test_what_cannot_travel_is_refused_with_the_way_out(value, way_out):
    with pytest.raises(BadRequest) as caught:
        as_context(value, LIMITS, "v")
    assert way_out in str(caught.value)


def test_a_value_inside_itself_is_refused():
    ring: list = []
    ring.append(ring)
    with pytest.raises(BadRequest, match="deep"):
        as_context(ring, LIMITS)


def test_sizes_and_paths_have_their_errors():
    with pytest.raises(BadRequest, match="max_mb"):
        context_of(["v"], {"v": "x" * 2_000_000}, ContextSettings(max_mb=1))
    with pytest.raises(BadPath):
        as_context(Path("/no/such/file"), LIMITS)
