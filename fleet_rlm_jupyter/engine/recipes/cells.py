"""The code of each step: the helpers it needs, taken from their source files, and a few lines that use them."""

from __future__ import annotations

import ast
import functools
import inspect
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import NamedTuple

from fleet_rlm_jupyter.engine.recipes import (
    classes,
    conditions,
    inventory,
    parts,
    passages,
    profile,
    records,
    report,
    report_text,
    stats,
    tally,
    usages,
)
from fleet_rlm_jupyter.engine.recipes.plan import RECIPES, RecipePlan, render

_MODULES: tuple[ModuleType, ...] = (
    *(conditions, records, inventory, passages, profile, tally, classes, parts, report, stats, usages, report_text),
)
_WORK = {
    "tally": ("tally", "merge_tallies", "report_tally"),
    "stats": ("numbers_of", "merge_numbers", "report_stats"),
    "census": ("census", "merge_censuses", "report_census"),
    "usages": ("usages", "merge_usages", "report_usages"),
    "search": ("find", "merge_finds", "report_search"),
    "occurrences": ("times_of", "merge_times", "report_occurrences"),
}
"""By what a recipe is worked: the functions for a part, for the parts together, and for the words."""

_FOR_PROFILE = ("profile", "fitted")

_LOOK = """
# Which kinds of files, which fields, and which words of the question are values there?
print("PROFILE " + fitted(profile(context, question)))
"""

_PART = """
slots = {slots}
# The parent cut this part out of the whole; its keys are kind:first line:path.
result = {work}(pieces_of_part(context), slots)
partial = json.dumps(result)
print("PART " + json.dumps({{"files": result["files"], "characters": len(partial)}}))
"""

_HERE = """
slots = {slots}
# The files this recipe reads.
pieces = chosen(pieces_of(context), {reads!a}, {unit!a})
# Count them here.
result = {merge}([{work}(pieces, slots)], slots)
parts, lost = 0, {{}}
"""

_BY_PARTS = """
slots = {slots}
# The files this recipe reads, in parts of about the same size.
pieces = chosen(pieces_of(context), {reads!a}, {unit!a})
work = cut(pieces, {parts})
parts = len(work)
# One child run per part: the same recipe, asked in the same words.
prompts = [{head} + str(i + 1) + "/" + str(parts) + {tail} for i in range(parts)]
replies = opened(sub_rlm_batched(prompts=prompts, contexts=work))
results, lost = replies.results, replies.lost
for i in replies.refused:  # no child may go that deep: count that part here
    results[i] = {work}(pieces_of_part(work[i]), slots)
if not results:
    raise RuntimeError("no part gave a result: " + str(lost)[:500])
result = {merge}([results[i] for i in sorted(results)], slots)
"""

_REPORT = """
found = {report}({recipe!a}, slots, result)
# A second look at some of the lines it rests on, each by itself.
checks = check_prompts(found, pieces)
try:
    second_look = dict(zip(checks, llm_query_batched(prompts=list(checks.values())))) if checks else {{}}
except RuntimeError as err:
    second_look = {{}}
    found.sentences.append("The evidence was not looked at again: " + str(err)[:200])
answer = outcome(found, second_look, parts, lost)
evidence = [f"{{path}}:{{line}}: {{text}}" for path, line, text in found.lines]
print("RESULT " + json.dumps({{"answer": answer[:2000], "evidence": len(evidence), "lost": len(lost)}}))
"""

_SUBMIT = """
# {why}
SUBMIT({arguments})
"""


class _Definition(NamedTuple):
    source: str
    uses: frozenset[str]
    imports: dict[str, str]


def look_cell() -> str:
    return _cell("Look at the context before anything else.", _FOR_PROFILE, _LOOK)


def part_cell(plan: RecipePlan) -> str:
    """A child's work: the recipe over its part."""
    uses, names = _names(plan)
    step = _PART.format(slots=literal(plan.slots), work=names["work"])
    return _cell(f"Part {plan.part} of a larger question: {plan.recipe}.", ("pieces_of_part", uses[0]), step)


def work_cell(plan: RecipePlan, part_count: int, is_retry: bool) -> str:
    """The whole work: by children in `part_count` parts, or here when that is 0; then the report and a second look."""
    uses, names = _names(plan)
    recipe = RECIPES[plan.recipe]
    values = {
        "slots": literal({name: value for name, value in plan.slots.items() if name != "parts"}),
        "reads": recipe.reads,
        "unit": plan.slots.get("unit", "records"),
        "recipe": plan.recipe,
        **names,
    }
    entries = ["pieces_of", "chosen", *uses, "check_prompts", "outcome"]
    if part_count:
        slots = {name: value for name, value in plan.slots.items() if name != "parts"}
        head, tail = render(RecipePlan(plan.recipe, slots, plan.question, part="@")).split("part=@", 1)
        step = _BY_PARTS.format(parts=part_count, head=literal(head + "part="), tail=literal(tail), **values)
        entries += ["cut", "opened", "pieces_of_part"]
        title = f"Run recipe {plan.recipe} over {part_count} parts, one child each, and merge."
    else:
        step = _HERE.format(**values)
        title = f"Run recipe {plan.recipe} here."
    known = frozenset[str]() if is_retry else _closure(_FOR_PROFILE)
    return _cell(title, entries, step + _REPORT.format(**values), known)


def submit_cell(why: str, fields: Iterable[str], values: Mapping[str, str]) -> str:
    """Submit `values` (Python expressions) for the output fields that there are; `why` becomes the comment."""
    arguments = ", ".join(f"{name}={values[name]}" for name in fields if name in values)
    return _SUBMIT.format(why=why, arguments=arguments).strip()


def _names(plan: RecipePlan) -> tuple[tuple[str, ...], dict[str, str]]:
    uses = _WORK[RECIPES[plan.recipe].work]
    return uses, dict(zip(("work", "merge", "report"), uses, strict=True))


def literal(value: object) -> str:
    """A Python literal in one line of ASCII that no fence or field mark can be read from."""
    return ascii(value).replace("`", "\\x60")


def _cell(title: str, entries: Iterable[str], step: str, known: frozenset[str] = frozenset()) -> str:
    helpers = _helpers(_closure(tuple(entries)) - known, step)
    return f"# {title}\n# Helpers first; the step itself is at the end.\n{helpers}\n\n# --- the step ---{step.rstrip()}"


def _helpers(names: frozenset[str], step: str) -> str:
    index = _index()
    imports = {line for name in names for line in index[name].imports.values()}
    if "json." in step:
        imports.add("import json")
    bodies = [definition.source for name, definition in index.items() if name in names]
    return "\n".join([*sorted(imports), "", "\n\n".join(bodies)])


@functools.cache
def _closure(entries: tuple[str, ...]) -> frozenset[str]:
    index, reached, todo = _index(), set[str](), list(entries)
    while todo:
        name = todo.pop()
        if name not in reached:
            reached.add(name)
            todo.extend(index[name].uses & index.keys())
    return frozenset(reached)


@functools.cache
def _index() -> dict[str, _Definition]:
    """Every top-level definition of the sandbox modules, in an order in which they can run."""
    index: dict[str, _Definition] = {}
    for module in _MODULES:
        source = inspect.getsource(module)
        lines = source.split("\n")
        tree = ast.parse(source)
        imports = {name: line for node in tree.body for name, line in _imported(node)}
        for node in tree.body:
            for name in _defined(node):
                uses = _used(node)
                text = "\n".join(lines[node.lineno - 1 : node.end_lineno])
                if name in index:
                    raise ValueError(f"{name} is defined twice among the sandbox modules")
                index[name] = _Definition(text, uses, {n: line for n, line in imports.items() if n in uses})
    return index


def _used(node: ast.stmt) -> frozenset[str]:
    """The names a definition takes from outside: read in it, and neither assigned nor a parameter there."""
    names = [n for n in ast.walk(node) if isinstance(n, ast.Name)]
    own = {n.id for n in names if isinstance(n.ctx, ast.Store)} | {
        n.arg for n in ast.walk(node) if isinstance(n, ast.arg)
    }
    return frozenset(n.id for n in names) - own


def _imported(node: ast.stmt) -> list[tuple[str, str]]:
    """The standard-library names that a statement imports, each with a line of its own."""
    if isinstance(node, ast.Import):
        return [(alias.name, f"import {alias.name}") for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module and not node.module.startswith(("__future__", "fleet_")):
        return [(alias.name, f"from {node.module} import {alias.name}") for alias in node.names]
    return []


def _defined(node: ast.stmt) -> list[str]:
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return [node.name]
    if isinstance(node, ast.Assign):
        return [target.id for target in node.targets if isinstance(target, ast.Name)]
    return []
