"""The canonical form of a question asked by recipe."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet_rlm_jupyter.domain.errors import BadRequest
from fleet_rlm_jupyter.engine.recipes.plan import RECIPES, RecipePlan, compose, parse_plan, render

QUESTION = "Which service has the most errors?"


def test_compose_says_recipe_and_slots_before_the_question():
    assert compose("group_by", {"field": "level"}, QUESTION) == f"[recipe group_by field=level] {QUESTION}"


def test_an_ordinary_question_is_no_plan():
    assert parse_plan(QUESTION) is None
    assert parse_plan("[recipes are nice] are they?") is None


@given(st.text(min_size=1), st.text())
def test_what_is_composed_is_parsed_back_whatever_the_texts_are(value, question):
    plan = parse_plan(compose("group_by", {"field": value}, question))
    assert plan == RecipePlan("group_by", {"field": value}, question)


@given(st.lists(st.tuples(st.text(min_size=1), st.text(min_size=1)), min_size=1, max_size=3), st.text())
def test_conditions_survive_the_round_trip(pairs, question):
    from fleet_rlm_jupyter.engine.recipes.conditions import Condition, parse_where, show_where

    tests = [Condition(field, "=", (value,)) for field, value in pairs]
    where = show_where(tests)
    assert parse_where(where) == tests
    plan = parse_plan(compose("count", {"where": where}, question))
    assert plan is not None
    assert plan.slots == {"where": where}


def test_the_work_of_a_child_says_its_part():
    plan = RecipePlan("subclasses", {"base": "Exception"}, QUESTION, part="3/8")
    assert parse_plan(render(plan)) == plan


@pytest.mark.parametrize(
    ("recipe", "slots", "says"),
    [
        ("guess", {}, "count, group_by, top_k, list, stats, search, occurrences, definitions, subclasses, usages"),
        ("group_by", {"fild": "level"}, "field, unit, where, parts"),
        ("group_by", {}, "needs slot field"),
        ("group_by", {"field": ""}, "needs slot field"),
        ("top_k", {"order": "highest", "field": "service"}, "needs slot by"),
        ("top_k", {"by": "latency"}, "order=highest"),
        ("top_k", {}, "give field="),
        ("stats", {"field": "n", "k": "3"}, "need slot by"),
        ("stats", {"field": "n", "order": "lowest"}, "need slot by"),
        ("top_k", {"field": "a", "k": "0"}, "whole number"),
        ("top_k", {"field": "a", "k": "²"}, "whole number"),
        ("count", {"parts": "9"}, "from 1 to 8"),
        ("count", {"where": "level"}, "cannot be read"),
        ("count", {"where": "status>high"}, "needs one number"),
        ("count", {"unit": "lines", "where": "level=ERROR"}, "unit=records"),
        ("subclasses", {"base": "Exception", "transitive": "maybe"}, "no, yes"),
    ],
)
def test_what_no_recipe_knows_is_refused_with_what_there_is(recipe, slots, says):
    with pytest.raises(BadRequest) as caught:
        compose(recipe, slots, QUESTION)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    "text", ["[recipe ] x", "[recipe count where] x", "[recipe count where=a=b x", "[recipe a=b] x"]
)
def test_a_form_that_cannot_be_read_is_refused(text):
    with pytest.raises(BadRequest):
        parse_plan(text)


def test_every_recipe_describes_itself():
    for name, recipe in RECIPES.items():
        assert recipe.name == name
        assert recipe.description
        assert recipe.example
        assert all(slot.description for slot in recipe.slots)
