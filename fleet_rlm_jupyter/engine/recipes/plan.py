"""The recipes there are, and the canonical form in which one is asked for: `[recipe name slot=value …] question`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from fleet_rlm_jupyter.domain.errors import BadRequest
from fleet_rlm_jupyter.engine.recipes.conditions import parse_where
from fleet_rlm_jupyter.engine.recipes.inventory import PYTHON_UNITS
from fleet_rlm_jupyter.engine.recipes.passages import TEXT_UNITS
from fleet_rlm_jupyter.engine.recipes.stats import STATISTICS
from fleet_rlm_jupyter.engine.recipes.usages import HOWS


@dataclass(frozen=True, slots=True)
class Slot:
    """One thing a recipe needs to know. `choices` empty means any text."""

    name: str
    description: str
    is_required: bool = False
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Recipe:
    """One exact answer that needs no language model."""

    name: str
    description: str
    slots: tuple[Slot, ...]
    example: str
    reads: str
    """What of the context: records, python (source files) or text (every file as prose)."""
    work: str = "tally"

    def slot(self, name: str) -> Slot | None:
        return next((slot for slot in self.slots if slot.name == name), None)


_WHERE = Slot("where", 'conditions, as in level=ERROR|FATAL and status>=500, or line~"timed out"')
_PARTS = Slot("parts", "into how many parts the work is cut, 1 to 8; chosen by size when left out")
_FIELD = (
    "a field of the records; file is the file name, word1, word2 … are the words of a log line, "
    "date, hour, month, year and weekday are taken from its first date"
)
_UNITS = ("records", "lines", *TEXT_UNITS, *PYTHON_UNITS)
_UNIT = Slot("unit", "what is counted instead of records", choices=_UNITS)

RECIPES: Mapping[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            "count",
            "how many records (or lines) there are, or match a condition",
            (_WHERE, _UNIT, _PARTS),
            'How many records have status 500? · --recipe count --slot "where=status=500"',
            "records",
        ),
        Recipe(
            "group_by",
            "how many records each value of a field has, with shares, and how many different values there are",
            (Slot("field", _FIELD, is_required=True), _UNIT, _WHERE, _PARTS),
            "How many errors per service? · --recipe group_by --slot field=service",
            "records",
        ),
        Recipe(
            "top_k",
            "the values of a field with the most or fewest records, or the records with the highest or lowest number",
            (
                Slot("field", _FIELD + "; with order highest or lowest it is shown beside the number"),
                Slot("order", "what comes first", choices=("most", "fewest", "highest", "lowest")),
                Slot("by", "the field with the number, for order highest or lowest"),
                Slot("k", "how many are asked for, 1 to 1000"),
                _UNIT,
                _WHERE,
                _PARTS,
            ),
            'Which service has the most errors? · --recipe top_k --slot field=service --slot "where=level=ERROR"',
            "records",
        ),
        Recipe(
            "list",
            "the values of a field in the records that match a condition",
            (Slot("field", _FIELD, is_required=True), _UNIT, _WHERE, _PARTS),
            'Which hosts have status 500? · --recipe list --slot field=host --slot "where=status=500"',
            "records",
        ),
        Recipe(
            "stats",
            "count, sum, mean, median, least, greatest and quantiles of a numeric field, also by group",
            (
                Slot("field", "the field with the numbers", is_required=True),
                Slot("of", "the figure that is asked for, or a percentile as p95"),
                Slot("by", "the field to group by"),
                Slot("order", "which group comes first; highest when left out", choices=("highest", "lowest")),
                Slot("k", "how many groups are asked for, 1 to 1000; 1 where only order is given"),
                _WHERE,
                _PARTS,
            ),
            "What is the average latency_ms per service? · --recipe stats --slot field=latency_ms --slot by=service",
            "records",
            "stats",
        ),
        Recipe(
            "search",
            "quotations: the passages with the words asked for, as they stand, with file and line",
            (
                Slot("query", 'words, and "phrases" that must stand as they are', is_required=True),
                Slot("k", "how many quotations, 1 to 1000; 5 when left out"),
                Slot("strict", "only passages that have every word", choices=("no", "yes")),
                _PARTS,
            ),
            "Which passages mention liability? · --recipe search --slot query=liability",
            "text",
            "search",
        ),
        Recipe(
            "occurrences",
            "how often a word or phrase occurs, on how many lines and where first",
            (
                Slot("text", "the word or phrase", is_required=True),
                Slot("case", "whether case counts", choices=("any", "exact")),
                Slot("whole", "whole words only", choices=("yes", "no")),
                _PARTS,
            ),
            "How many times does the word license occur? · --recipe occurrences --slot text=license",
            "text",
            "occurrences",
        ),
        Recipe(
            "definitions",
            "where a class, function or constant of a given name is defined in Python files",
            (
                Slot("name", "the name, or Class.method", is_required=True),
                Slot("kind", "what it is", choices=("any", "class", "function", "constant")),
                _PARTS,
            ),
            "Where is class OrderedDict defined? · --recipe definitions --slot name=OrderedDict",
            "python",
            "census",
        ),
        Recipe(
            "subclasses",
            "which classes in Python files subclass a given class, and in which modules",
            (
                Slot("base", "the class, as Exception or socketserver.BaseServer", is_required=True),
                Slot("transitive", "also through other classes", choices=("no", "yes")),
                _PARTS,
            ),
            "Which modules define a class that subclasses Exception? · --recipe subclasses --slot base=Exception",
            "python",
            "census",
        ),
        Recipe(
            "usages",
            "where a name is called, raised, caught, imported or read in Python files, and in which functions",
            (
                Slot("name", "the name, or module.name", is_required=True),
                Slot("how", "which uses", choices=HOWS),
                _PARTS,
            ),
            "Which modules raise TimeoutError? · --recipe usages --slot name=TimeoutError --slot how=raise",
            "python",
            "usages",
        ),
    )
}


@dataclass(frozen=True, slots=True)
class RecipePlan:
    """A recipe with its slots. `part` ("3/8") is set only on the work of a child."""

    recipe: str
    slots: Mapping[str, str] = field(default_factory=dict[str, str])
    question: str = ""
    part: str = ""


_BARE = re.compile(r"[^\s\"\]\[=`]+\Z")
_HEAD = re.compile(r"\s*\[recipe\s")
_TOKEN = re.compile(r'\s+([A-Za-z_]\w*)(?:=("(?:[^"\\]|\\.)*"|[^\s"\]\[=`]+))?')


def compose(recipe: str, slots: Mapping[str, str], question: str) -> str:
    """The canonical form of `question`, asked by that recipe. Raises BadRequest for what no recipe knows."""
    return render(checked(RecipePlan(recipe, dict(slots), question)))


def render(plan: RecipePlan) -> str:
    """`plan` as text; parse_plan gives it back."""
    given = {**plan.slots, "part": plan.part} if plan.part else dict(plan.slots)
    words = [f"{name}={_quoted(value)}" for name, value in given.items()]
    return " ".join(["[recipe", plan.recipe, *words]) + "] " + plan.question


def parse_plan(text: str) -> RecipePlan | None:
    """The plan that `text` asks for; None when it is an ordinary question.

    Raises BadRequest when it has the canonical form but names an unknown recipe or slot, or cannot be read.
    """
    if not _HEAD.match(text):
        return None
    at = text.index("[recipe") + len("[recipe")
    words: list[tuple[str, str | None]] = []
    while match := _TOKEN.match(text, at):
        words.append((match[1], match[2]))
        at = match.end()
    end = re.compile(r"\s*\] ?").match(text, at)
    if end is None or not words or words[0][1] is not None or any(value is None for _, value in words[1:]):
        raise BadRequest("the recipe in the question cannot be read", "write [recipe NAME slot=value …] question")
    given = {name: _unquoted(value or "") for name, value in words[1:]}
    part = given.pop("part", "")
    return checked(RecipePlan(words[0][0], given, text[end.end() :], part))


def checked(plan: RecipePlan) -> RecipePlan:
    """`plan` itself when its recipe and slots exist and fit. Raises BadRequest with what there is instead."""
    recipe = RECIPES.get(plan.recipe)
    if recipe is None:
        raise BadRequest(f"there is no recipe {plan.recipe!r}", f"the recipes are {', '.join(RECIPES)}")
    names = ", ".join(slot.name for slot in recipe.slots)
    for name, value in plan.slots.items():
        slot = recipe.slot(name)
        if slot is None:
            raise BadRequest(f"recipe {recipe.name} has no slot {name!r}", f"its slots are {names}")
        if slot.choices and value not in slot.choices:
            raise BadRequest(f"slot {name} cannot be {value!r}", f"it is one of {', '.join(slot.choices)}")
        if name in ("parts", "k") and not (value.isascii() and value.isdigit() and 1 <= int(value) <= _MOST[name]):
            raise BadRequest(f"slot {name} cannot be {value!r}", f"give a whole number from 1 to {_MOST[name]}")
    missing = [slot.name for slot in recipe.slots if slot.is_required and not plan.slots.get(slot.name)]
    if missing:
        raise BadRequest(f"recipe {recipe.name} needs slot {', '.join(missing)}", f"for example: {recipe.example}")
    of = plan.slots.get("of", "mean")
    if of not in STATISTICS and not re.fullmatch(r"p(100|\d{1,2}(\.\d+)?)", of):
        raise BadRequest(f"slot of cannot be {of!r}", f"it is one of {', '.join(STATISTICS)}, or p0 to p100")
    _check_ranking(plan)
    try:
        tests = parse_where(plan.slots.get("where", ""))
    except ValueError as err:
        raise BadRequest(str(err), "write conditions as in level=ERROR|FATAL and status>=500") from err
    if plan.slots.get("unit") in ("lines", *TEXT_UNITS) and any(test.field not in ("line", "file") for test in tests):
        raise BadRequest(
            f"{plan.slots['unit']} have no fields", "use unit=records, or a condition on line, as in line~timeout"
        )
    return plan


_MOST = {"parts": 8, "k": 1000}


def _check_ranking(plan: RecipePlan) -> None:
    if plan.recipe == "stats" and not plan.slots.get("by") and {"order", "k"} & plan.slots.keys():
        raise BadRequest("slots order and k of recipe stats need slot by", "name the field to group by")
    if plan.recipe != "top_k":
        return
    if plan.slots.get("order") in ("highest", "lowest"):
        if not plan.slots.get("by"):
            raise BadRequest("recipe top_k needs slot by", "name the field with the number, as in by=latency_ms")
    elif not plan.slots.get("field") or plan.slots.get("by"):
        raise BadRequest(
            "recipe top_k counts values of slot field, or ranks records by slot by",
            "give field=…, or by=… together with order=highest or order=lowest",
        )


def _quoted(value: str) -> str:
    return value if _BARE.match(value) else json.dumps(value)


def _unquoted(value: str) -> str:
    if not value.startswith('"'):
        return value
    try:
        text = json.loads(value)
    except ValueError as err:
        raise BadRequest(f"{value} is not a quoted text", 'write it as in where="level=ERROR"') from err
    return str(text)
