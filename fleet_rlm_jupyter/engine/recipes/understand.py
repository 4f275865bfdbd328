"""From a question and a profile to a plan, or an abstention. Every word must be accounted for; nothing is guessed."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from fleet_rlm_jupyter.domain.errors import BadRequest
from fleet_rlm_jupyter.engine.recipes.plan import RECIPES, RecipePlan, checked, parse_plan
from fleet_rlm_jupyter.engine.recipes.profile import Profile
from fleet_rlm_jupyter.engine.recipes.python_words import python_plan
from fleet_rlm_jupyter.engine.recipes.records import RECORD_KINDS, Condition, number, show_where
from fleet_rlm_jupyter.engine.recipes.words import Token, tokens_of


@dataclass(frozen=True, slots=True)
class Abstention:
    """Why no recipe is used. `tries` are slots that would make it clear."""

    reason: str
    tries: tuple[str, ...] = ()


def understand(question: str, profile: Profile) -> RecipePlan | Abstention:
    """The one recipe that the whole question asks for, or why there is none."""
    try:
        plan = parse_plan(question)
        if plan is None:
            if profile["question_chars"] > len(question):
                return Abstention("the question is too long")
            plan = python_plan(question) or _records_plan(question, profile)
            if isinstance(plan, Abstention):
                return plan
            plan = checked(plan)
            if _reads_little(plan, profile):
                return Abstention(
                    "most of the context is no log, key=value, CSV or JSON lines", (f"recipe {plan.recipe}",)
                )
    except BadRequest as err:
        return Abstention(str(err))
    except _Unclear as err:
        return Abstention(err.reason, err.tries)
    return _missing(plan, profile) or plan


def _missing(plan: RecipePlan, profile: Profile) -> Abstention | None:
    """An abstention when the context has nothing that the recipe reads."""
    if RECIPES[plan.recipe].reads == "python":
        return None if "python" in profile["kinds"] else Abstention("the context has no Python files")
    if plan.slots.get("unit") == "lines" or any(kind in RECORD_KINDS for kind in profile["kinds"]):
        return None
    return Abstention("the context has no records: no log, key=value, CSV or JSON lines")


def _reads_little(plan: RecipePlan, profile: Profile) -> bool:
    """Whether a plan taken from free words would rest on a few files beside the point."""
    if RECIPES[plan.recipe].reads != "records" or plan.slots.get("unit") == "lines":
        return False
    read = sum(chars for kind, (_, chars) in profile["kinds"].items() if kind in RECORD_KINDS)
    return 0 < 2 * read < profile["chars"]


class _Unclear(Exception):
    def __init__(self, reason: str, tries: tuple[str, ...] = ()) -> None:
        super().__init__(reason)
        self.reason = reason
        self.tries = tries


def _records_plan(question: str, profile: Profile) -> RecipePlan | Abstention:
    tokens = tokens_of(question, profile)
    unknown = [token for token in tokens if token.symbol == "?"]
    if unknown:
        words = ", ".join(repr(token.text) for token in unknown[:5])
        tries = tuple(f"field={name}" for token in unknown for name in token.fields)
        return Abstention(f"no recipe and no field or value in the data accounts for {words}", tries)
    symbols = "".join(token.symbol[0] for token in tokens)
    for pattern, build in _TEMPLATES:
        found = pattern.match(symbols)
        if found:
            parts = {name: tokens[slice(*found.span(name))] for name in found.groupdict() if found[name] is not None}
            slots = build(parts, profile)
            recipe = slots.pop("recipe")
            return RecipePlan(recipe, {name: text for name, text in slots.items() if text}, question)
    return Abstention("no recipe fits the question as a whole")


Parts = dict[str, list[Token]]


def _count(parts: Parts, profile: Profile) -> dict[str, str]:
    tests = _conditions(parts["rest"])
    nouns = [token.text.casefold() for token in parts["rest"] if token.symbol == "n"]
    only_lines = bool(nouns) and all(noun in ("line", "lines") for noun in nouns)
    is_lines = only_lines and all(test.field == "line" for test in tests)
    unit = "lines" if is_lines and "line" not in profile["fields"] else ""
    return {"recipe": "count", "where": show_where(tests), "unit": unit}


def _distinct(parts: Parts, profile: Profile) -> dict[str, str]:
    name = _field(parts["field"][0])
    known = profile["fields"].get(name)
    if "distinct" not in parts and (known is None or known["numeric"]):
        raise _Unclear(f"how many {name} can mean how many records, how many different values or a sum")
    return _group(parts, profile)


def _group(parts: Parts, profile: Profile) -> dict[str, str]:
    tests = _conditions(parts.get("rest", []) + parts.get("more", []))
    return {"recipe": "group_by", "field": _field(parts["field"][0]), "where": show_where(tests)}


def _top(parts: Parts, profile: Profile) -> dict[str, str]:
    tests = _conditions(parts.get("rest", []) + parts.get("more", []))
    cue = parts["cue"][0].symbol if "cue" in parts else "m"
    k = parts["k"][0].text if "k" in parts else "10" if "top" in parts else "1"
    order = "fewest" if cue in ("l", "g") else "most"
    return {
        "recipe": "top_k",
        "field": _field(parts["field"][0]),
        "order": order,
        "k": k,
        "where": show_where(tests),
    }


def _extreme(parts: Parts, profile: Profile) -> dict[str, str]:
    by = _field(parts["by"][0])
    if not profile["fields"].get(by, {"numeric": False})["numeric"]:
        raise _Unclear(f"{by} is not a number in every record")
    cue = parts["cue"][0].symbol if "cue" in parts else "x"
    return {
        "recipe": "top_k",
        "order": "lowest" if cue == "y" else "highest",
        "by": by,
        "field": _field(parts["field"][0]) if "field" in parts else "",
        "k": parts["k"][0].text if "k" in parts else "10" if "top" in parts else "1",
        "where": show_where(_conditions(parts.get("rest", []))),
    }


_CONDITION = "(?:Fh?o[VNQE]|Fh?t?Q|Fh?[VNE]|[VE](?:F(?!h?[otVNQE]))?|tQ|Q)"
_REST = f"(?:[au]?h?(?:{_CONDITION}|n))*"
_SOME = f"(?:[au]?h?(?:{_CONDITION}|n))+"
_TEMPLATES: tuple[tuple[re.Pattern[str], Callable[[Parts, Profile], dict[str, str]]], ...] = tuple(
    (re.compile(pattern + r"\Z"), build)
    for pattern, build in (
        (rf"c?n?p?(?P<distinct>d)(?P<field>F)(?P<rest>{_REST})h?", _distinct),
        (rf"c(?P<field>F)(?P<rest>(?:[au]?h?{_CONDITION})*)h?", _distinct),
        (rf"c?(?P<rest>{_REST})p(?P<field>F)h?(?P<more>{_REST})", _group),
        (rf"p(?P<field>F)c?(?P<rest>{_REST})h?", _group),
        (rf"(?:b|bc?n?p)(?P<field>F)(?P<rest>{_REST})", _group),
        (rf"(?P<k>N)?(?P<field>F)h?(?P<cue>[ml])c?(?P<rest>{_REST})h?(?:ac)?h?", _top),
        (rf"(?:k(?P<k>N)|(?P<top>k))(?P<field>F)(?:p|h?m)c?(?P<rest>{_REST})", _top),
        (rf"(?:k(?P<k>N)|(?P<top>k))(?P<cue>f)?(?P<field>F)(?P<rest>{_REST})", _top),
        (rf"(?P<cue>[fg])(?P<field>F)(?P<rest>{_REST})(?:ac)?h?", _top),
        (rf"(?P<k>N)(?P<cue>[fg])(?P<field>F)(?P<rest>{_REST})", _top),
        (rf"(?P<field>F)h?(?P<cue>[fg])(?P<rest>{_REST})", _top),
        (rf"(?:(?P<field>F)|n)?h?(?P<cue>[xy])(?P<by>F)(?P<rest>{_REST})", _extreme),
        (rf"(?:k?(?P<k>N)|(?P<top>k))(?P<cue>[xy])(?P<by>F)(?P<rest>{_REST})", _extreme),
        (rf"(?:k(?P<k>N)|(?P<top>k))np(?P<by>F)(?P<rest>{_REST})", _extreme),
        (rf"[cr](?P<rest>{_SOME})h?", _count),
    )
)
_ONE = re.compile(rf"(?P<one>{_CONDITION})|[auhn]")


def _conditions(tokens: list[Token]) -> list[Condition]:
    """What the records must meet, in the order of the question. "errors and warnings" are the records of both."""
    symbols = "".join(token.symbol[0] for token in tokens)
    tests: list[Condition] = []
    joint = ""
    for found in _ONE.finditer(symbols):
        if not found["one"]:
            joint = found[0] if found[0] in "au" else joint
            continue
        words = tokens[found.start() : found.end()]
        test = _condition(words)
        is_alternative = bool(joint) and bool(tests) and words[0].symbol in "VE" and test[:2] == tests[-1][:2]
        if is_alternative and test.operator == "=":
            tests[-1] = tests[-1]._replace(values=tests[-1].values + test.values)
        elif joint == "u" or any(test.field == old.field and "=" == test.operator == old.operator for old in tests):
            raise _Unclear(f"it is not clear how {words[-1].text!r} goes with what stands before it")
        else:
            tests.append(test)
        joint = ""
    return tests


def _condition(tokens: list[Token]) -> Condition:
    kinds = {token.symbol[0]: token for token in tokens}
    value = next(kinds[symbol] for symbol in "VNQE" if symbol in kinds)
    if "F" not in kinds:
        return Condition("line", "~", (value.text,)) if value.symbol == "Q" else _by_value(value)
    name = _field(kinds["F"])
    operator = kinds["o"].symbol[1:] if "o" in kinds else "~" if "t" in kinds else "="
    if operator in (">", ">=", "<", "<=") and number(value.text) is None:
        raise _Unclear(f"{name} {operator} needs a number, not {value.text!r}")
    if value.symbol in ("N", "Q"):
        return Condition(name, operator, (value.text,))
    if name not in value.values:
        fields = ", ".join(value.values) or "no field"
        raise _Unclear(f"{value.text!r} was not seen as a value of {name}, but of {fields}")
    return Condition(name, operator, _spellings(value.values[name]))


def _by_value(token: Token) -> Condition:
    """A value without its field: clear only when one field has it."""
    fields = token.fields
    if len(fields) > 1:
        tries = tuple(f"where={show_where([Condition(name, '=', tuple(_values(token, name)))])}" for name in fields)
        raise _Unclear(f"{token.text!r} is a value of several fields: {', '.join(fields)}", tries)
    if not fields:
        raise _Unclear(f"no field of the records says what is meant by {token.text!r}")
    return Condition(fields[0], "=", _spellings(_values(token, fields[0])))


def _values(token: Token, name: str) -> list[str]:
    return token.values.get(name) or [token.text.casefold().removesuffix("s")]


def _spellings(values: list[str]) -> tuple[str, ...]:
    """One spelling of each value: conditions ignore case."""
    by_word = {value.strip().casefold(): value.strip() for value in reversed(values)}
    return tuple(sorted(by_word.values(), reverse=True, key=len))


def _field(token: Token) -> str:
    if len(token.fields) != 1:
        tries = tuple(f"field={name}" for name in token.fields)
        raise _Unclear(f"{token.text!r} can be any of the fields {', '.join(token.fields)}", tries)
    return token.fields[0]
