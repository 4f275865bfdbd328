"""Questions about Python files: the few ways in which definitions and subclasses are asked for, word by word."""

from __future__ import annotations

import re

from fleet_rlm_jupyter.engine.recipes.plan import RecipePlan

_NAME = r"[\"'`“]?(?P<{0}>[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)[\"'`”]?"
_HOW = r"(?:(?P<how{0}>directly|indirectly|transitively)\s+)?"
_SUBCLASS = (
    r"(?:subclass(?:es|ing)?(?:\s+of)?|extend(?:s|ing)?|inherit(?:s|ing)?\s+from"
    r"|(?:derive(?:s|d)?|deriving)\s+from|(?:is|are)\s+(?:a\s+)?subclass(?:es)?\s+of)"
)
_ASK = (
    r"(?:(?:please\s+)?(?:which|what|list|find|show|name|count|how\s+many)\s+"
    r"(?:me\s+)?(?:are\s+)?(?:all\s+)?(?:the\s+)?)"
)
_FILES = r"(?:python\s+)?(?:modules?|files?|source\s+files?)"
_WHERE = (
    r"(?:\s+(?:are\s+there|there\s+are|exist))?"
    r"(?:\s+in\s+(?:the|this|these)\s+(?:python\s+)?(?:standard\s+library|library|stdlib|code|codebase|code\s+base"
    r"|source|sources|folder|files|modules|tree|project|repository|package|context))?"
)
_TAIL = (
    r"(?:\s*,?\s+and\s+how\s+many(?:\s+(?:such|of\s+them|of\s+these|of\s+those))?"
    r"(?:\s+(?:classes|subclasses|modules))?\s+(?:are\s+there|are\s+they|there\s+are|exist)(?:\s+in\s+(?:total|all))?)?"
)
_END = r"\s*[?.!]*\s*\Z"

_SUBCLASSES = (
    rf"{_ASK}{_FILES}\s+(?:that\s+)?(?:define|defines|contain|contains|declare|declares|have|has)\s+"
    rf"(?:(?:a|any|some|at\s+least\s+one)\s+)?class(?:es)?\s+(?:that\s+|which\s+)?{_HOW.format(1)}{_SUBCLASS}\s+",
    rf"{_ASK}class(?:es)?\s+(?:that\s+|which\s+)?{_HOW.format(1)}{_SUBCLASS}\s+",
    rf"{_ASK}?(?:(?P<how1>direct|indirect|transitive)\s+)?subclasses\s+of\s+",
)
_KIND = r"(?:the\s+)?(?:(?P<kind>class|function|method)\s+)?"
_DEFINITIONS = (
    rf"where(?:\s+is|'s)\s+{_KIND}{_NAME.format('name')}\s+(?:defined|declared|implemented){_WHERE}{_END}",
    rf"(?:which|what)\s+{_FILES}\s+(?:define|defines|declare|declares|implement|implements)\s+"
    rf"{_KIND}{_NAME.format('name')}{_WHERE}{_END}",
    rf"(?:(?:find|show|list)\s+)?(?:me\s+)?(?:all\s+)?(?:the\s+)?definitions?\s+of\s+{_KIND}{_NAME.format('name')}{_WHERE}{_END}",
    rf"(?:find|locate)\s+(?:the\s+)?(?P<kind>class|function|method)\s+{_NAME.format('name')}{_WHERE}{_END}",
)
_FORMS = tuple(
    (recipe, re.compile(pattern, re.IGNORECASE))
    for recipe, patterns in (
        (
            "subclasses",
            [
                rf"{form}{_NAME.format('base')}(?:\s+(?P<how2>directly|indirectly|transitively))?{_WHERE}{_TAIL}{_END}"
                for form in _SUBCLASSES
            ],
        ),
        ("definitions", _DEFINITIONS),
    )
    for pattern in patterns
)
_NO_NAMES = "a an the it this that these those which what any some class classes of in and is are".split()  # noqa: SIM905


def python_plan(question: str) -> RecipePlan | None:
    """The plan for a question that is, from its first word to its last, about definitions or subclasses."""
    for recipe, form in _FORMS:
        found = form.match(question.strip())
        if found is None:
            continue
        given = found.groupdict()
        name = given.get("base") or given.get("name") or ""
        if name.casefold() in _NO_NAMES:
            return None
        if recipe == "definitions":
            kind = {"method": "function"}.get(
                (given.get("kind") or "").casefold(), (given.get("kind") or "").casefold()
            )
            return RecipePlan("definitions", {"name": name, **({"kind": kind} if kind else {})}, question)
        how = ((given.get("how1") or "") + (given.get("how2") or "")).casefold()
        is_transitive = how.startswith(("indirect", "transitive"))
        return RecipePlan("subclasses", {"base": name, **({"transitive": "yes"} if is_transitive else {})}, question)
    return None
