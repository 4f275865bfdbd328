"""Counting, whole and in parts."""

import json
from collections import Counter

import pytest
from generate import KINDS, make
from hypothesis import given
from hypothesis import strategies as st

from fleet_rlm_jupyter.engine.recipes.parts import chosen, cut, pieces_of_part
from fleet_rlm_jupyter.engine.recipes.profile import pieces_of
from fleet_rlm_jupyter.engine.recipes.records import Piece
from fleet_rlm_jupyter.engine.recipes.report import report_tally, said_groups
from fleet_rlm_jupyter.engine.recipes.tally import merge_tallies, tally


def source(kind):
    return "bracket1" if kind == "log" else "service"


@pytest.mark.parametrize("kind", KINDS)
def test_counts_are_those_of_the_generator(kind):
    made = make(kind, 150_000, seed=3)
    pieces = pieces_of(made.text)
    by_service = tally(pieces, {"field": source(kind)})
    assert by_service["counts"] == made.by_service
    assert by_service["records"] == made.records
    errors = tally(pieces, {"field": source(kind), "where": "level=ERROR"})
    assert errors["counts"] == {name: n for name, n in made.errors.items() if n}
    assert errors["others"] == {"level": made.by_level}
    assert tally(pieces, {"where": 'line~"timed out"'})["matched"] == made.timeouts
    if kind != "log":
        assert tally(pieces, {"where": "status>=404"})["matched"] == made.by_status[404] + made.by_status[500]
        top = tally(pieces, {"by": "latency_ms", "order": "highest", "field": "service"})
        assert top["ranked"][0][0] == made.highest


@pytest.mark.parametrize("parts", [1, 3, 8])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "slots",
    [
        {"where": "level=ERROR"},
        {"field": "service", "where": "level=ERROR"},
        {"field": "level", "order": "fewest"},
        {"by": "latency_ms", "order": "lowest", "k": "3"},
        {"unit": "lines", "where": "line~ERROR"},
        {"field": "file"},
    ],
)
def test_parts_add_up_to_the_whole_lines_of_evidence_included(kind, slots, parts):
    made = make(kind, 60_000, seed=4)
    files = {"b.txt": made.text, "a.txt": make(kind, 5_000, seed=5).text, "empty": ""}
    pieces = chosen(pieces_of(files), "records", slots.get("unit", "records"))
    boxes = cut(pieces, parts)
    # What a child sends goes through JSON.
    counted = [json.loads(json.dumps(tally(pieces_of_part(box), slots))) for box in boxes]
    whole, merged = merge_tallies([tally(pieces, slots)], slots), merge_tallies(counted, slots)
    assert json.dumps(merged, sort_keys=True) == json.dumps(whole, sort_keys=True)
    assert len(boxes) <= parts


lines = st.lists(st.sampled_from(["level=ERROR service=a", "level=INFO service=b", "level=WARN service=c", "", "oops"]))


@given(lines, st.integers(1, 8))
def test_any_cut_gives_the_same_counts(texts, parts):
    piece = Piece("kv", 1, "x", "\n".join(texts))
    slots = {"field": "service", "where": "level!=WARN"}
    merged = merge_tallies([tally(pieces_of_part(box), slots) for box in cut([piece], parts)], slots)
    assert merged["counts"] == Counter(t[-1] for t in texts if t.startswith(("level=E", "level=I")))
    assert merged["records"] == sum(bool(text) for text in texts)


def test_the_fewest_can_be_none_at_all():
    piece = Piece("kv", 1, "x", "level=ERROR service=a\nlevel=INFO service=b\n")
    slots = {"field": "service", "order": "fewest", "where": "level=ERROR"}
    assert tally([piece], slots)["counts"] == {"a": 1, "b": 0}
    assert report_tally("top_k", slots, tally([piece], slots)).sentences[0].startswith("b has the fewest records")


def test_a_tie_is_said():
    piece = Piece("kv", 1, "x", "service=a n=1\nservice=b n=1\nservice=c n=2\nservice=c n=2\nservice=d n=1")
    fewest = {"field": "service", "order": "fewest"}
    said = report_tally("top_k", fewest, tally([piece], fewest)).sentences[0]
    assert said == "a and b and d share the place with the fewest records: 1 each."
    two = {"field": "service", "k": "2"}
    assert "c, a (as many as the last: b, d)" in report_tally("top_k", two, tally([piece], two)).sentences[0]
    highest = {"by": "n", "order": "highest", "k": "1"}
    assert "At least one more record has 2." in report_tally("top_k", highest, tally([piece], highest)).sentences


def test_what_is_left_out_is_said():
    piece = Piece(
        "jsonl", 1, "x", '{"level": "ERROR", "n": 1}\nbroken\n{"level": "error", "service": "a", "n": "many"}'
    )
    slots = {"field": "service", "where": "level=ERROR"}
    said = " ".join(report_tally("group_by", slots, tally([piece], slots)).sentences)
    assert "1 matching record without service left out." in said
    assert "1 record could not be read and left out (first: x:2)." in said
    assert "All values of level: ERROR 1; error 1." in said
    by = {"by": "n", "order": "lowest"}
    assert "1 record without a number in n left out." in report_tally("top_k", by, tally([piece], by)).sentences


def test_nothing_found_is_an_answer():
    piece = Piece("kv", 1, "x", "a=1 b=2")
    for slots in ({"field": "c"}, {"field": "a", "where": "b=3"}, {"by": "c", "order": "highest"}):
        assert report_tally("top_k", slots, tally([piece], slots)).sentences[0].startswith("No record has")
    said = report_tally("count", {"where": "b=3"}, tally([piece], {"where": "b=3"})).sentences
    assert said[0] == "0 of 1 record (0.0 %) match b=3."


def test_the_items_of_a_json_list_are_counted_each_and_not_their_combinations():
    text = '{"tags": ["a", "b"]}\n{"tags": ["b", "b"]}\n{"tags": ["b", "c"]}\n{"tags": []}\n'
    done = tally([Piece("jsonl", 1, "context", text)], {"field": "tags"})
    assert done["counts"] == {"a": 1, "b": 3, "c": 1}
    fewest = tally([Piece("jsonl", 1, "context", text)], {"field": "tags", "order": "fewest", "where": "tags=a"})
    assert fewest["counts"] == {"a": 1, "b": 1, "c": 0}
    (said, together), _, _ = said_groups("group_by", {"field": "tags"}, done)
    assert "3 different values of tags: b: 3 (100.0 %); a: 1 (33.3 %)" in said
    assert together == "3 records, each counted for every item it has."


def test_a_text_with_bars_is_one_value():
    done = tally([Piece("csv-comma", 1, "context", "a,b\nx | y,1\nx,2\n")], {"field": "a"})
    assert done["counts"] == {"x | y": 1, "x": 1}
