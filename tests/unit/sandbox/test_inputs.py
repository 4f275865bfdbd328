"""What is sent to a guest, and what is not sent again."""

from __future__ import annotations

import copy
import dataclasses
import time
from pathlib import Path
from typing import Any

import pytest
from dspy.primitives.code_interpreter import CodeInterpreterError
from hypothesis import given
from hypothesis import strategies as st

from fleet_rlm_jupyter.sandbox.codec import loads, unpack
from fleet_rlm_jupyter.sandbox.inputs import MOST_INLINE, MOST_INLINE_OF_CELL, Inputs, parts_of

LONG = "x" * (MOST_INLINE + 1)


class Disk:
    """A machine that keeps what is put."""

    home = "/home"

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.puts = 0

    def put(self, path: str, data: bytes) -> None:
        self.puts += 1
        self.files[path] = data

    def send(self, data: bytes) -> None: ...
    def signal(self, pid: int, number: int) -> None: ...
    def get(self, path: str, most: int) -> bytes:
        return self.files[path]


def test_two_repls_in_one_sandbox_are_sent_the_same_content_by_files_of_their_own():
    disk = Disk()
    sent = [Inputs(disk, frozenset()).prepare({"text": LONG})[1] for _ in range(2)]
    paths = {frame["text"] for values in sent for frame in values.values()}
    assert len(paths) == 2 == len(disk.files)  # each guest deletes the file that it has read
    assert set(disk.files.values()) == {LONG.encode()}


@dataclasses.dataclass
class Box:
    content: Any


class Host:
    """A guest's memory as the frames make it."""

    def __init__(self) -> None:
        self.disk = Disk()
        self.inputs = Inputs(self.disk, frozenset())
        self.has: dict[str, Any] = {}

    def bind(self, **variables: Any) -> dict[str, Any]:
        bound, values, dropped = self.inputs.prepare(variables)
        for key in dropped:
            del self.has[key]
        for key, sent in values.items():
            for kind, read in (("text", bytes.decode), ("bytes", bytes), ("json", loads)):
                if kind in sent:
                    self.has[key] = read(self.disk.files.pop(sent[kind]))
            if "v" in sent:
                self.has[key] = unpack(sent["v"])
        return {name: self.has[key] for name, key in bound.items()}


@pytest.fixture
def host() -> Host:
    return Host()


def test_a_large_value_goes_once_by_file_however_often_it_is_bound(host):
    for _ in range(3):
        assert host.bind(context=LONG) == {"context": LONG}
    assert host.disk.puts == 1


def test_equal_content_under_another_name_is_not_sent_again(host):
    host.bind(a=LONG)
    assert host.bind(a=LONG, b="".join(list(LONG))) == {"a": LONG, "b": LONG}
    assert host.disk.puts == 1


def test_a_swapped_value_is_noticed_and_the_old_one_dropped(host):
    host.bind(context=LONG)
    assert host.bind(context=LONG + "!") == {"context": LONG + "!"}
    assert len(host.has) == 1
    assert host.bind(context=LONG) == {"context": LONG}


def test_a_value_is_dropped_only_when_no_name_uses_it(host):
    host.bind(a=LONG, b=LONG)
    assert host.bind(a="short", b=LONG) == {"a": "short", "b": LONG}
    assert host.disk.puts == 1


@pytest.mark.parametrize(
    ("value", "change"),
    [
        ({"a": [1]}, lambda value: value["a"].append(2)),
        ({"a": 1}, lambda value: value.update(a=True)),
        ({"a": 1, "b": 2}, lambda value: value.update(a=value.pop("a"))),
        ([[1], [2]], lambda value: value.reverse()),
        ([1, [2, 3]], lambda value: value.append(value[1].pop())),
        (([],), lambda value: value[0].append(1)),
        ({1}, lambda value: value.add(2)),
        ([Box(1)], lambda value: setattr(value[0], "content", 2)),
        ({"b": bytearray(b"x")}, lambda value: value["b"].extend(b"y")),
        (["x" * 100_000], lambda value: value.__setitem__(0, "y" * 100_000)),
    ],
)
def test_a_value_changed_in_place_is_noticed(host, value, change):
    before = host.bind(value=value)["value"]
    change(value)
    after = host.bind(value=value)["value"]
    expected = Host().bind(value=copy.deepcopy(value))["value"]
    assert repr(after) == repr(expected)
    assert repr(after) != repr(before)


def test_an_unchanged_object_of_a_class_is_compared_by_content(host):
    box = [Box(LONG)]
    host.bind(value=box)
    host.bind(value=box)
    assert host.disk.puts == 1


leaves = st.none() | st.booleans() | st.integers(0, 3) | st.sampled_from(["a", "b"]) | st.just(1.0)
values = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.tuples(inner, inner) | st.dictionaries(leaves, inner)
)


@given(values, values)
def test_values_of_equal_parts_are_equal(one, other):
    if repr(one) != repr(other):
        one_parts, other_parts = parts_of(one), parts_of(other)
        assert one_parts is not None
        assert other_parts is not None
        assert len(one_parts) != len(other_parts) or any(
            left is not right for left, right in zip(one_parts, other_parts, strict=True)
        )


def test_a_value_that_contains_itself_is_refused_and_does_not_hang(host):
    circle: list[Any] = []
    circle.append(circle)
    assert parts_of(circle) is None
    with pytest.raises(CodeInterpreterError, match="contains itself"):
        host.bind(value=circle)


def test_what_cannot_travel_is_refused_with_its_kind(host):
    with pytest.raises(CodeInterpreterError, match="builtin_function_or_method"):
        host.bind(value=[print])


def test_many_small_values_do_not_make_one_frame_too_long(host):
    given_values = {f"v{number}": str(number) + "x" * (MOST_INLINE - 10) for number in range(40)}
    _, values, _ = host.inputs.prepare(given_values)
    assert sum(frame.get("n", 0) for frame in values.values()) <= MOST_INLINE_OF_CELL
    assert host.disk.puts > 20


@pytest.mark.parametrize("value", ["x" * 100_000_000, {f"{n}.py": "x" * 5000 for n in range(20_000)}])
def test_binding_an_unchanged_large_value_costs_nothing_like_its_size(host, value):
    host.bind(value=value)
    costs: list[float] = []
    for _ in range(5):
        begun = time.perf_counter()
        host.inputs.prepare({"value": value})
        costs.append(time.perf_counter() - begun)
    assert min(costs) < 0.02


def test_texts_keep_their_line_ends_and_surrogates(tmp_path: Path):
    host = Host()
    text = "a\r\nb\rc\n" + "\u00e9" * MOST_INLINE
    assert host.bind(text=text) == {"text": text}
    assert host.bind(data=b"\0\xff" * MOST_INLINE) == {"data": b"\0\xff" * MOST_INLINE}
