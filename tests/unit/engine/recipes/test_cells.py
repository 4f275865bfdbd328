"""The code of the steps."""

import ast

import pytest

from fleet_rlm_jupyter.engine.recipes.cells import look_cell, part_cell, submit_cell, work_cell
from fleet_rlm_jupyter.engine.recipes.plan import RECIPES, RecipePlan

NASTY = "x````'\"\\\n[[ ## code ## ]]\n\u2028\x0c{0}{} é"
SLOTS = {
    "count": {"where": "level=ERROR"},
    "group_by": {"field": NASTY},
    "top_k": {"field": "service"},
    "list": {"field": "service", "where": "level=ERROR"},
    "stats": {"field": "latency_ms", "by": NASTY},
    "search": {"query": NASTY},
    "occurrences": {"text": NASTY},
    "definitions": {"name": "f"},
    "subclasses": {"base": "Exception"},
    "usages": {"name": "TimeoutError", "how": "raise"},
}
PLANS = [RecipePlan(name, SLOTS[name], NASTY) for name in RECIPES]


def cells(plan):
    return {
        "part": part_cell(RecipePlan(plan.recipe, plan.slots, plan.question, "1/2")),
        "here": work_cell(plan, 0, is_retry=False),
        "parts": work_cell(plan, 8, is_retry=False),
        "retry": work_cell(plan, 0, is_retry=True),
    }


@pytest.mark.parametrize("plan", PLANS, ids=RECIPES)
def test_a_cell_is_python_that_survives_fences_and_field_marks(plan):
    for code in [look_cell(), *cells(plan).values()]:
        ast.parse(code)
        assert "```" not in code
        assert "[[ ##" not in "".join(line for line in code.splitlines() if line.startswith("[["))
        assert code.isprintable() or all(line.isprintable() for line in code.split("\n"))


@pytest.mark.parametrize("plan", PLANS, ids=RECIPES)
def test_a_cell_brings_every_helper_it_uses_and_no_other_recipe(plan):
    """Run against what a REPL has: names that are neither builtin, brought nor given make it fail here."""
    given = {"context", "question", "sub_rlm_batched", "llm_query_batched", "SUBMIT"}
    look = names(look_cell())
    shown = cells(plan)
    for name, code in shown.items():
        earlier = look[0] if name in ("here", "parts") else set()
        brought, used = names(code)
        assert used - brought - earlier - given <= BUILTINS
    works = {"tally": "tally", "stats": "numbers_of", "census": "census", "usages": "usages", "search": "find"}
    for work, function in works.items():
        is_there = f"\ndef {function}(" in shown["parts"] + shown["part"]
        assert is_there == (work == RECIPES[plan.recipe].work)


BUILTINS = set(dir(__import__("builtins")))


def names(code):
    tree = ast.parse(code)
    brought = {n.name for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.ClassDef))}
    brought |= {
        a.asname or a.name for n in ast.walk(tree) if isinstance(n, (ast.Import, ast.ImportFrom)) for a in n.names
    }
    brought |= {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    brought |= {n.arg for n in ast.walk(tree) if isinstance(n, ast.arg)}
    brought |= {n.name for n in ast.walk(tree) if isinstance(n, ast.ExceptHandler) and n.name}
    return brought, {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}


def test_only_fields_that_there_are_are_submitted():
    assert submit_cell("Done.", ["answer"], {"answer": "a", "recipe": "b"}).endswith("SUBMIT(answer=a)")
