"""Frames survive any cut of the stream, and values come back as they were."""

from __future__ import annotations

import contextlib
import datetime
import decimal
import itertools
import json
import math
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet_rlm_jupyter.sandbox.codec import (
    HEAD,
    MARK,
    MAX_FRAME,
    TAG,
    FrameReader,
    dumps,
    encode,
    fresh,
    loads,
    pack,
    unpack,
)

texts = st.text(st.characters(codec=None, exclude_categories=()), max_size=30)  # lone surrogates too
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | texts
    | st.binary(max_size=20)
    | st.datetimes(timezones=st.none() | st.just(datetime.UTC)).map(lambda moment: moment.replace(fold=0))
    | st.dates()
    | st.times().map(lambda moment: moment.replace(fold=0))
    | st.timedeltas()
    | st.decimals(allow_nan=False)
)
keys = st.none() | st.booleans() | st.integers() | texts | st.just(TAG) | st.tuples(st.integers(), texts)
hashable = scalars.filter(lambda value: value == value)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(keys, inner, max_size=4)
        | st.sets(hashable, max_size=3)
        | st.frozensets(hashable, max_size=3)
    ),
    max_leaves=15,
)
frames = st.fixed_dictionaries({"t": st.sampled_from(["out", "call", "done"]), "x": texts, "s": st.integers(0, 9)})


def shape(value: Any) -> Any:
    """`value` with its types spelled out, so that 1, 1.0 and True differ."""
    if isinstance(value, dict):
        return ("dict", [(shape(key), shape(item)) for key, item in value.items()])
    if isinstance(value, list | tuple):
        return (type(value).__name__, [shape(item) for item in value])
    if isinstance(value, set | frozenset):
        return (type(value).__name__, sorted(map(repr, map(shape, value))))
    return (type(value).__name__, repr(value))


def cut(data: bytes, at: list[int]) -> list[bytes]:
    places = sorted({0, len(data), *(place % (len(data) + 1) for place in at)})
    return [data[start:end] for start, end in itertools.pairwise(places)]


def read(pieces: list[bytes]) -> list[dict[str, Any]]:
    reader = FrameReader()
    return [frame for piece in pieces for frame in reader.feed(piece)]


@given(st.lists(frames), st.lists(st.integers(0, 10_000)))
def test_frames_arrive_whole_however_the_stream_is_cut(sent, at):
    assert read(cut(b"".join(map(encode, sent)), at)) == sent


@given(st.lists(st.tuples(frames, st.binary(max_size=40))), st.lists(st.integers(0, 10_000)))
def test_junk_between_frames_is_skipped(sent, at):
    clean = [(frame, junk.replace(MARK, b"?")) for frame, junk in sent]
    data = b"".join(junk + encode(frame) for frame, junk in clean)
    assert read(cut(data, at)) == [frame for frame, _ in clean]


@given(st.lists(frames, min_size=1), st.binary(max_size=40), st.lists(st.integers(0, 10_000)))
def test_after_any_junk_the_next_frames_but_one_arrive(sent, junk, at):
    # Junk may look like the head of a frame and swallow one, never more: a mark inside it shows that it is none.
    got = read(cut(junk + b"".join(map(encode, sent)), at))
    assert got[-(len(sent) - 1) :] == sent[1:] if len(sent) > 1 else len(got) <= 1


@given(frames, frames, st.integers(1, 200), st.lists(st.integers(0, 10_000)))
def test_a_frame_that_was_cut_short_costs_only_itself(lost, kept, length, at):
    head = encode(lost)
    assert read(cut(head[: min(length, len(head) - 1)] + encode(kept), at)) == [kept]


@given(st.binary(max_size=300), st.lists(st.integers(0, 300)))
def test_no_bytes_raise(data, at):
    for frame in read(cut(data, at)):
        assert isinstance(frame["t"], str)


@pytest.mark.parametrize(
    "body",
    [b"[]", b"1", b"{}", b'{"t":1}', b"{", b"\xff\xfe", b'{"t":"x"', b"[" * 100_000],
    ids=["list", "number", "no kind", "kind no text", "half", "no UTF-8", "unclosed", "too deep"],
)
def test_what_is_no_frame_is_skipped(body):
    good = {"t": "ok"}
    assert read([MARK + b"%08x" % len(body) + body + encode(good)]) == [good]


def test_a_length_beyond_the_bound_is_no_frame_and_is_not_waited_for():
    good = {"t": "ok"}
    assert read([MARK + b"%08x" % (MAX_FRAME + 1), encode(good)]) == [good]
    assert read([MARK + b"+0000010", MARK + b" 0x000_1", encode(good)]) == [good]


def test_a_frame_is_ascii_and_holds_no_mark():
    data = encode({"t": "out", "x": "é\x1e\ud800\0"})
    assert data[1:].isascii()
    assert data.count(MARK) == 1
    assert len(data) == HEAD + int(data[1:HEAD], 16)


@given(values)
def test_a_value_comes_back_as_it_was(value):
    packed = pack(value)
    for back in (unpack(json.loads(json.dumps(packed))), loads(dumps(packed)), fresh(value)):
        assert shape(back) == shape(value)


@given(values)
def test_a_fresh_copy_shares_no_container(value):
    def containers(item: Any) -> list[int]:
        inner = item.values() if isinstance(item, dict) else item if isinstance(item, list | tuple | set) else ()
        own = [id(item)] if isinstance(item, list | dict | set) else []
        return own + [found for one in inner for found in containers(one)]

    copy = fresh(value)
    assert not set(containers(copy)) & set(containers(value))


@given(st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(texts, inner), max_leaves=10))
def test_whatever_json_the_other_side_sends_is_a_value_or_a_value_error(value):
    plain = json.loads(json.dumps(value, default=str))
    for wrapped in (plain, {TAG: plain}, {TAG: ["dict", plain]}, {TAG: [plain, plain]}, {TAG: ["set", [plain]]}):
        for read_back in (unpack, lambda item: loads(json.dumps(item).encode())):
            with contextlib.suppress(ValueError):
                read_back(wrapped)


@pytest.mark.parametrize("kind", ["float", "tuple", "set", "dict", "bytes", "timedelta", "datetime", "Decimal", "x"])
@pytest.mark.parametrize("content", [None, 1, "x", [], [[]], [[1]], [1, 2, 3, 4, 5, 6, 7, 8], {"a": 1}, 1e400])
def test_a_wrong_tag_is_a_value_error_at_most(kind, content):
    with contextlib.suppress(ValueError):
        unpack({TAG: [kind, content]})


def test_what_is_nested_too_deeply_is_a_value_error():
    deep: Any = []
    for _ in range(5000):
        deep = [deep]
    with pytest.raises(ValueError, match="nested"):
        pack(deep)
    with pytest.raises(ValueError, match="nested"):
        loads(b"[" * 5000 + b"]" * 5000)
    circle: list[Any] = []
    circle.append(circle)
    with pytest.raises(ValueError, match="contains itself"):
        pack(circle)


@pytest.mark.parametrize(
    "value",
    [object(), print, type, math, lambda: 1],
    ids=["an object", "a builtin", "a class", "a module", "a function"],
)
def test_what_cannot_travel_is_named(value):
    with pytest.raises(TypeError, match=type(value).__name__):
        pack([value])


def test_numbers_of_numpy_and_pandas_travel_where_they_are_there():
    numpy = pytest.importorskip("numpy")
    assert pack([numpy.int64(3), numpy.float64(1.5), numpy.bool_(True), numpy.arange(2)]) == [3, 1.5, True, [0, 1]]
    assert pack(numpy.float64("inf")) == {TAG: ["float", "inf"]}


def test_a_decimal_keeps_its_zeros_and_infinity():
    for text in ("1.10", "Infinity", "-0"):
        assert repr(unpack(pack(decimal.Decimal(text)))) == repr(decimal.Decimal(text))


def test_a_random_soup_of_bytes_does_not_hide_a_frame_for_long():
    generator = random.Random(7)
    good = {"t": "ok"}
    for _ in range(200):
        soup = bytes(generator.choice(b"\x1e0123456789abcdef{}") for _ in range(60))
        assert read([soup, encode(good), encode(good)])[-1] == good
