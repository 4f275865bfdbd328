"""Questions about prose: how often a text occurs, what there is how many of, where something is said."""

from __future__ import annotations

import json
import re

from fleet_rlm_jupyter.engine.recipes.passages import WORD
from fleet_rlm_jupyter.engine.recipes.plan import RecipePlan

_QUOTED = r"[\"“'‘`](?P<quoted>[^\"”'’`]+)[\"”'’`]"
_TEXT = (
    r"(?:the\s+)?(?P<what>words?|names?|phrase|term|string|text|expression|sentence)?\s*"
    rf"(?:{_QUOTED}|(?P<bare>[\w\-’']+(?:\s+(?-i:[A-Z])[\w\-]+)*))"
)
_HERE = (
    r"(?:\s+(?:in|within|throughout|across)\s+(?:the|this|these|all(?:\s+of)?(?:\s+the)?)\s+(?:whole\s+|entire\s+)?"
    r"(?:text|texts|book|books|document|documents|file|files|letter|story|license|licence|context|material)|\s+here"
    r"|\s+(?:in|all)\s+(?:total|all))*"
)
_END = r"\s*[?.!]*\s*\Z"
_OCCUR = (
    r"(?:occurs?|appears?|(?:is|are|was|were|get|gets)\s+(?:used|mentioned|named|found|written)|comes?\s+up"
    r"|used|mentioned|named)"
)
_UNIT = r"(?P<unit>words|lines|paragraphs|chapters|sections|verses)"
_OCCURRENCES = tuple(
    re.compile(form + _HERE + _END, re.IGNORECASE)
    for form in (
        rf"how\s+(?:often|many\s+times)\s+(?:does|do|did|is|are|was|were)\s+{_TEXT}\s+{_OCCUR}",
        rf"(?:how\s+many\s+(?:occurrences|mentions|instances)|(?:the\s+)?(?:number|count)\s+of\s+(?:occurrences|mentions)"
        rf"|count\s+(?:all\s+)?(?:the\s+)?(?:occurrences|mentions))\s+of\s+{_TEXT}(?:\s+are\s+there)?",
        rf"count\s+how\s+(?:often|many\s+times)\s+{_TEXT}\s+{_OCCUR}",
        rf"how\s+many\s+lines\s+(?:contain|mention|include|have)\s+{_TEXT}(?:\s+in\s+them)?",
        rf"(?:in\s+|on\s+)?(?:which|what)\s+(?:chapter|section|verse|line|file)\s+(?:is|does|do|are)\s+{_TEXT}\s+(?:first\s+)?{_OCCUR}"
        r"(?:\s+(?:for\s+the\s+)?first(?:\s+time)?)?",
        rf"where\s+(?:is|does|do|are)\s+{_TEXT}\s+(?:first\s+)?{_OCCUR}(?:\s+(?:for\s+the\s+)?first(?:\s+time)?)?",
    )
)
_VERSUS = re.compile(
    r"(?:which|what|who)\s+(?:(?:of\s+the\s+two|word|name|one)\s+)?(?:is\s+)?(?:occurs?|appears?|mentioned|named|used|comes?\s+up)\s+"
    r"(?:more|most)(?:\s+(?:often|frequently))?(?:\s+in\s+(?:the|this)\s+\w+)?\s*[,:]?\s*(?:the\s+words?\s+)?"
    r"[\"“'‘]?(?P<one>[\w\-]+)[\"”'’]?\s+or\s+[\"“'‘]?(?P<other>[\w\-]+)[\"”'’]?" + _HERE + _END,
    re.IGNORECASE,
)
_PASSAGES = re.compile(
    rf"(?:in\s+)?how\s+many\s+(?:verses|paragraphs|passages)\s+(?:mention|contain|include|have|name)\s+{_TEXT}(?:\s+{_OCCUR})?"
    + _HERE
    + _END,
    re.IGNORECASE,
)
_UNITS = re.compile(
    rf"(?:(?:please\s+)?(?:count|tell\s+me)\s+)?(?:how\s+many|the\s+number\s+of)\s+{_UNIT}"
    rf"(?:\s+(?:are\s+there|are\s+in\s+it|there\s+are|does\s+(?:it|(?:the|this)\s+\w+)\s+have|has\s+(?:the|this)\s+\w+"
    rf"|is\s+(?:the|this)\s+\w+))?{_HERE}{_END}",
    re.IGNORECASE,
)
_SEARCH = tuple(
    re.compile(form + _END, re.IGNORECASE)
    for form in (
        r"(?:(?:please\s+)?(?:find|quote|show|list|give)\s+(?:me\s+)?)(?:(?:all|some)\s+)?(?:the\s+)?"
        r"(?:passages?|quotations?|quotes?|paragraphs?|sentences?|places?|lines?|verses?)\s+"
        r"(?:(?:that|which)\s+)?(?:mention(?:s|ing)?|contain(?:s|ing)?|with|about|on|of|say(?:s|ing)?|speak(?:s|ing)?\s+of)\s+(?P<query>.+?)",
        r"(?:which|what)\s+(?:passages?|paragraphs?|sentences?|places?|lines?|verses?|sections?|chapters?|parts?)\s+"
        r"(?:mentions?|contains?|says?|speaks?\s+(?:of|about)|(?:is|are)\s+about|ha(?:s|ve)|deals?\s+with|covers?|discuss(?:es)?"
        r"|describes?|explains?|tells?\s+(?:of|about))\s+(?P<query>(?!(?:the\s+)?(?:most|fewest|least|more|fewer|highest|lowest)\b).+?)",
        r"(?:search|look)\s+(?:for\s+)?(?P<query>.+?)",
        r"what\s+(?:does|do)\s+(?:the|this|it|these)(?:\s+\w+)?\s+say\s+(?:about|on|of)\s+(?P<query>.+?)",
    )
)
_ABOUT = re.compile(
    r"\s*,?\s*(?:according\s+to|in|under|by)\s+(?:the|this)\s+(?:text|book|document|file|letter|story|license|licence|context)\b,?\s*",
    re.IGNORECASE,
)
_ASKS = re.compile(
    r"(?:who|whom|where|when|what|which|how\s+(?:old|long|large|far|tall|much|many|big|deep|wide|high))\b", re.I
)
_JUDGES = frozenset(
    """best better worse worst more most less least should could would can may might must seem seems think believe
    opinion really truly main important moral why summarize summary theme themes tone feel feeling good bad wrong
    right likely probably compare comparison difference similar safe risky typical my our we you your us
    total average median sum percentage percent""".split()  # noqa: SIM905
)
_MEASURES = frozenset("many much old long large far tall big deep wide high".split())  # noqa: SIM905
_PLAIN = frozenset(
    """a an the of in on at to for from by with and or is are was were be been being do does did has have had that
    this these those it its he she they them his her their him who whom whose where when what which how as into
    onto upon there here after before during about any some all text book says say said according exactly name
    named called person people chapter verse line place word please tell me happen happened happens""".split()  # noqa: SIM905
)
LEAST_WORDS = 2


def text_plan(question: str) -> RecipePlan | None:
    """The plan for a question that, from its first word to its last, asks about words, units or passages of a text."""
    asked = question.strip()
    if found := _VERSUS.match(asked):
        return RecipePlan("occurrences", {"text": f"{found['one']}|{found['other']}"}, question)
    if found := _PASSAGES.match(asked):
        return RecipePlan(
            "search", {"query": json.dumps(found["quoted"]) if found["quoted"] else found["bare"]}, question
        )
    for form in _OCCURRENCES:
        if found := form.match(asked):
            text = found["quoted"] or found["bare"]
            if found["quoted"] or found["what"] or text[:1].isupper():
                return RecipePlan("occurrences", {"text": text}, question)
            return None
    if found := _UNITS.match(asked):
        return RecipePlan("count", {"unit": found["unit"].lower()}, question)
    for form in _SEARCH:
        if found := form.match(asked):
            query = _ABOUT.sub(" ", found["query"]).strip()
            words = [word for word in WORD.findall(query) if word.casefold() not in _PLAIN]
            return RecipePlan("search", {"query": _query(query, words), "strict": "yes"}, question) if words else None
    return None


def entry_plan(question: str) -> RecipePlan | None:
    """The lines of a log that have every telling word of a when-question: they begin with the time."""
    return fact_plan(question) if re.match(r"when\b", question.strip(), re.IGNORECASE) else None


def fact_plan(question: str) -> RecipePlan | None:
    """A search for the passage that has every telling word of a who-, where- or what-question; None for opinions.

    What comes of it is a quotation, and nothing at all unless one passage has all the words.
    """
    asked = _ABOUT.sub(" ", question.strip())
    words = WORD.findall(re.sub(r"[\"“][^\"”]*[\"”]", " ", asked))
    low = [word.casefold() for word in words]
    if not _ASKS.match(asked) or _JUDGES & set(low) or "," in asked or ";" in asked or " or " in f" {' '.join(low)} ":
        return None
    telling = [word for word in words if word.casefold() not in _PLAIN | _MEASURES]
    query = _query(asked, telling)
    quoted = query.count('"') // 2
    if len(telling) + quoted < LEAST_WORDS or len(telling) > 12:
        return None
    return RecipePlan("search", {"query": query, "strict": "yes", "k": "5"}, question)


def _query(asked: str, words: list[str]) -> str:
    phrases = [json.dumps(text) for text in re.findall(r"[\"“]([^\"”]+)[\"”]", asked)]
    phrases += [json.dumps(text) for text in re.findall(r"\b\d{4}-\d\d-\d\d\b", asked)]
    quoted = {word for phrase in phrases for word in WORD.findall(phrase)}
    return " ".join([*(word for word in words if word not in quoted), *phrases])
