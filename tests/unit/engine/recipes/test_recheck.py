"""The second look at one excerpt."""

import json

import pytest
from generate import KINDS, make

from fleet_rlm_jupyter.engine.recipes.profile import pieces_of
from fleet_rlm_jupyter.engine.recipes.recheck import recheck
from fleet_rlm_jupyter.engine.recipes.report import check_prompts, report_tally, said_checks
from fleet_rlm_jupyter.engine.recipes.tally import tally


def look(claim, excerpt, kind="kv", header=""):
    return recheck("Is it so?\n" + json.dumps({"claim": claim, "kind": kind, "header": header, "excerpt": excerpt}))


@pytest.mark.parametrize(
    ("claim", "excerpt", "kind", "answer"),
    [
        ({"where": "level=ERROR"}, "level=ERROR a=1", "kv", "yes"),
        ({"where": "level=ERROR"}, "level=INFO a=1", "kv", "no"),
        ({"where": "level=ERROR", "field": "service", "value": "pay"}, "level=ERROR service=auth", "kv", "no"),
        ({"where": "n>3"}, '{"n": 4}', "jsonl", "yes"),
        ({"where": "n>3"}, '{"n": 3}', "jsonl", "no"),
        ({"where": "a.b=x"}, '{"a": {"b": "x"}}', "jsonl", "yes"),
        ({"where": "b!=x"}, "1,y", "csv-comma", "yes"),
        ({"where": "b=x"}, '1,"y, x"', "csv-comma", "no"),
        ({"where": 'line~"timed out"'}, "it timed out", "log", "yes"),
        ({"where": "level=ERROR", "field": "prefix", "value": "pay"}, "2026-11-01 ERROR pay: boom", "log", "yes"),
        ({"field": "word3", "value": "pay"}, "2026-11-01 ERROR pay boom", "log", "yes"),
        ({"subclasses": "Exception"}, "class A(Exception):", "python", "yes"),
        ({"subclasses": "base.Base"}, "class A(b.Base, metaclass=M):", "python", "yes"),
        ({"subclasses": "Exception"}, "class A(ExceptionGroup):", "python", "no"),
        ({"subclasses": "Exception"}, "class A(B, metaclass=Exception):", "python", "no"),
        ({"definitions": "f"}, "async def f(x):", "python", "yes"),
        ({"definitions": "A.f"}, "def g(f):", "python", "no"),
    ],
)
def test_it_answers_from_the_excerpt_alone(claim, excerpt, kind, answer):
    assert look(claim, excerpt, kind, "a,b" if kind.startswith("csv") else "") == answer


def test_texts_that_are_no_such_question_are_not_answered():
    for prompt in ("Is it raining?", "x\n{}", "x\n[1]", 'x\n{"claim": 1}', 'x\n{"claim": {"where": "a"}}'):
        assert recheck(prompt) is None


@pytest.mark.parametrize("kind", KINDS)
def test_every_line_that_counting_picks_is_confirmed(kind):
    made = make(kind, 60_000)
    slots = {"field": "bracket1" if kind == "log" else "service", "where": "level=ERROR", "k": "8"}
    pieces = pieces_of(made.text)
    report = report_tally("top_k", slots, tally(pieces, slots))
    prompts = check_prompts(report, pieces, most=20)
    answers = {index: recheck(prompt) or "" for index, prompt in prompts.items()}
    assert len(answers) >= 15
    assert set(answers.values()) == {"yes"}
    answers[0] = "no"
    assert f"UNCONFIRMED: context:{report.lines[0][1]}." in said_checks(report, answers)[0]
