"""Events survive the wire, and nothing else passes for one."""

from __future__ import annotations

import json
import time
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from fleet_rlm_jupyter.domain.events import (
    CallText,
    Event,
    KnownFact,
    Log,
    RunEnded,
    ScoreReported,
    Unrecognized,
)
from fleet_rlm_jupyter.domain.previews import PREVIEW_BYTES, preview
from fleet_rlm_jupyter.domain.program import Trial

TEXTS = st.text(max_size=30)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)


def values(kind: Any) -> st.SearchStrategy[Any]:
    """Values of a field's type."""
    if kind.__class__.__name__ == "TypeAliasType":  # JsonValue
        return JSON
    origin, inside = get_origin(kind), get_args(kind)
    if origin is Literal:
        return st.sampled_from(inside)
    if origin in (Union, UnionType):
        return st.one_of([values(part) for part in inside])
    if origin is dict:
        return st.dictionaries(TEXTS, values(inside[1]), max_size=3)
    if origin is list:
        return st.lists(values(inside[0]), max_size=3)
    if kind is Trial:
        return st.builds(Trial, optimizer=st.sampled_from(["gepa", "none"]), rounds=st.integers(1, 1000))
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return words(kind)
    return {
        str: TEXTS,
        bool: st.booleans(),
        int: st.integers(1, 10**12),
        float: st.floats(0.001, 10**6),
        NoneType: st.none(),
    }[kind]


def words(kind: type[BaseModel]) -> st.SearchStrategy[Any]:
    return st.builds(kind, **{name: values(field.annotation) for name, field in kind.model_fields.items()})


FACTS = get_args(KnownFact)
UNKNOWN = st.builds(Unrecognized, type=TEXTS.map("new.".__add__), data=st.dictionaries(TEXTS, JSON, max_size=3))


def event(fact: Any, **envelope: Any) -> Event:
    return Event(**{"seq": 0, "at": 1.0, "session_id": "s", "run_id": "r", "call_id": None, "fact": fact, **envelope})


@given(
    fact=st.one_of([words(kind) for kind in FACTS]) | UNKNOWN,
    seq=st.integers(0, 2**53),
    at=st.floats(0, 4e9),
    call_id=st.none() | TEXTS,
)
def test_an_event_survives_the_wire(fact, seq, at, call_id):
    before = event(fact, seq=seq, at=at, call_id=call_id)
    line = before.encode()
    assert "\n" not in line
    assert Event.decode(line) == Event.decode(line.encode()) == before
    assert Event.decode(line).encode() == line


@pytest.mark.parametrize("kind", FACTS, ids=lambda kind: kind.__name__)
def test_every_kind_of_fact_is_known_to_decode(kind):
    name = kind.model_fields["type"].default
    line = {"seq": 0, "at": 0, "session_id": "", "run_id": "", "call_id": None, "type": name, "data": {"surplus": 1}}
    with pytest.raises(ValueError, match="surplus"):
        Event.decode(json.dumps(line))


def test_a_line_is_made_once_and_an_event_that_has_one_is_as_before():
    given = {"seq": 3, "at": 1.5, "session_id": "s", "run_id": "r", "call_id": "c"}
    event = Event.stamp(CallText(channel="stdout", text="é"), **given)
    assert event.encode() is event.encode()
    assert event == Event(fact=CallText(channel="stdout", text="é"), **given) == Event.decode(event.encode())
    assert event.model_dump().keys() == Event.model_fields.keys()


def test_a_stamp_refuses_what_an_event_refuses():
    with pytest.raises(ValueError, match="seq"):
        Event.stamp(CallText(channel="stdout", text=""), seq=-1, at=1.5, session_id="s", run_id="r", call_id=None)


def test_the_line_is_the_envelope_then_type_and_data():
    line = event(Log(level="info", text="ü"), seq=3, call_id="c").encode()
    assert line == (
        '{"v":1,"seq":3,"at":1.0,"session_id":"s","run_id":"r","call_id":"c",'
        '"type":"log","data":{"level":"info","text":"ü"}}'
    )


ENVELOPE = '"seq":0,"at":0,"session_id":"","run_id":"","call_id":null'
LOG = '"type":"log","data":{"level":"info","text":"x"}'


@pytest.mark.parametrize(
    "line",
    [
        "", "null", "[]", "1", '"x"', "{", "{}", "nul", b"\xff\xfe", "\ud800",
        "{" + LOG + "}",
        "{" + ENVELOPE + "}",
        "{" + ENVELOPE + ',"type":"log"}',
        "{" + ENVELOPE + ',"type":"log","data":[]}',
        "{" + ENVELOPE + ',"type":"log","data":{}}',
        "{" + ENVELOPE + ',"type":3,"data":{}}',
        "{" + ENVELOPE + ',"type":"log","data":{"level":"loud","text":"x"}}',
        "{" + ENVELOPE + ',"surplus":1,' + LOG + "}",
        "{" + ENVELOPE.replace('"seq":0', '"seq":-1') + "," + LOG + "}",
        "{" + ENVELOPE.replace('"seq":0', '"seq":0.5') + "," + LOG + "}",
        "{" + ENVELOPE.replace('"at":0', '"at":NaN') + "," + LOG + "}",
        "{" + ENVELOPE.replace('"at":0', '"at":1e999') + "," + LOG + "}",
        "{" + ENVELOPE + ',"type":"new","data":{"x":NaN}}',
        "{" + ENVELOPE + ',"type":"new","data":{"x":' + "[" * 300 + "]" * 300 + "}}",
        "{" + ENVELOPE + ',"type":"new","data":{"x":' + "[" * 100_000 + "]" * 100_000 + "}}",
        "[" * 100_000,
    ],
    ids=range(26),
)  # fmt: skip
def test_a_bad_line_is_a_value_error(line):
    with pytest.raises(ValueError):
        Event.decode(line)


@given(st.text() | st.binary() | JSON.map(json.dumps))
def test_any_other_text_is_a_value_error(line):
    with pytest.raises(ValueError):
        Event.decode(line)


def test_the_type_of_the_envelope_is_the_type():
    line = "{" + ENVELOPE + ',"type":"log","data":{"type":"run.ended","status":"done","level":"info","text":"x"}}'
    with pytest.raises(ValueError):
        Event.decode(line)
    line = "{" + ENVELOPE + ',"type":"log","data":{"type":"run.ended","status":"done"}}'
    with pytest.raises(ValueError):
        Event.decode(line)


def test_half_characters_that_generated_code_prints_do_not_break_the_line():
    for fact in (
        CallText(channel="stdout", text="a\ud800b"),
        Log(level="info", text="\udfff"),
        RunEnded(status="done", answer="\ud800", outputs={"\ud800": ["x", {"deep": "\ud800"}]}),
        Unrecognized(type="new", data={"x": "\ud800"}),
    ):
        line = event(fact).encode()
        assert Event.decode(line.encode("utf-8")) == event(fact)
    assert CallText(channel="stdout", text="a\ud800b").text == "a?b"


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_json_does_not_have_travel_as_texts(number):
    score = event(ScoreReported(candidate="a", split="dev", score=number)).encode()
    outputs = event(RunEnded(status="done", outputs={"rows": [1.5, number]})).encode()
    for line in (score, outputs):
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    fact = Event.decode(score).fact
    assert isinstance(fact, ScoreReported)
    assert str(fact.score) == str(number)


class Unshowable:
    def __repr__(self) -> str:
        raise RuntimeError("no text for you")


LIMIT = PREVIEW_BYTES
ANY_CHARACTER = st.text(st.characters(), max_size=80).flatmap(
    lambda unit: st.integers(0, 4000).map(lambda times: (unit * times)[:6000])
)


@given(
    ANY_CHARACTER
    | st.text(st.sampled_from("a😀\ud800é\n"), max_size=3000)
    | st.recursive(
        st.none() | st.integers() | st.floats() | ANY_CHARACTER | st.binary(max_size=3000) | st.builds(Unshowable),
        lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text() | st.integers(), inner),
        max_leaves=30,
    )
)
def test_a_preview_is_short_and_can_be_written_for_any_value(value):
    shown = preview(value)
    assert len(shown.encode("utf-8")) <= LIMIT
    if isinstance(value, str) and len(value.encode("utf-8", "replace")) <= LIMIT:
        assert shown == value.encode("utf-8", "replace").decode()


def test_a_preview_keeps_head_and_tail_and_says_the_cut():
    shown = preview("head" + "x" * 1_000_000 + "tail")
    assert shown.startswith("headxxx")
    assert shown.endswith("xxxtail")
    assert "characters left out" in shown


ODD = [10**6000, [10**6000], {"a": Unshowable()}, [[[[[[]]]]]], {1, 2}, b"x" * 5000, Unshowable, float("nan"), None]


@pytest.mark.parametrize("value", ODD, ids=range(len(ODD)))
def test_a_preview_of_an_odd_value_is_a_text(value):
    assert preview(value)


def test_a_preview_names_what_a_container_holds():
    assert preview({"a.py": "text", "b.py": "x" * 5000}).startswith("dict of 2: {'a.py': 'text', 'b.py': 'xxx")
    assert preview(list(range(100))) == "list of 100: [0, 1, 2, 3, 4, 5, 6, 7, …]"
    assert preview(({"k": [1]},)) == "tuple of 1: (dict of 1: {'k': list of 1: [1]})"


def test_a_preview_costs_the_same_for_a_large_value():
    one = "x" * 1000
    for value in ("x" * 50_000_000, [[one] * 1_000_000], {"k": [one] * 1_000_000}, dict.fromkeys(range(1_000_000), 1)):
        begin = time.process_time()
        preview(value)
        assert time.process_time() - begin < 0.005
