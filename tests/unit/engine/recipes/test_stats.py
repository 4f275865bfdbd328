"""Figures of a numeric field, whole and in parts, beside the standard library's own."""

import json
import statistics

import pytest
from generate import make
from hypothesis import given
from hypothesis import strategies as st

from fleet_rlm_jupyter.engine.recipes.parts import chosen, cut, pieces_of_part
from fleet_rlm_jupyter.engine.recipes.profile import pieces_of
from fleet_rlm_jupyter.engine.recipes.records import Piece, read_rows
from fleet_rlm_jupyter.engine.recipes.stats import figures, merge_numbers, numbers_of, report_stats, rounded

SLOTS = {"field": "latency_ms", "by": "service", "of": "mean", "order": "highest", "k": "1", "where": "level=ERROR"}


@given(st.lists(st.integers(-1000, 1000).map(lambda n: n / 4), min_size=2, max_size=60))
def test_figures_are_those_of_the_standard_library(values):
    counts: dict[str, int] = {}
    for value in values:
        counts[repr(value)] = counts.get(repr(value), 0) + 1
    found = figures(counts)
    assert found["count"] == len(values)
    assert found["sum"] == pytest.approx(sum(values))
    assert found["mean"] == pytest.approx(statistics.fmean(values))
    assert found["median"] == pytest.approx(statistics.median(values))
    assert (found["min"], found["max"]) == (min(values), max(values))
    quarters = statistics.quantiles(values, n=4, method="inclusive")
    assert [found["p25"], found["p75"]] == pytest.approx([quarters[0], quarters[2]])


@pytest.mark.parametrize("parts", [1, 3, 8])
@pytest.mark.parametrize("kind", ["kv", "csv", "jsonl"])
def test_numbers_of_parts_add_up_to_the_whole(kind, parts):
    pieces = chosen(pieces_of({"b.txt": make(kind, 60_000, seed=4).text, "a.txt": ""}), "records", "records")
    # What a child sends goes through JSON.
    counted = [json.loads(json.dumps(numbers_of(pieces_of_part(box), SLOTS))) for box in cut(pieces, parts)]
    whole, merged = merge_numbers([numbers_of(pieces, SLOTS)], SLOTS), merge_numbers(counted, SLOTS)
    assert json.dumps(merged, sort_keys=True) == json.dumps(whole, sort_keys=True)


def test_the_group_with_the_highest_mean_comes_first_with_its_mean():
    text = make("kv", 60_000, seed=4).text
    rows = [row.fields or {} for row in read_rows(Piece("kv", 1, "a", text))]
    by_service: dict[str, list[float]] = {}
    for row in rows:
        if row["level"] == "ERROR":
            by_service.setdefault(row["service"], []).append(float(row["latency_ms"]))
    means = {name: statistics.fmean(values) for name, values in by_service.items()}
    best = max(means, key=lambda name: means[name])
    report = report_stats("stats", SLOTS, numbers_of(pieces_of(text), SLOTS))
    assert report.sentences[0].startswith(
        f"The highest mean of latency_ms by service among records that match level=ERROR: {best}: "
    )
    assert f"{best}: {means[best]:,.4f}".rstrip("0").rstrip(".") in report.sentences[0]


@pytest.mark.parametrize(
    ("order", "head"),
    [("", "The highest sum of n by id: c: 4; b: 3."), ("lowest", "The lowest sum of n by id: a: 2; b: 3.")],
)
def test_as_many_groups_are_said_first_as_were_asked_for_also_when_no_order_was_given(order, head):
    slots = {"field": "n", "by": "id", "of": "sum", "k": "2"} | ({"order": order} if order else {})
    report = report_stats("stats", slots, numbers_of(pieces_of("id,n\na,1\nb,3\nc,4\na,1\n"), slots))
    assert report.sentences[0] == head


def test_a_percentile_that_is_asked_for_is_said_and_words_are_left_out_and_counted():
    pieces = pieces_of("id,n\na,1\nb,2\nc,x\nd,3\ne,10\n")
    done = numbers_of(pieces, {"field": "n"})
    report = report_stats("stats", {"field": "n", "of": "p90"}, done)
    assert report.sentences[0] == "The p90 of n is 7.9."
    assert "1 without a number in n left out" in " ".join(report.sentences)


def test_no_number_at_all_is_said():
    report = report_stats("stats", {"field": "n"}, numbers_of(pieces_of("id,n\na,x\nb,y\n"), {"field": "n"}))
    assert report.sentences == ["No record has a number in n."]


@pytest.mark.parametrize(
    ("value", "shown"),
    [(29977.8, "29,977.8"), (12345.0, "12,345"), (-2 / 3, "-0.6667"), (0.00001234, "1.234e-05"), (0.1 + 0.2, "0.3")],
)
def test_figures_have_no_digits_that_say_nothing(value, shown):
    assert rounded(value) == shown
