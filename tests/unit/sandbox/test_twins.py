"""An array or table is noticed to be unchanged, and each kind of change is noticed too."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from unit.sandbox.test_inputs import Disk

from fleet_rlm_jupyter.sandbox import inputs as inputs_module
from fleet_rlm_jupyter.sandbox.inputs import Inputs
from fleet_rlm_jupyter.sandbox.twins import is_as, twin_of

MOST = 1_000_000


def frame() -> pd.DataFrame:
    made = pd.DataFrame({"n": [1, 2, 3], "x": [0.0, np.nan, 2.5], "s": ["a", "b", None], "b": [True, False, True]})
    return made.assign(t=pd.to_datetime(["2026-01-01"] * 3))


def put(table, column, value):
    table.loc[0, column] = value


CHANGES = {
    "a number": lambda table: put(table, "n", 9),
    "a text": lambda table: put(table, "s", "z"),
    "a missing text": lambda table: put(table, "s", None),
    "a switch": lambda table: put(table, "b", False),
    "a time": lambda table: put(table, "t", pd.Timestamp("2027-01-01")),
    "the sign of zero": lambda table: put(table, "x", -0.0),
    "a column": lambda table: table.insert(0, "new", 1),
    "a type": lambda table: table.__setitem__("n", table["n"].astype("int32")),
    "a label": lambda table: setattr(table, "columns", list("abcde")),
    "the index": lambda table: setattr(table, "index", [7, 8, 9]),
    "the name of the index": lambda table: setattr(table.index, "name", "key"),
    "the order": lambda table: table.__setitem__("n", table["n"].iloc[::-1].to_numpy()),
    "attributes": lambda table: table.attrs.update(unit="m"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_in_place_is_noticed(change):
    table = frame()
    twin = twin_of(table, MOST)
    assert is_as(table, twin)
    CHANGES[change](table)
    assert not is_as(table, twin)


def test_a_change_behind_the_tables_back_is_noticed_too():
    data, labels = np.arange(6.0).reshape(3, 2), np.array([1, 2, 3])
    table = pd.DataFrame(data, index=pd.Index(labels, copy=False), copy=False)
    for array in (data, labels):
        twin = twin_of(table, MOST)
        array.flat[0] += 1
        assert not is_as(table, twin)


@pytest.mark.parametrize(
    "array", [np.arange(6).reshape(2, 3), np.array([0.0, np.nan]), np.array([[True]]), np.array(5), np.ones((2, 3)).T]
)
def test_an_array_is_compared_bit_by_bit(array):
    twin = twin_of(array, MOST)
    assert is_as(array, twin)
    array.flat[0] = ~array.flat[0] if array.dtype.kind != "f" else -0.0
    assert not is_as(array, twin)
    assert not is_as(array.astype("U8"), twin)


@pytest.mark.parametrize(
    "value",
    [
        np.array([[1], "x"], dtype=object),
        np.ma.array([1, 2], mask=[0, 1]),
        pd.DataFrame({"o": [[1], [2]]}),
        pd.DataFrame({"c": pd.Categorical(["a", "b"])}),
        pd.DataFrame({"a": [1, 2]}, index=pd.MultiIndex.from_tuples([(1, 2), (3, 4)])),
        pd.DataFrame({"a": [1, 2]}, index=[0.5, -0.0]),
        np.zeros(MOST),
    ],
)
def test_what_may_change_inside_or_is_too_large_has_no_twin(value):
    assert twin_of(value, MOST) is None


@pytest.mark.parametrize("value", [frame(), np.arange(10)], ids=["table", "array"])
def test_an_unchanged_one_is_encoded_once_and_a_changed_one_again(monkeypatch, value):
    encoded = []
    real = inputs_module.encoded
    monkeypatch.setattr(inputs_module, "encoded", lambda *given: encoded.append(1) or real(*given))
    inputs = Inputs(Disk(), frozenset({"numpy", "pandas"}))
    first, _, _ = inputs.prepare({"value": value})
    assert inputs.prepare({"value": value})[:2] == (first, {})
    assert len(encoded) == 1
    if isinstance(value, np.ndarray):
        value[0] = 7
    else:
        value.loc[0, "n"] = 7
    changed, values, dropped = inputs.prepare({"value": value})
    assert (len(values), dropped) == (1, [first["value"]])
    assert changed != first
