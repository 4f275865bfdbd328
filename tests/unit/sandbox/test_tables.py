"""Arrays and tables on their way into a sandbox and out of it: the same value, or a clear word."""

from __future__ import annotations

import json

import numpy
import pandas
import pytest
from dspy.primitives.code_interpreter import CodeExecutionError
from hypothesis import given
from hypothesis import strategies as st
from unit.sandbox.pty_machine import PtyMachine, local_interpreter

from fleet_rlm_jupyter.sandbox import tables
from fleet_rlm_jupyter.sandbox.interpreter import SandboxInterpreter
from fleet_rlm_jupyter.settings import SandboxSettings

HERE = frozenset(tables.libraries())
NO_ARROW = frozenset({"numpy", "pandas"})

DAY = pandas.Timestamp("2026-11-25 10:00")
FRAMES = {
    "numbers": pandas.DataFrame({"n": [1, 2, 3], "x": [0.5, float("nan"), float("inf")]}),
    "texts": pandas.DataFrame({"name": ["Ann", None, "Zoë \u2603"], "note": ["", "line\nend", "~"]}),
    "kinds": pandas.DataFrame({"c": pandas.Categorical(["a", "b", "a"]), "b": [True, False, True]}),
    "ordered": pandas.DataFrame({"c": pandas.Categorical(["b", None], ["z", "b", "a"], ordered=True)}),
    "categories of numbers": pandas.DataFrame({"c": pandas.Categorical([3, 1], [5, 3, 1])}),
    "nullable": pandas.DataFrame({"n": pandas.array([1, None, 3], dtype="Int64")}),
    "times": pandas.DataFrame({"at": [DAY, DAY, DAY], "took": [pandas.Timedelta(1, "s")] * 3}),
    "zones": pandas.DataFrame({"at": pandas.to_datetime([DAY] * 3).tz_localize("Europe/Berlin")}),
    "an index": pandas.DataFrame({"n": [1, 2]}, index=pandas.Index(["a", "b"], name="key")),
    "two levels": pandas.DataFrame({"n": [1, 2]}, index=pandas.MultiIndex.from_tuples([("a", 1), ("b", 2)])),
    "labels of two levels": pandas.DataFrame([[1, 2]], columns=pandas.MultiIndex.from_tuples([("a", 1), ("a", 2)])),
    "labels that are numbers": pandas.DataFrame([[1, "x"]], columns=[3, 4]),
    "the same label twice": pandas.DataFrame([[1, 2]], columns=["a", "a"]),
    "objects": pandas.DataFrame({"o": [[1, 2], {"k": 1}, (3,)]}),
    "nothing": pandas.DataFrame(),
    "no rows": pandas.DataFrame({"n": numpy.array([], dtype="int32")}),
}
ARRAYS = [
    numpy.arange(12).reshape(3, 4),
    numpy.asfortranarray(numpy.ones((2, 3), "float32")),
    numpy.array(5.5),
    numpy.array(["a", "bcd"]),
    numpy.array(["2026-01-01", "NaT"], "datetime64[s]"),
    numpy.array([1 + 2j]),
    numpy.empty((0, 3)),
]


@pytest.fixture(scope="module")
def repl():
    made = local_interpreter()
    made.start()
    yield made
    made.shutdown()


@pytest.mark.parametrize("there", [HERE, NO_ARROW], ids=["best", "without Arrow"])
@pytest.mark.parametrize("name", FRAMES)
def test_a_table_is_the_same_after_the_journey(name, there):
    made = tables.encoded(FRAMES[name], there)
    assert made is not None
    pandas.testing.assert_frame_equal(tables.decoded(*made), FRAMES[name], check_freq=False)


@pytest.mark.parametrize("array", ARRAYS, ids=str)
def test_an_array_is_the_same_after_the_journey(array):
    back = tables.decoded(*tables.encoded(array, HERE))
    numpy.testing.assert_array_equal(back, array)
    assert (back.dtype, back.shape) == (array.dtype, array.shape)


def test_arrow_is_used_where_both_sides_have_it():
    pytest.importorskip("pyarrow")
    assert tables.encoded(FRAMES["numbers"], HERE)[0] == "arrow"
    assert tables.encoded(FRAMES["objects"], HERE)[0] == "columns", "Arrow has no word for mixed objects"


@given(st.binary(max_size=200))
def test_junk_is_a_value_error(data):
    array = tables.decoded("npy", tables.encoded(ARRAYS[0], HERE)[1])
    assert array.shape == (3, 4)
    for kind in ("npy", "columns"):
        with pytest.raises(ValueError):
            tables.decoded(kind, data)


@given(st.integers(0, 400), st.binary(min_size=1, max_size=8))
def test_a_table_with_some_bytes_changed_is_a_value_error_or_a_table(at, change):
    for kind, good in (tables.encoded(FRAMES["texts"], NO_ARROW), tables.encoded(ARRAYS[0], HERE)):
        bad = good[:at] + change + good[at + len(change) :]
        try:
            tables.decoded(kind, bad)
        except ValueError:
            continue


def npy(descr: str, length: int) -> bytes:
    """An array of eight bytes whose head says something else."""
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': ({length},), }}\n".encode()
    return numpy.lib.format.magic(1, 0) + len(text).to_bytes(2, "little") + text + bytes(8)


@pytest.mark.parametrize("descr", ["<i0", "<f3", "|b9", "<M8[xy]"])
def test_a_type_that_numpy_does_not_have_is_a_value_error(descr):
    with pytest.raises(ValueError):
        tables.decoded("npy", npy(descr, 1))


def test_a_forged_length_reserves_no_memory():
    assert tables.decoded("npy", npy("<f8", 1)).shape == (1,)
    with pytest.raises(ValueError):
        tables.decoded("npy", npy("<f8", 10**14))


def test_objects_are_never_unpickled():
    with pytest.raises(ValueError):
        tables.decoded("npy", _pickled_array())
    head = json.loads(tables.encoded(FRAMES["texts"], NO_ARROW)[1][8:].split(b"}]")[0].decode() + "}]}")
    assert all(column["as"] != "pickle" for column in head["columns"])


def _pickled_array() -> bytes:
    import io

    file = io.BytesIO()
    numpy.save(file, numpy.array([{"a": 1}], dtype=object), allow_pickle=True)
    return file.getvalue()


# --- in a sandbox ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FRAMES)
def test_a_table_is_a_table_in_the_sandbox_and_comes_back_out(repl, name):
    frame = FRAMES[name]
    assert repl.execute("type(context).__name__, context.shape", {"context": frame}) == f"('DataFrame', {frame.shape})"
    pandas.testing.assert_frame_equal(repl.pull("context"), frame, check_freq=False)


def test_a_series_and_an_array_too(repl):
    series = pandas.Series([1.5, 2.5], name="x", index=["a", "b"])
    assert repl.execute("context.sum()", {"context": series}) == "np.float64(4.0)"
    pandas.testing.assert_series_equal(repl.pull("context"), series)
    repl.execute("y = context * 2", {"context": numpy.arange(3)})
    assert repl.pull("y").tolist() == [0, 2, 4]


def test_what_a_cell_did_to_a_table_is_not_seen_by_the_next(repl):
    given = {"context": pandas.DataFrame({"n": [1, 2]}), "array": numpy.zeros(2)}
    repl.execute("context.loc[0, 'n'] = 100\ncontext['m'] = 1\narray[0] = 5", given)
    assert repl.execute("context.n.sum(), list(context), array.sum()", given) == "(np.int64(3), ['n'], np.float64(0.0))"


def test_an_unchanged_table_is_sent_once_and_a_changed_one_again():
    opened: list[PtyMachine] = []

    def opening() -> PtyMachine:
        opened.append(PtyMachine())
        return opened[0]

    repl = SandboxInterpreter(opening, SandboxSettings())
    frame = pandas.DataFrame({"n": range(1000)})
    try:
        for _ in range(3):
            repl.execute("context", {"context": frame})
        repl.execute("context", {"context": frame.copy()})
        assert len(opened[0].uploads) == 1
        frame.loc[0, "n"] = -1
        assert repl.execute("context.n[0]", {"context": frame}) == "np.int64(-1)"
        assert len(opened[0].uploads) == 2
    finally:
        repl.shutdown()


def test_a_sandbox_without_the_libraries_gets_plain_columns(monkeypatch):
    repl = local_interpreter()
    repl.start()
    monkeypatch.setattr(repl._inputs, "_libraries", frozenset())
    try:
        assert repl.execute("context", {"context": FRAMES["texts"]}) == str(
            {"name": ["Ann", None, "Zoë \u2603"], "note": ["", "line\nend", "~"]}
        )
        assert repl.execute("context", {"context": numpy.arange(4).reshape(2, 2)}) == "[[0, 1], [2, 3]]"
        assert repl.execute("context", {"context": pandas.Series([1, None])}) == "[1.0, None]"
    finally:
        repl.shutdown()


@pytest.mark.parametrize(
    "value", ["'text'", "[1, (2, {3})]", "{'a': 1.5, 2: None}", "b'x' * 1_000_000", "'y' * 1_000_000", "10**30"]
)
def test_a_plain_value_comes_out_as_it_is(repl, value):
    repl.execute(f"value = {value}")
    assert repl.pull("value") == eval(value)


def test_what_cannot_come_out_is_said_and_the_session_goes_on(repl):
    repl.execute("import threading\nlock = threading.Lock()\nclass Odd: pass\nodd = [Odd()]")
    for name, said in (("missing", "NameError.*missing"), ("lock", "TypeError.*lock"), ("odd", "TypeError.*Odd")):
        with pytest.raises(CodeExecutionError, match=said):
            repl.pull(name)
    assert repl.execute("1 + 1") == "2"
