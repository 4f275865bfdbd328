"""Questions about Python files: the ways in which definitions, subclasses, usages and inventories are asked for."""

from __future__ import annotations

import re

from fleet_rlm_jupyter.engine.recipes.inventory_words import inventory_plan
from fleet_rlm_jupyter.engine.recipes.plan import RecipePlan

_NAME = r"[\"'`“]?(?P<{0}>[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)(?:\(\))?[\"'`”]?"
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
_KIND = r"(?:the\s+)?(?:(?P<kind>class|function|method|constant|variable|exception)\s+)?"
_DEFINITIONS = (
    rf"where(?:\s+is|'s)\s+{_KIND}{_NAME.format('name')}\s+(?:defined|declared|implemented){_WHERE}{_END}",
    rf"(?:which|what)\s+{_FILES}\s+(?:define|defines|declare|declares|implement|implements)\s+"
    rf"{_KIND}{_NAME.format('name')}{_WHERE}{_END}",
    rf"(?:(?:find|show|list)\s+)?(?:me\s+)?(?:all\s+)?(?:the\s+)?definitions?\s+of\s+{_KIND}{_NAME.format('name')}{_WHERE}{_END}",
    rf"what(?:\s+is|'s)\s+(?:the\s+)?value\s+of\s+{_KIND}{_NAME.format('name')}{_WHERE}{_END}",
    rf"(?:what|which)\s+(?:arguments|parameters)\s+does\s+{_KIND}{_NAME.format('name')}\s+(?:take|accept|have|expect)"
    rf"{_WHERE}{_END}",
    rf"(?:what|which)\s+(?:(?:class|classes)\s+)?(?:does|is)\s+{_KIND}{_NAME.format('name')}\s+"
    rf"(?:inherit\s+from|extend|derived?\s+from|subclass|a\s+subclass\s+of){_WHERE}{_END}",
    rf"(?:find|locate)\s+(?:the\s+)?(?P<kind>class|function|method)\s+{_NAME.format('name')}{_WHERE}{_END}",
)
_OF_WHAT = r"(?:the\s+)?(?:(?:function|method|class|exception|constant|variable|module|name|error)\s+)?"
_BLOCKS = r"(?:modules?|files?|functions?|methods?|classes|places|lines|code)"
_ALSO = (
    r"(?:\s*[,.?;]?\s*(?:(?:and\s+)?(?:in\s+|on\s+|from\s+)?(?:which|what)\s+(?:functions?|methods?|modules?|files?|lines?"
    r"|(?:functions?|methods?)\s+and\s+(?:functions?|methods?|modules?))|and\s+where|and\s+how\s+(?:often|many\s+times)"
    r"|(?:with\s+)?line\s+numbers?(?:,?\s*please)?|please))*"
)
_HOW_USED = {
    "raise": (r"raises?", "raised"),
    "catch": (r"(?:catch(?:es)?|handles?)", "(?:caught|handled)"),
    "call": (r"calls?", "called"),
    "import": (r"imports?", "imported"),
    "any": (r"(?:uses?|references?|refers?\s+to|mentions?)", "(?:used|referenced|mentioned)"),
}
_NOUNS = {"call": "calls?", "import": "imports?", "any": "(?:usages?|uses?|references?)"}


def _usage_forms(how: str) -> list[str]:
    verb, participle = _HOW_USED[how]
    name = _OF_WHAT + _NAME.format("name")
    ends = rf"{_WHERE}{_ALSO}{_END}"
    forms = [
        rf"(?:{_ASK}{_BLOCKS}\s+(?:(?:that|which)\s+)?(?:directly\s+)?|(?:who|what)\s+){verb}\s+{name}{ends}",
        rf"where(?:\s+is|'s)\s+{name}\s+(?:being\s+)?{participle}{ends}",
        rf"(?:(?:in|by|from)\s+)?(?:which|what)\s+{_BLOCKS}\s+(?:is|are)\s+{name}\s+{participle}{ends}",
        rf"how\s+(?:often|many\s+times)\s+is\s+{name}\s+{participle}{ends}",
        rf"{name}\s+is\s+{participle}\s+where{ends}",
    ]
    if how in _NOUNS:
        forms.append(
            rf"(?:(?:find|show|list|count|give)\s+(?:me\s+)?|how\s+many\s+)(?:all\s+)?(?:the\s+)?{_NOUNS[how]}\s+(?:of|to)\s+"
            rf"{name}(?:\s+are\s+there)?{ends}"
        )
    return forms


_FORMS = tuple(
    (recipe, how, re.compile(pattern, re.IGNORECASE))
    for recipe, how, patterns in (
        (
            "subclasses",
            "",
            [
                rf"{form}{_NAME.format('base')}(?:\s+(?P<how2>directly|indirectly|transitively))?{_WHERE}{_TAIL}{_END}"
                for form in _SUBCLASSES
            ],
        ),
        ("definitions", "", _DEFINITIONS),
        *(("usages", how, _usage_forms(how)) for how in _HOW_USED),
    )
    for pattern in patterns
)
_NO_NAMES = frozenset(
    [
        "a",
        "an",
        "the",
        "it",
        "this",
        "that",
        "these",
        "those",
        "which",
        "what",
        "any",
        "some",
        "class",
        "classes",
        "of",
        "in",
        "and",
        "is",
        "are",
        "modules",
        "module",
        "functions",
        "function",
        "methods",
        "method",
        "files",
        "file",
        "exceptions",
        "exception",
        "errors",
        "code",
        "most",
        "many",
        *("never", "not", "no", "only", "always", "ever", "often", "rarely", "seldom", "sometimes", "nowhere", "none"),
        *("nothing", "nobody", "anything", "anyone", "everything", "all", "every", "each", "other", "another", "least"),
        *("itself", "themselves", "they", "them", "there", "here", "more", "less", "and", "or", "also", "directly"),
    ]
)


def python_plan(question: str) -> RecipePlan | None:
    """The plan for a question that is, from its first word to its last, about names or definitions in Python files."""
    for recipe, how, form in _FORMS:
        found = form.match(question.strip())
        if found is None:
            continue
        given = {name: text or "" for name, text in found.groupdict().items()}
        name = given.get("base") or given["name"]
        if name in _NO_NAMES:
            continue
        if recipe == "usages":
            return RecipePlan("usages", {"name": name, **({"how": how} if how != "any" else {})}, question)
        if recipe == "definitions":
            kind = _KINDS.get(given["kind"].casefold(), given["kind"].casefold())
            return RecipePlan("definitions", {"name": name, **({"kind": kind} if kind else {})}, question)
        deep = (given.get("how1", "") + given["how2"]).casefold().startswith(("indirect", "transitive"))
        return RecipePlan("subclasses", {"base": name, **({"transitive": "yes"} if deep else {})}, question)
    return inventory_plan(question)


_KINDS = {"method": "function", "variable": "constant", "exception": "class"}
