"""The words of a question as symbols: cues, fields, values, numbers, quotations; what is none of them is unknown."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from fleet_rlm_jupyter.engine.recipes.profile import Profile

LEVEL_FIELDS = frozenset(
    ("level", "severity", "loglevel", "log_level", "log.level", "lvl", "levelname", "severity_text", "severitytext")
)
FAMILIES: dict[str, frozenset[str]] = {
    "error": frozenset(("error", "err", "e")),
    "warning": frozenset(("warning", "warn", "w")),
    "critical": frozenset(("critical", "crit")),
    "fatal": frozenset(("fatal", "f")),
    "info": frozenset(("info", "information", "i")),
    "debug": frozenset(("debug", "d")),
}
SOURCES = frozenset(("service", "component", "module", "logger", "source", "application", "app", "program", "process"))

_PHRASES: dict[str, str] = {
    "total number of": "c",
    "the number of": "c",
    "number of": "c",
    "how many": "c",
    "count of": "c",
    "count": "c",
    "what percentage of": "r",
    "what share of": "r",
    "what fraction of": "r",
    "percentage of": "r",
    "share of": "r",
    "fraction of": "r",
    "distinct": "d",
    "different": "d",
    "unique": "d",
    "highest number of": "m",
    "largest number of": "m",
    "greatest number of": "m",
    "lowest number of": "l",
    "smallest number of": "l",
    "most common": "f",
    "most frequent": "f",
    "most frequently": "f",
    "most often": "f",
    "least common": "g",
    "least frequent": "g",
    "least often": "g",
    "rarest": "g",
    "most": "m",
    "fewest": "l",
    "least": "l",
    "highest": "x",
    "largest": "x",
    "maximum": "x",
    "max": "x",
    "biggest": "x",
    "greatest": "x",
    "lowest": "y",
    "smallest": "y",
    "minimum": "y",
    "min": "y",
    "top": "k",
    "for each": "p",
    "for every": "p",
    "grouped by": "p",
    "broken down by": "p",
    "per": "p",
    "by": "p",
    "each": "p",
    "every": "p",
    "breakdown of": "b",
    "distribution of": "b",
    "histogram of": "b",
    "group by": "b",
    "contain": "t",
    "contains": "t",
    "containing": "t",
    "mention": "t",
    "mentions": "t",
    "mentioning": "t",
    "is not": "o!=",
    "are not": "o!=",
    "not equal to": "o!=",
    "is equal to": "o=",
    "equal to": "o=",
    "equals": "o=",
    "is at least": "o>=",
    "at least": "o>=",
    "is at most": "o<=",
    "at most": "o<=",
    "greater than": "o>",
    "more than": "o>",
    "larger than": "o>",
    "higher than": "o>",
    "over": "o>",
    "above": "o>",
    "less than": "o<",
    "fewer than": "o<",
    "smaller than": "o<",
    "lower than": "o<",
    "under": "o<",
    "below": "o<",
    "and": "a",
    "or": "u",
    **dict.fromkeys(("have", "has", "had", "having", "log", "logs", "logged", "produce", "produces", "produced"), "h"),
    **dict.fromkeys(("appears", "appear", "occurs", "occur", "report", "reports", "reported"), "h"),
    **dict.fromkeys(("line", "lines", "record", "records", "row", "rows", "entry", "entries"), "n"),
    **dict.fromkeys(("log lines", "log entries", "log records", "occurrences"), "n"),
    **dict.fromkeys(
        (
            *("in the log", "in this log", "in the logs", "in the log file", "in this log file", "in total", "in all"),
            *("in the file", "in this file", "in the data", "in this data", "in the csv", "in the dataset"),
            *("in the folder", "in this folder", "in the files", "in these files", "in the text", "in the context"),
            *("are there", "is there", "were there", "overall"),
        ),
        "-",
    ),
}
_PHRASE_LENGTH = max(len(phrase.split()) for phrase in _PHRASES)
_STOPS = frozenset(
    (
        *(
            "the",
            "a",
            "an",
            "of",
            "in",
            "is",
            "are",
            "was",
            "were",
            "do",
            "does",
            "did",
            "there",
            "which",
            "what",
            "whose",
        ),
        *(
            "who",
            "that",
            "with",
            "where",
            "for",
            "from",
            "among",
            "on",
            "at",
            "to",
            "please",
            "show",
            "me",
            "give",
            "list",
        ),
        *("tell", "us", "find", "this", "these", "those", "all", "it", "its", "their", "them"),
    )
)
_OPERATORS = frozenset(("=", "==", "!=", ">", ">=", "<", "<="))
_TOKEN = re.compile(
    r"\"(?P<double>[^\"]+)\"|(?<!\w)'(?P<single>[^']+)'(?!\w)|`(?P<back>[^`]+)`|“(?P<curly>[^”]+)”"
    r"|(?P<operator>[!=<>]=|[=<>])|(?P<number>\d{1,3}(?:,\d{3})+(?![\w.,])|-?\d+(?:\.\d+)?(?![\w.:/\-]))"
    r"|(?P<word>/?[\w@#$%](?:[\w.\-/@:#$%]*[\w@#$%])?)|(?P<mark>[?!.,;:]+)|(?P<other>\S)"
)


class Token(NamedTuple):
    """A word of the question: `symbol` says what it is, `text` how it was written, the rest what it can mean.

    Symbols: c count, r share, d distinct, m most, l fewest, f most frequent, g least frequent, x highest, y lowest,
    k top, p per, b breakdown, t contains, o operator, a and, h verb, n record, F field, V value, E level word,
    u or, N number, Q quotation, ? unknown.
    """

    symbol: str
    text: str
    fields: tuple[str, ...] = ()
    values: Mapping[str, list[str]] = MappingProxyType({})


def tokens_of(question: str, profile: Profile) -> list[Token]:
    """The question without its stop words and marks."""
    raw = _raw(question)
    tokens: list[Token] = []
    at = 0
    while at < len(raw):
        token, length = _longest(raw, at, profile)
        if token.symbol != "-":
            tokens.append(token)
        at += length
    return tokens


def _raw(question: str) -> list[tuple[str, str]]:
    raw: list[tuple[str, str]] = []
    for found in _TOKEN.finditer(question):
        kind, text = str(found.lastgroup), str(found[str(found.lastgroup)])
        if kind == "mark":
            continue
        if kind == "number":
            text = text.replace(",", "")
        raw.append(("quote" if kind in ("double", "single", "back", "curly") else kind, text))
    return raw


def _longest(raw: list[tuple[str, str]], at: int, profile: Profile) -> tuple[Token, int]:
    """The token that covers the most words from `at` on; fields before cues, cues before values."""
    kind, text = raw[at]
    if kind == "quote":
        names = [name for name in profile["fields"] if name == text]
        return (Token("F", text, tuple(names)) if names else Token("Q", text)), 1
    if kind == "number":
        return Token("N", text, values=profile["found"].get(text, {})), 1
    if kind == "operator":
        return Token("o" + ("=" if text == "==" else text), text), 1
    if kind == "other":
        return Token("?", text), 1
    for length in range(min(_PHRASE_LENGTH, len(raw) - at), 0, -1):
        words = raw[at : at + length]
        if all(word[0] == "word" for word in words):
            phrase = " ".join(word[1] for word in words)
            token = _meaning(phrase, raw[at - 1][1].casefold() if at else "", profile)
            if token:
                return token, length
    return Token("?", text), 1


def _meaning(phrase: str, before: str, profile: Profile) -> Token | None:
    """What some words in a row mean, or None."""
    low = phrase.casefold()
    if low in _STOPS:
        return Token("-", phrase)
    fields = fields_named(phrase, profile)
    cue = _PHRASES.get(low)
    family = next(
        (family for family, names in FAMILIES.items() if low in _forms(names - {"e", "w", "f", "i", "d"})), ""
    )
    if fields and (cue == "n" or family):
        return Token("?", phrase, fields)  # a record, a level, or that field: the question does not say
    if fields:
        return Token("F", phrase, fields)
    if low in ("file", "files", "module", "modules") and _has_files(profile):
        return Token("-" if before in ("the", "this", "in", "a") else "F", phrase, ("file",))
    if cue:
        return Token(cue, phrase)
    if family:
        return Token("E", phrase, _level_fields(family, profile), _level_values(family, profile))
    values = next((profile["found"][form] for form in (low, *_singular(low)) if form in profile["found"]), None)
    if values:
        return Token("V", phrase, tuple(values), values)
    return None


def fields_named(phrase: str, profile: Profile) -> tuple[str, ...]:
    """The fields that these words can name; several when the words do not say which."""
    low = phrase.casefold()
    names = _closest(phrase, list(profile["fields"]))
    if not names and low in ("level", "levels", "severity", "severities"):
        return tuple(name for name in profile["fields"] if name.casefold() in LEVEL_FIELDS)
    is_source = low in SOURCES or low.removesuffix("s") in SOURCES
    if is_source and _has_heads(profile) and not any(_is_usual(name, profile) for name in names):
        # A log line names its source without saying so; a pair that few lines have may be part of messages.
        names += [name for name in ("prefix", "bracket1", "bracket2") if _is_usual(name, profile) and name not in names]
    return tuple(names)


def _closest(phrase: str, names: list[str]) -> list[str]:
    """Fields of exactly that name, else but for plural and separators, else but for name or id, else inner ones."""
    asked = _parts(phrase)
    ways: tuple[Callable[[str], bool], ...] = (
        lambda name: name.casefold() == phrase.casefold(),
        lambda name: _same_words(asked, _parts(name)),
        lambda name: _same_words(asked, [word for word in _parts(name) if word not in _SUFFIXES]),
        lambda name: "." in name and _same_words(asked, _parts(name.rpartition(".")[2])),
    )
    return next((found for way in ways if (found := [name for name in names if way(name)])), [])


def _is_usual(name: str, profile: Profile) -> bool:
    return name in profile["fields"] and 2 * profile["fields"][name]["seen"] >= profile["sampled"]


_SUFFIXES = frozenset(("name", "id", "code", "label", "text"))


def _parts(name: str) -> list[str]:
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name)
    return [word for word in re.split(r"[^\w]+|_+", spaced.casefold()) if word]


def _same_words(asked: list[str], named: list[str]) -> bool:
    if len(asked) != len(named) or not asked:
        return False
    return all(
        one == two or two in _singular(one) or one in _singular(two) for one, two in zip(asked, named, strict=True)
    )


def _singular(word: str) -> list[str]:
    forms = [word[:-1]] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else []
    if word.endswith("ies"):
        forms.append(word[:-3] + "y")
    if word.endswith(("ses", "xes", "ches", "shes", "zes")):
        forms.append(word[:-2])
    return forms


def _forms(names: frozenset[str]) -> frozenset[str]:
    return names | {name + "s" for name in names}


def _level_fields(family: str, profile: Profile) -> tuple[str, ...]:
    """Fields that hold such a level; when none does, the one field that is for levels."""
    holding = tuple(_level_values(family, profile))
    if holding:
        return holding
    named = tuple(name for name in profile["fields"] if name.casefold() in LEVEL_FIELDS)
    return named


def _level_values(family: str, profile: Profile) -> dict[str, list[str]]:
    """By field with few values: the spellings of a level; single letters only where a field is for levels."""
    spellings: dict[str, list[str]] = {}
    for name, field in profile["fields"].items():
        known = [*field["values"], *profile["found"].get(family, {}).get(name, [])] if field["values"] else []
        for value in known:
            word = value.strip().casefold()
            is_level = word in FAMILIES[family] and (len(word) > 1 or name.casefold() in LEVEL_FIELDS)
            if is_level and word not in [old.casefold() for old in spellings.get(name, [])]:
                spellings.setdefault(name, []).append(value)
    return spellings


def _has_files(profile: Profile) -> bool:
    return profile["shape"] == "folder" and profile["files"] > 1


def _has_heads(profile: Profile) -> bool:
    return any(kind in ("kv", "log") for kind in profile["kinds"])
