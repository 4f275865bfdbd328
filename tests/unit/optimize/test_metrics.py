"""Metrics: how right an answer is, and what a model is told about it."""

from __future__ import annotations

from typing import get_args

import dspy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet_rlm_jupyter.domain.program import MetricName
from fleet_rlm_jupyter.optimize.metrics import Metric, clamped


@pytest.mark.parametrize(
    ("kind", "expected", "found", "score"),
    [
        ("exact", "Paris", " Paris\n", 1), ("exact", "Paris", "paris", 0), ("exact", 4, "4", 1),
        ("exact", [1, "a"], [1, "a"], 1), ("exact", True, True, 1), ("exact", {"b": 1, "a": 2}, {"a": 2, "b": 1}, 1),
        ("exact", "x", None, 0), ("exact", None, "", 1),
        ("caseless", "New York", "new  YORK", 1), ("caseless", "Straße", "STRASSE", 1), ("caseless", "a b", "ab", 0),
        ("contains", "Paris", "It is paris, in France", 1), ("contains", "Rome", "Paris", 0), ("contains", "", "x", 0),
        ("contains", "", "", 1), ("contains", "new york", "the New\nYork times", 1),
        ("coverage", "the red fox", "a Fox, red!", 2 / 3), ("coverage", "a a b", "a b", 2 / 3),
        ("coverage", "x", "", 0), ("coverage", "", "", 1), ("coverage", "", "x", 0), ("coverage", "a", "a b c d", 1),
        ("number", 42, "the answer is 42.", 1), ("number", "1,200.5", "1200.5", 1), ("number", 1000000, 1000000.5, 1),
        ("number", 3.14, "3.15", 0), ("number", 0, "-1e-9", 1), ("number", "many", "many", 0), ("number", 5, "five", 0),
        ("number", "1e999", "5", 0), ("number", 5, "1e999", 0), ("number", "1e999", "1e999", 1),
        ("number", -2, "2", 0), ("number", 7, "from 3 to 7", 1),
    ],
)  # fmt: skip
def test_each_metric_says_how_right_an_answer_is(kind, expected, found, score):
    assert Metric({kind: 1}).judge({"answer": expected}, {"answer": found}).score == pytest.approx(score)


def test_a_tolerance_is_relative():
    metric = Metric({"number": 1}, tolerance=0.1)
    assert metric.judge({"n": 100}, {"n": 109}).score == 1
    assert metric.judge({"n": 100}, {"n": 111}).score == 0


def test_weights_make_a_mean_that_stays_between_0_and_1():
    metric = Metric({"exact": 3, "coverage": 1})
    assert metric.judge({"a": "x y"}, {"a": "x"}).score == pytest.approx(0.125)
    assert metric.judge({"a": "x y"}, {"a": "x y"}).score == 1
    assert Metric({"exact": 1e6, "caseless": 1e-6}).judge({"a": "x"}, {"a": "x"}).score == 1
    assert (clamped(1.5), clamped(-1), clamped(float("nan"))) == (1, 0, 0)


def test_every_expected_field_counts_alike_and_a_missing_one_is_wrong():
    judged = Metric({"exact": 1}).judge({"a": "1", "b": "2"}, {"a": "1"})
    assert judged.score == 0.5
    assert judged.feedback == "a is right; b should be '2' and is '' (exact 0.00)"


def test_long_answers_are_cut_in_the_feedback():
    assert len(Metric({"exact": 1}).judge({"a": "x" * 10_000}, {"a": "y" * 10_000}).feedback) < 2500


def test_a_metric_is_one_for_dspy_too_as_a_score_and_with_feedback():
    metric = Metric({"exact": 1})
    gold = dspy.Example(question="1 + 1", answer="2").with_inputs("question")
    assert metric(gold, dspy.Prediction(answer="2")) == 1.0
    judged = metric(gold, dspy.Prediction(answer="3"), None, "self", None)
    assert (judged.score, judged.feedback) == (0.0, "answer should be '2' and is '3' (exact 0.00)")
    dspy.GEPA(metric=metric, max_metric_calls=1, reflection_lm=dspy.LM("openai/x"))


VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.text())


@given(
    st.dictionaries(st.sampled_from(get_args(MetricName)), st.floats(1e-6, 1e6), min_size=1),
    st.dictionaries(st.sampled_from("ab"), VALUES, min_size=1),
    st.dictionaries(st.sampled_from("abc"), VALUES),
    st.floats(0, 1),
)
def test_a_score_is_between_0_and_1_for_any_weights_and_answers(weights, expected, found, tolerance):
    metric = Metric(weights, tolerance)
    judged = metric.judge(expected, found)
    assert 0 <= judged.score <= 1
    assert judged.feedback
    assert metric(expected, found) == metric(expected, found, None, "self").score == judged.score
    assert Metric({"exact": 1}).judge(expected, expected).score == 1
