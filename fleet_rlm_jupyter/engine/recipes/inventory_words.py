"""Questions about what there is in Python files: how many, where the most, the longest, which of a sort."""

from __future__ import annotations

import re

from fleet_rlm_jupyter.engine.recipes.plan import RecipePlan

_UNIT = r"(?P<unit>class(?:es)?|functions?|methods?|modules?|files?|imports?|constants?)"
_UNITS = {"class": "classes", "files": "modules", "file": "modules"}
_NAME = r"[\"'`“]?(?P<name>[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)(?:\(\))?[\"'`”]?"
_WHERE = (
    r"(?:\s+(?:in|of|across)\s+(?:the|this|these|all)\s+(?:python\s+)?(?:standard\s+library|library|code|codebase|sources?"
    r"|folder|files?|modules?|project|repository|package|context))?(?:\s+(?:in\s+total|altogether|overall))?"
)
_END = r"\s*(?:,?\s*please)?\s*[?.!]*\s*\Z"
_FILE = r"(?P<file>[\w/]+\.py)"
_THERE = (
    r"(?:\s+(?:are\s+there|there\s+are|exist|are\s+(?:defined|declared)"
    r"|does\s+(?:the|this)\s+\w+\s+(?:have|define|contain)))?"
)
_THE_FILE = r"(?:the\s+)?(?:module\s+|file\s+)?"
_IN_FILE = (
    rf"(?:\s+(?:in|of)\s+{_THE_FILE}{_FILE}"
    rf"|\s+does\s+{_THE_FILE}{_FILE.replace('<file', '<other')}\s+(?:have|define|contain))?"
)
_SORTS = {
    "async=yes": r"async(?:hronous)?|coroutines?",
    "generator=yes": r"generators?",
    "private=yes": r"private",
    "private=no": r"public",
}
_SORT = "|".join(f"(?P<s{at}>{words})" for at, words in enumerate(_SORTS.values()))
_LACKS = (
    r"(?:(?P<lacks>(?:have|has|with)\s+no|without(?:\s+(?:a|any))?|lacks?(?:\s+a)?"
    r"|(?:do|does)(?:n't|\s+not)\s+have\s+a)|(?:have|has|with)\s+a)\s+docstrings?"
)
_DECORATED = rf"(?:are\s+|is\s+)?decorated\s+(?:with|by)\s+@?{_NAME}"
_ASK = r"(?:which|what|list|show|find|name)\s+(?:me\s+)?(?:are\s+)?(?:all\s+)?(?:the\s+)?"
_MANY = r"(?:how\s+many|count(?:\s+the)?|(?:what\s+is\s+)?the\s+number\s+of)\s+"
_THAT = r"(?:\s+(?:that|which))?\s+"
_SORTED = re.compile(
    rf"(?P<ask>{_ASK}|{_MANY})(?:(?:{_SORT})\s+)?{_UNIT}{_THERE}"
    rf"(?:{_THAT}(?:(?:are\s+)?(?:{_SORT.replace('<s', '<t')})|{_LACKS}|{_DECORATED}))?"
    rf"{_THERE}{_IN_FILE}{_WHERE}{_END}",
    re.IGNORECASE,
)
_MOST = re.compile(
    r"(?:which|what)\s+(?P<of>module|file|class|function|method)\s+(?:has|defines|contains|declares|takes|is)\s+(?:the\s+)?"
    r"(?:(?P<rank>most|fewest|least)\s+(?P<what>class(?:es)?|functions?|methods?|lines(?:\s+of\s+code)?|parameters|arguments"
    r"|imports|constants)|(?P<size>longest|shortest|biggest|largest|smallest))" + _WHERE + _END,
    re.IGNORECASE,
)
_LONGEST = re.compile(
    r"(?:what|which)\s+(?:is|are)\s+the\s+(?:(?P<k>\d+)\s+)?(?P<size>longest|shortest)\s+(?P<of>module|file|class|function|method)s?"
    + _WHERE
    + _END,
    re.IGNORECASE,
)
_METHODS = re.compile(
    rf"(?:{_ASK}methods\s+(?:does|do)\s+(?:the\s+)?(?:class\s+)?{_NAME}\s+(?:have|define|declare|implement|offer)"
    rf"|{_ASK}methods\s+(?:of|in|on)\s+(?:the\s+)?(?:class\s+)?{_NAME.replace('<name', '<other')}"
    rf"|how\s+many\s+(?P<many>methods)\s+does\s+(?:the\s+)?(?:class\s+)?"
    rf"{_NAME.replace('<name', '<third')}\s+(?:have|define))" + _WHERE + _END,
    re.IGNORECASE,
)


def inventory_plan(question: str) -> RecipePlan | None:
    """The plan for a question that is, from its first word to its last, about what Python files define."""
    asked = question.strip()
    if found := _METHODS.match(asked):
        name = found["name"] or found["other"] or found["third"]
        slots = {"unit": "methods", "where": f"within={name}"}
        return RecipePlan(
            "count" if found["many"] else "list", {**slots, **({} if found["many"] else {"field": "name"})}, question
        )
    for form in (_MOST, _LONGEST):
        if found := form.match(asked):
            return _ranked(found.groupdict(), question)
    if found := _SORTED.match(asked):
        return _sorted(found, question)
    return None


def _unit(word: str) -> str:
    low = word.casefold()
    return _UNITS.get(low, low if low.endswith("s") else low + "s")


def _ranked(given: dict[str, str | None], question: str) -> RecipePlan | None:
    of, what = _unit(str(given["of"])), (given.get("what") or "").casefold()
    order = (
        "lowest"
        if (given.get("rank") or given.get("size") or "").casefold() in ("fewest", "least", "shortest", "smallest")
        else "highest"
    )
    k = {"k": str(given["k"])} if given.get("k") else {}
    if given.get("size") or what.startswith("lines"):
        by = "lines"
    elif what in ("parameters", "arguments") and of in ("functions", "methods"):
        by = "parameters.count"
    elif what in ("classes", "class", "functions", "function", "methods", "method") and of == "modules":
        by = f"{_unit(what)}.count"
    elif what.startswith("method") and of == "classes":
        by = "methods.count"
    else:
        return None
    return RecipePlan("top_k", {"unit": of, "by": by, "order": order, "field": "name", **k}, question)


def _sorted(found: re.Match[str], question: str) -> RecipePlan | None:
    unit = _unit(found["unit"])
    tests = [test for at, test in enumerate(_SORTS) if found[f"s{at}"] or found[f"t{at}"]]
    is_docstring = "docstring" in found[0].casefold()
    if is_docstring:
        tests.append("docstring=no" if found["lacks"] else "docstring=yes")
    if found["name"]:
        tests.append(f"decorators*={found['name']}")
    if any(test[:5] in ("async", "gener") for test in tests) and unit not in ("functions", "methods"):
        return None
    if (tests and unit in ("imports", "constants")) or (
        unit == "modules" and [t for t in tests if not t.startswith("doc")]
    ):
        return None
    if file := found["file"] or found["other"]:
        tests.append(f"file$={file}")
    where = {"where": " and ".join(tests)} if tests else {}
    is_many = re.match(_MANY, found["ask"], re.IGNORECASE) is not None
    if is_many:
        kinds = {"field": "kind"} if unit == "functions" else {}
        return RecipePlan("group_by" if kinds else "count", {"unit": unit, **kinds, **where}, question)
    return RecipePlan("list", {"unit": unit, "field": "name", **where}, question)
