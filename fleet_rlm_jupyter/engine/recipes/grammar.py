"""Questions about records: the forms there are, as patterns over the symbols of their words, and the slots of each."""

from __future__ import annotations

import re
from collections.abc import Callable

from fleet_rlm_jupyter.engine.recipes.conditions import ANY, Condition, number, show_where
from fleet_rlm_jupyter.engine.recipes.cues import DIMENSIONS
from fleet_rlm_jupyter.engine.recipes.plan import RecipePlan
from fleet_rlm_jupyter.engine.recipes.profile import Profile
from fleet_rlm_jupyter.engine.recipes.words import Token, counts_something, tokens_of, yes_value


class Unclear(Exception):
    """The question can be meant in several ways. `tries` are slots that would make it clear."""

    def __init__(self, reason: str, tries: tuple[str, ...] = ()) -> None:
        super().__init__(reason)
        self.reason = reason
        self.tries = tries


def records_plan(question: str, profile: Profile) -> RecipePlan:
    """The plan whose form covers every word of the question. Raises Unclear when there is none."""
    tokens = tokens_of(question, profile)
    unknown = [token for token in tokens if token.symbol == "?"]
    if unknown:
        words = ", ".join(repr(token.text) for token in unknown[:5])
        tries = tuple(f"field={name}" for token in unknown for name in token.fields)
        raise Unclear(f"no recipe and no field or value in the data accounts for {words}", tries)
    symbols = "".join(token.symbol[0] for token in tokens)
    for pattern, build in _TEMPLATES:
        found = pattern.match(symbols)
        if found:
            parts = {name: tokens[slice(*found.span(name))] for name in found.groupdict() if found[name] is not None}
            slots = build(parts, profile)
            recipe = slots.pop("recipe")
            return RecipePlan(recipe, {name: text for name, text in slots.items() if text}, question)
    raise Unclear("no recipe fits the question as a whole")


Parts = dict[str, list[Token]]


def _count(parts: Parts, profile: Profile) -> dict[str, str]:
    tests = _conditions(parts["rest"], profile)
    nouns = [token.text.casefold() for token in parts["rest"] if token.symbol == "n"]
    only_lines = bool(nouns) and all(noun in ("line", "lines") for noun in nouns)
    is_lines = only_lines and all(test.field == "line" for test in tests)
    unit = "lines" if is_lines and "line" not in profile["fields"] else ""
    return {"recipe": "count", "where": show_where(tests), "unit": unit}


def _share(parts: Parts, profile: Profile) -> dict[str, str]:
    """`What percentage of errors are from auth?` is no share of all records."""
    if len(_conditions(parts["rest"], profile)) > 1:
        raise Unclear("it is not clear of which records the share is asked for; group_by with where shows shares")
    return _count(parts, profile)


def _having(parts: Parts, profile: Profile) -> dict[str, str]:
    """`How many packages have a homepage?` is a question only where some have none."""
    name = _field(parts["has"][0])
    known = profile["fields"].get(name)
    if known is None or known["seen"] >= profile["sampled"]:
        raise Unclear(f"every record has a {name}")
    tests = [*_conditions(parts["rest"], profile), Condition(name, "=", (ANY,))]
    return {"recipe": "count", "where": show_where(tests)}


def _distinct(parts: Parts, profile: Profile) -> dict[str, str]:
    name = _field(parts["field"][0])
    known = profile["fields"].get(name)
    if "distinct" not in parts and known and known["numeric"] and counts_something(name) and "rest" in parts:
        tests = _conditions(parts["rest"], profile)
        if any(
            test.operator == "=" and profile["fields"].get(test.field, {"unique": False})["unique"] for test in tests
        ):
            return {"recipe": "list", "field": name, "where": show_where(tests)}
    if "distinct" not in parts and (known is None or known["numeric"]):
        raise Unclear(f"how many {name} can mean how many records, how many different values or a sum")
    _one_by_one(name, parts.get("rest", []), profile)
    return _group(parts, profile)


def _distinct_itself(parts: Parts, profile: Profile) -> dict[str, str]:
    """`How many services start with b?` asks for different services."""
    tests = _conditions(parts["field"] + parts["itself"], profile)
    return {"recipe": "group_by", "field": _field(parts["field"][0]), "where": show_where(tests)}


def _group(parts: Parts, profile: Profile) -> dict[str, str]:
    tests = _conditions(parts.get("rest", []) + parts.get("more", []), profile)
    return {"recipe": "group_by", "field": _field(parts["field"][0]), "where": show_where(tests)}


def _list(parts: Parts, profile: Profile) -> dict[str, str]:
    name = _field(parts["field"][0])
    rest = [_as_identity(token, name, profile) for token in parts["rest"]]
    tests = _conditions(rest, profile)
    if any(test.field == name for test in tests):
        raise Unclear(f"the question names {name} and already says its value")
    _one_by_one(name, rest, profile)
    return {"recipe": "list", "field": name, "where": show_where(tests)}


def _one_by_one(name: str, rest: list[Token], profile: Profile) -> None:
    """Unclear where a value has many records, and the question needs them all: `which users have no errors`."""
    if profile["fields"].get(name, {"unique": False})["unique"]:
        return
    tests = _conditions(rest, profile)
    if any(test.operator == "!=" and test.field != name for test in tests):
        raise Unclear(f"{name} has values with many records: one without it, or all, is not said")
    if any(len(test.values) > 1 for test in tests) and any(token.symbol == "a" for token in rest):
        raise Unclear(f"{name} has values with many records: one of the two, or both, is not said")


def _list_itself(parts: Parts, profile: Profile) -> dict[str, str]:
    """`Which settings start with net?`"""
    tests = _conditions(parts["field"] + parts["itself"], profile)
    return {"recipe": "list", "field": _field(parts["field"][0]), "where": show_where(tests)}


def _as_identity(token: Token, asked: str, profile: Profile) -> Token:
    """`The summary of bash`: of the fields with that value, the one that tells records apart names what is meant."""
    known = [
        name for name in token.fields if profile["fields"].get(name, {"unique": False})["unique"] and name != asked
    ]
    if token.symbol != "V" or len(token.fields) < 2 or len(known) != 1:
        return token
    return token._replace(fields=(known[0],), values={known[0]: token.values[known[0]]})


def _setting(parts: Parts, profile: Profile) -> dict[str, str]:
    """`What is vm.swappiness?` over settings asks for its value."""
    test = _by_value(parts["key"][0])
    if "config" not in profile["kinds"] or test.field != "key":
        raise Unclear(f"the question does not say what is asked about {parts['key'][0].text!r}")
    return {"recipe": "list", "field": "value", "where": show_where([test])}


def _top(parts: Parts, profile: Profile) -> dict[str, str]:
    tests = _conditions(parts.get("rest", []) + parts.get("more", []), profile)
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
    cue = parts["cue"][0] if "cue" in parts else Token("x", "top")
    by = _field(parts["by"][0]) if "by" in parts else _dimension(cue.text.casefold(), profile)
    by = f"{by}.count" if cue.symbol in ("m", "l") and f"{by}.count" in profile["fields"] else by
    if not profile["fields"].get(by, {"numeric": False})["numeric"]:
        raise Unclear(f"{by} is not a number in every record")
    if cue.symbol in ("m", "l") and not counts_something(by):
        raise Unclear(f"it is not clear what the {cue.text} {by} means")
    label = parts["field"][0] if "field" in parts else None
    return {
        "recipe": "top_k",
        "order": "lowest" if cue.symbol in ("y", "l") else "highest",
        "by": by,
        "field": _field(label) if label and label.fields else "",
        "k": parts["k"][0].text if "k" in parts else "10" if "top" in parts else "1",
        "where": show_where(_conditions(parts.get("rest", []), profile)),
    }


def _dimension(adjective: str, profile: Profile) -> str:
    """The one numeric field that an adjective compares by; `largest` by a size, `northernmost` by a latitude."""
    words = DIMENSIONS.get(adjective, ())
    named = [
        name
        for name, field in profile["fields"].items()
        if field["numeric"] and set(re.split(r"[\W_]+", name.casefold())) & set(words)
    ]
    if len(named) != 1:
        raise Unclear(f"the question does not say {adjective} by what", tuple(f"by={name}" for name in named))
    return named[0]


def _stats(parts: Parts, profile: Profile) -> dict[str, str]:
    name = _field(parts["field"][0])
    if not profile["fields"].get(name, {"numeric": False})["numeric"]:
        raise Unclear(f"{name} is not a number in every record")
    group = _field(parts["group"][0]) if "group" in parts else ""
    if f"{group}.count" in profile["fields"]:
        raise Unclear(f"{group} holds lists: a record is in several groups")
    cue = parts["cue"][0].symbol if "cue" in parts else "m" if "k" in parts or "top" in parts else ""
    order = "lowest" if cue in ("y", "l", "g") else "highest" if cue else ""
    return {
        "recipe": "stats",
        "field": name,
        "of": parts["stat"][0].symbol[1:],
        "by": group,
        "order": order,
        "k": parts["k"][0].text if "k" in parts else "10" if "top" in parts else "1" if cue else "",
        "where": show_where(_conditions(parts.get("rest", []) + parts.get("more", []), profile)),
    }


_F, _N = "[FUB]", "[nU]"
_CONDITION = (
    rf"(?:{_F}h?zNaN|oN{_F}|{_F}h?[SX][QVNE]|{_F}h?v?o[VNQE]|{_F}h?v[VNQE]|{_F}h?t?Q|{_F}h?[VNE]|{_F}h?[wj]|[wj]{_F}|v{_F}[VNQE]|v?B"
    rf"|v?[VE](?:{_F}(?!h?[otVNQESXwjz]))?|tQ|Q)"
)
_REST = f"(?:[au]?h?(?:{_CONDITION}|{_N}))*"
_SOME = f"(?:[au]?h?(?:{_CONDITION}|{_N}))+"
_TRUE = f"h?{_CONDITION}(?:[au]?h?(?:{_CONDITION}))*"
_K = "(?:k?(?P<k>N)|(?P<top>k))"
_AND_HOW_MANY = r"h?(?:a?c[nUF]?p?h?)?"
_TEMPLATES: tuple[tuple[re.Pattern[str], Callable[[Parts, Profile], dict[str, str]]], ...] = tuple(
    (re.compile(pattern + _AND_HOW_MANY + r"\Z"), build)
    for pattern, build in (
        (rf"cU(?P<rest>{_REST})", lambda parts, profile: _count({"rest": parts["rest"]}, profile)),
        (rf"c?n?p?(?P<distinct>d)(?P<field>{_F})(?P<rest>{_REST})", _distinct),
        (r"c(?P<field>F)(?P<itself>h?[SXt]Q)", _distinct_itself),
        (rf"c(?P<field>{_F})(?P<rest>(?:[au]?h?{_CONDITION})*)", _distinct),
        (rf"c?(?P<rest>{_REST})p(?P<field>{_F})h?(?P<more>{_REST})", _group),
        (rf"p(?P<field>{_F})c?(?P<rest>{_REST})", _group),
        (rf"(?:b|bc?{_N}?p)(?P<field>{_F})(?P<rest>{_REST})", _group),
        (rf"(?P<k>N)?(?P<field>{_F})h?(?P<cue>[ml])c?(?P<rest>{_REST})", _top),
        (rf"(?:k(?P<k>N)|(?P<top>k))(?P<field>{_F})(?:p|h?m)c?(?P<rest>{_REST})", _top),
        (rf"(?:k(?P<k>N)|(?P<top>k))(?P<cue>f)?(?P<field>{_F})(?P<rest>{_REST})", _top),
        (rf"(?P<cue>[fg])(?P<field>{_F})(?P<rest>{_REST})", _top),
        (rf"(?P<k>N)(?P<cue>[fg])(?P<field>{_F})(?P<rest>{_REST})", _top),
        (rf"(?P<field>{_F})h?(?P<cue>[fg])(?P<rest>{_REST})", _top),
        (rf"(?P<k>N)?(?P<field>{_F}|n)?h?(?P<cue>[xy])(?P<by>F)(?P<rest>{_REST})", _extreme),
        (rf"{_K}(?P<cue>[xy])(?P<by>F)(?P<rest>{_REST})", _extreme),
        (rf"{_K}(?P<field>{_N})p(?P<by>F)(?P<rest>{_REST})", _extreme),
        (rf"{_K}?(?P<cue>[xy])(?P<field>{_N})p(?P<by>F)(?P<rest>{_REST})", _extreme),
        (rf"{_K}?(?P<cue>[xy])(?P<field>U)(?P<rest>{_REST})(?:a{_F})?", _extreme),
        (rf"(?P<field>U)h?(?P<cue>[xy])(?P<rest>{_REST})(?:a{_F})?", _extreme),
        (rf"(?P<by>F)(?P<cue>[xy])(?P<field>U)(?P<rest>{_REST})", _extreme),
        (rf"(?P<k>N)?(?P<field>U)h?(?P<cue>[ml])(?P<by>F)(?P<rest>{_REST})", _extreme),
        (rf"(?P<stat>s)(?P<field>F)(?P<rest>{_REST})", _stats),
        (rf"(?P<stat>s)(?P<field>F)(?P<rest>{_REST})p(?P<group>{_F})h?(?P<more>{_REST})", _stats),
        (rf"p(?P<group>{_F})h?(?P<stat>s)(?P<field>F)(?P<rest>{_REST})", _stats),
        (rf"(?P<k>N)?(?P<group>{_F})h?(?P<cue>[xymlfg])(?P<stat>s)(?P<field>F)(?P<rest>{_REST})", _stats),
        (rf"(?:k(?P<k>N)|(?P<top>k))(?P<group>{_F})p(?P<stat>s)(?P<field>F)(?P<rest>{_REST})", _stats),
        (rf"c(?P<rest>{_SOME})h(?P<has>{_F})", _having),
        (rf"r(?P<rest>{_SOME})", _share),
        (rf"c(?P<rest>{_SOME})", _count),
        (r"(?P<field>[FU])(?P<itself>h?[SXt]Q)", _list_itself),
        (rf"(?P<field>{_F})(?:a{_F})?(?P<rest>{_TRUE})", _list),
        (rf"(?P<rest>v?[VQ])(?P<field>{_F})", _list),
        (r"(?P<key>V)", _setting),
    )
)
_ONE = re.compile(rf"(?P<one>{_CONDITION})|[auhnU]")


def _conditions(tokens: list[Token], profile: Profile) -> list[Condition]:
    """What the records must meet, in the order of the question. "errors and warnings" are the records of both."""
    symbols = "".join(token.symbol[0] for token in tokens)
    tests: list[Condition] = []
    joint = ""
    for found in _ONE.finditer(symbols):
        if not found["one"]:
            joint = found[0] if found[0] in "au" else joint
            continue
        words = tokens[found.start() : found.end()]
        if symbols[found.end() :][:1] in ("n", "E") and len(words) > 1 and _says_how_many(words):
            raise Unclear(f"{words[-1].text} {tokens[found.end()].text} may be how many there are, not a value")
        if "z" in found["one"]:
            tests += _between(words)
            joint = ""
            continue
        test = _condition(words, profile)
        is_alternative = bool(joint) and bool(tests) and words[0].symbol in "VE" and test[:2] == tests[-1][:2]
        if is_alternative and test.operator == "=":
            tests[-1] = tests[-1]._replace(values=tests[-1].values + test.values)
        elif joint == "u" or any(test.field == old.field and _clash(test, old) for old in tests):
            raise Unclear(f"it is not clear how {words[-1].text!r} goes with what stands before it")
        else:
            tests.append(test)
        joint = ""
    return tests


def _says_how_many(words: list[Token]) -> bool:
    """Whether a condition ends as in `cities have more than 100 rows`; `status >= 500 records` is another matter."""
    return words[-1].symbol == "N" and words[-2].symbol.startswith("o") and bool(words[-2].text.strip("<>=!"))


def _clash(one: Condition, other: Condition) -> bool:
    if one.field == "word":
        return False  # a line has many words
    return "=" in (one.operator, other.operator) and {one.operator, other.operator} <= {"=", "!="}


def _between(tokens: list[Token]) -> list[Condition]:
    name, limits = _field(tokens[0]), [token.text for token in tokens if token.symbol == "N"]
    return [Condition(name, ">=", (limits[0],)), Condition(name, "<=", (limits[1],))]


_TEXT_OPERATORS = {"t": "~", "S": "^=", "X": "$="}


def _condition(tokens: list[Token], profile: Profile) -> Condition:
    kinds = {token.symbol[0]: token for token in tokens}
    holder = next((kinds[symbol] for symbol in "FUB" if symbol in kinds), None)
    is_not = "v" in kinds
    comparison = kinds["o"].text.casefold() if "o" in kinds else ""
    if holder is not None and holder.symbol == "U" and comparison in DIMENSIONS:
        holder = Token("F", comparison, (_dimension(comparison, profile),))
    value = next((kinds[symbol] for symbol in "VNQE" if symbol in kinds), None)
    if value is None and holder is not None:
        if tokens[-1].symbol == "j" and tokens[-1].text.casefold() not in ("missing", "empty"):
            raise Unclear(f"the question does not say what {holder.text} have none of")
        return _without_value(holder, kinds, is_not, profile)
    assert value is not None, "every other form has a value"
    if holder is not None and holder.symbol == "U" and value.symbol == "V" and holder.fields[0] not in value.values:
        holder = None  # `python packages`: the noun names the records
    if holder is None:
        is_text = value.symbol.startswith("Q")
        test = Condition("line", _text_operator(value), (value.text,)) if is_text else _by_value(value)
        return _negated(test) if is_not else test
    name = _field(holder)
    operator = kinds["o"].symbol[1:] if "o" in kinds else ""
    operator = operator or next((_TEXT_OPERATORS[symbol] for symbol in "tSX" if symbol in kinds), "=")
    operator = _text_operator(value) if operator == "~" else operator
    if operator in (">", ">=", "<", "<=") and number(value.text) is None:
        raise Unclear(f"{name} {operator} needs a number, not {value.text!r}")
    if value.symbol == "N" and (operator not in ("=", "!=") or (holder.symbol == "U" and name not in value.values)):
        known = profile["fields"].get(name)
        if holder.symbol == "U" or (known and not known["numeric"] and "config" not in profile["kinds"]):
            raise Unclear(f"{name} is not a number in every record")
    values: tuple[str, ...] = (value.text,)
    if value.symbol not in ("N", "Q", "Qw") and operator not in ("^=", "$="):
        if name not in value.values:
            fields = ", ".join(value.values) or "no field"
            raise Unclear(f"{value.text!r} was not seen as a value of {name}, but of {fields}")
        values = _spellings(value.values[name])
    test = Condition(name, operator, values)
    return _negated(test) if is_not else test


def _text_operator(value: Token) -> str:
    """Quoted text is found as it stands, a plain word in any case."""
    return "*=" if value.symbol == "Qw" else "~"


def _without_value(holder: Token, kinds: dict[str, Token], is_not: bool, profile: Profile) -> Condition:
    """`negative latitude`, `without a homepage`, `essential`."""
    name = _field(holder)
    if "w" in kinds:
        return Condition(name, "<" if kinds["w"].text.casefold() == "negative" else ">", ("0",))
    if "j" in kinds:
        return Condition(name, "!=", (ANY,))
    return Condition(name, "=", (yes_value(profile["fields"][name]["values"], not is_not),))


def _negated(test: Condition) -> Condition:
    opposite = {"=": "!=", "!=": "=", ">": "<=", "<": ">=", ">=": "<", "<=": ">"}.get(test.operator)
    if opposite is None or len(test.values) > 1:
        raise Unclear("what is left out is not clear")
    return test._replace(operator=opposite)


def _by_value(token: Token) -> Condition:
    """A value without its field: clear only when one field has it."""
    fields = token.fields
    spelled = {tuple(sorted(value.casefold() for value in token.values.get(name, []))) for name in fields}
    if len(fields) > 1 and len(spelled) == 1 and all(re.fullmatch(r"word\d", name) for name in fields):
        return Condition("word", "=", _spellings(token.values[fields[0]]))  # anywhere in a log line
    if len(fields) > 1:
        tries = tuple(f"where={show_where([Condition(name, '=', tuple(_values(token, name)))])}" for name in fields)
        raise Unclear(f"{token.text!r} is a value of several fields: {', '.join(fields)}", tries)
    if not fields:
        raise Unclear(f"no field of the records says what is meant by {token.text!r}")
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
        raise Unclear(f"{token.text!r} can be any of the fields {', '.join(token.fields)}", tries)
    return token.fields[0]
