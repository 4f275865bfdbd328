"""Rows out of JSON: what is taken, what is left out and named, and which split a row is for."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from fleet_rlm_jupyter.domain import dataset
from fleet_rlm_jupyter.domain.dataset import checked_name, common_fields, read_rows, split_of
from fleet_rlm_jupyter.domain.errors import BadRequest

GOOD = [{"question": "1+1?", "answer": 2}, {"question": "ü☃\u2028?", "answer": None, "more": ["x"]}]


@pytest.mark.parametrize(
    "given",
    [
        GOOD,
        json.dumps(GOOD),
        "\ufeff" + json.dumps(GOOD),
        json.dumps(GOOD).encode("utf-8-sig"),
        "\n".join(map(json.dumps, GOOD)),
        "\n\n" + "\r\n".join(json.dumps(row, ensure_ascii=False) for row in GOOD) + "\r\n\n",
    ],
    ids=["objects", "array", "array with a mark in text", "array with a mark", "lines", "lines with empty ones"],
)
def test_rows_come_as_objects_as_an_array_or_as_lines(given):
    rows, left_out = read_rows(given)
    assert [row.fields for row in rows] == GOOD
    assert left_out == []
    assert common_fields(rows) == ["question", "answer"]


def test_what_is_no_row_is_left_out_and_named_by_its_line():
    lines = ['{"a": 1}', "", "[1]", '"x"', "{", '{"a": NaN}', "{}", '{"a": 1}', '{"a": 2, "split": "dev"}', '{"a": 3}']
    rows, left_out = read_rows("\n".join(lines), "f.jsonl")
    assert [(row.fields, row.origin) for row in rows] == [({"a": 1}, "f.jsonl:1"), ({"a": 3}, "f.jsonl:10")]
    assert [line.split(":")[0] for line in left_out] == ["3", "4", "5", "6", "7", "8", "9"]
    assert "the same as f.jsonl:1" in left_out[5]


def test_values_that_are_not_json_are_left_out():
    endless: dict[str, object] = {}
    endless["me"] = endless
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    rows, left_out = read_rows([{"a": {1, 2}}, {"a": float("inf")}, {1: "a"}, endless, {"a": deep}, {"a": "fine"}])
    assert [row.fields for row in rows] == [{"a": "fine"}]
    assert len(left_out) == 5


@pytest.mark.parametrize(
    "given", ["", " \n ", "[]", "[1, 2]", "{}", "[{]", b"\xff\xfe\x00", "[" * 100_000, "nonsense", [], [object()]]
)
def test_where_nothing_is_left_it_is_said(given):
    with pytest.raises(BadRequest):
        read_rows(given)


def test_what_no_file_can_hold_is_replaced():
    (one, two), _ = read_rows([{"a": "\ud83d\0", "b\udc00": 1}, {"a": "😀"}])
    assert one.fields == {"a": "?\0", "b?": 1}
    assert two.fields == {"a": "😀"}
    one.model_dump_json()


def test_many_bad_rows_are_counted_and_not_all_named():
    _, left_out = read_rows("x\n" * 200 + '{"a": 1}')
    assert len(left_out) == dataset.MAX_NAMED + 1
    assert left_out[-1] == "and 150 more"


def test_too_much_is_refused(monkeypatch):
    monkeypatch.setattr(dataset, "MAX_ROWS", 3)
    monkeypatch.setattr(dataset, "MAX_BYTES", 100)
    monkeypatch.setattr(dataset, "MAX_ROW_BYTES", 20)
    with pytest.raises(BadRequest, match="more than 3 rows"):
        read_rows([{"a": number} for number in range(4)])
    with pytest.raises(BadRequest, match="MB"):
        read_rows("x" * 101)
    rows, left_out = read_rows([{"a": 1}, {"a": "x" * 20}])
    assert (len(rows), len(left_out)) == (1, 1)


def test_a_row_has_the_same_split_in_every_dataset_and_about_a_fifth_is_held_out():
    rows, _ = read_rows([{"n": number} for number in range(5000)])
    again, _ = read_rows([{"n": number} for number in range(4000, 9000)])
    splits = {row.row_id: row.split for row in rows}
    assert all(splits.get(row.row_id, row.split) == row.split for row in again)
    counts = Counter(splits.values())
    assert counts["train"] == pytest.approx(3000, abs=150)
    assert counts["val"] == pytest.approx(1000, abs=120)
    assert counts["test"] == pytest.approx(1000, abs=120)


def test_the_order_of_fields_and_an_own_split_are_not_part_of_what_a_row_is():
    (one, two), left_out = read_rows([{"a": 1, "b": 2}, {"b": 1, "a": 2}])
    assert one.row_id != two.row_id
    assert left_out == []
    (only,), left_out = read_rows([{"a": 1, "b": 2, "split": "test"}, {"b": 2, "a": 1}])
    assert (only.row_id, only.split, len(left_out)) == (one.row_id, "test", 1)
    assert only.fields == {"a": 1, "b": 2}


def test_the_ends_of_the_digests_belong_to_train_and_test():
    assert split_of("0" * 20) == "train"
    assert split_of("f" * 20) == "test"


@pytest.mark.parametrize("name", ["a", "qa-1.2_B", "9"])
def test_names_that_can_be_part_of_a_path_are_taken(name):
    assert checked_name(name) == name


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "a b", "-a", "a@1", "ü", "a\n", "x" * 101])
def test_other_names_are_refused(name):
    with pytest.raises(BadRequest):
        checked_name(name)
