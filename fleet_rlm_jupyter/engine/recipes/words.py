"""The words of a question as symbols: cues, fields, values, numbers, quotations; what is none of them is unknown."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from fleet_rlm_jupyter.engine.recipes.cues import (
    COUNTS,
    FAMILIES,
    LEVEL_FIELDS,
    NUMBERS,
    PHRASE_LENGTH,
    PHRASES,
    SETTING_WORDS,
    SOURCES,
    STOPS,
    TIME_WORDS,
    UNITS,
)
from fleet_rlm_jupyter.engine.recipes.profile import Profile, plain_forms

_TOKEN = re.compile(
    r"\"(?P<double>[^\"]+)\"|(?<!\w)'(?P<single>[^']+)'(?!\w)|`(?P<back>[^`]+)`|“(?P<curly>[^”]+)”"
    r"|(?P<operator>[!=<>]=|[=<>])|(?P<number>\d{1,3}(?:,\d{3})+(?![\w.,])|-?\d+(?:\.\d+)?(?![\w.:/\-]))"
    r"|(?P<word>/?[\w@#$%](?:[\w.\-/@:#$%]*[\w@#$%])?)|(?P<mark>[?!.,;:…]+)|(?P<other>\S)"
)


_ALSO_ASKED = re.compile(
    r"\s*,?\s+and\s+(?:by\s+)?(?:how\s+(?:big|large|long|many|much|old|high|often)|what|which)(?:\s+(?:size|number|value|one|ones))?"
    r"\s+(?:is|are|was|were|does|do|did|has|have)\s+(?:it|they|that|this|those|each)(?:\s+(?:have|has|take|contain|appear|occur))?\s*[?.!]*\s*\Z",
    re.IGNORECASE,
)
"""A second question that every answer to the first one answers: the number is always shown."""


class Token(NamedTuple):
    """A word of the question: `symbol` says what it is, `text` how it was written, the rest what it can mean.

    Symbols: c count, r share, d distinct, m most, l fewest, f most frequent, g least frequent, x highest, y lowest,
    s statistic, k top, p per, b breakdown, t contains, S starts with, X ends with, z between, w sign, j none, v not,
    o operator, a and, u or, h verb, n record, F field, U field that tells records apart, B yes-or-no field, V value,
    E level word, N number, Q quotation (Qw: a word without quotes), ? unknown.
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
        if raw[at] == ("other", "(") and ("other", ")") in raw[at:]:
            end = raw.index(("other", ")"), at)
            tokens.append(_named_by_examples(raw[at + 1 : end], tokens.pop() if tokens else None, profile))
            at = end + 1
            continue
        token, length = _longest(raw, at, profile)
        if tokens and tokens[-1].symbol in ("t", "S", "X") and raw[at][0] == "word" and token.symbol != "-":
            named = raw[at][1].casefold() in ("word", "text", "string", "phrase", "term", "prefix", "letters")
            token, length = Token("-" if named else "Qw", raw[at][1]), 1
        if tokens and tokens[-1].symbol == "N" and raw[at][1].casefold() in UNITS:
            token, length = _unit_token(raw[at][1], profile), 1
        if token.symbol != "-":
            tokens.append(token)
        at += length
    return tokens


def _unit_token(word: str, profile: Profile) -> Token:
    """A unit after a number says nothing when the fields' names have it, and is unknown when none has."""
    is_there = any(word.casefold() in _parts(name) for name in profile["fields"])
    return Token("-" if is_there else "?", word)


def _raw(question: str) -> list[tuple[str, str]]:
    raw: list[tuple[str, str]] = []
    for found in _TOKEN.finditer(_ALSO_ASKED.sub("", re.sub(r"(?<=\w)['’]s\b", "", question))):
        kind, text = str(found.lastgroup), str(found[str(found.lastgroup)])
        if kind == "mark":
            continue
        if kind == "number":
            text = text.replace(",", "")
        raw.append(("quote" if kind in ("double", "single", "back", "curly") else kind, text))
    return raw


def _named_by_examples(raw: list[tuple[str, str]], before: Token | None, profile: Profile) -> Token:
    """`action (install, upgrade, …)`: the one field that has all these values is what the word before means."""
    words = [text.casefold() for _, text in raw if text.casefold() not in (*STOPS, "and", "or", "etc", "e.g", "like")]
    having = [set(profile["found"].get(word, {})) for word in words]
    fields = set[str].intersection(*having) if len(words) > 1 else set[str]()
    text = before.text if before else "("
    if len(fields) != 1 or before is None or before.symbol not in "?F":
        return Token("?", text)
    return Token("F", text, tuple(fields))


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
    for length in range(min(PHRASE_LENGTH, len(raw) - at), 0, -1):
        words = raw[at : at + length]
        if all(word[0] == "word" for word in words):
            phrase = " ".join(word[1] for word in words)
            token = _meaning(phrase, raw[at - 1][1].casefold() if at else "", profile)
            if token:
                return token, length
    meant = _misspelled(text.casefold(), profile)
    return (meant._replace(text=text) if meant else Token("?", text)), 1


def _meaning(phrase: str, before: str, profile: Profile) -> Token | None:
    """What some words in a row mean, or None."""
    low = phrase.casefold()
    if low in STOPS:
        return Token("-", phrase)
    fields = fields_named(phrase, profile)
    cue = PHRASES.get(low)
    family = next(
        (family for family, names in FAMILIES.items() if low in _forms(names - {"e", "w", "f", "i", "d"})), ""
    )
    if fields and (cue == "n" or family):
        return Token("?", phrase, fields)  # a record, a level, or that field: the question does not say
    if fields:
        return _field_token(phrase, fields, profile)
    if low in ("file", "files", "module", "modules") and _has_files(profile):
        return Token("-" if before in ("the", "this", "in", "a") else "F", phrase, ("file",))
    if cue:
        return Token(cue, phrase)
    if low in NUMBERS:
        return Token("N", NUMBERS[low])
    if found := re.fullmatch(r"(\d{1,2}(?:\.\d+)?)(?:st|[nr]d|th)? percentile", low):
        return Token("sp" + found[1], phrase)
    if family:
        return Token("E", phrase, _level_fields(family, profile), _level_values(family, profile))
    values = _values_meant(low, profile)
    return Token("V", phrase, tuple(values), values) if values else None


def _field_token(phrase: str, fields: tuple[str, ...], profile: Profile) -> Token:
    known = profile["fields"].get(fields[0])
    if len(fields) == 1 and known:
        if known["unique"] and not known["numeric"]:
            return Token("U", phrase, fields)
        if yes_value(known["values"], True):
            return Token("B", phrase, fields)
    return Token("F", phrase, fields)


_YES_NO = ({"true", "false"}, {"yes", "no"})


def yes_value(values: Iterable[str], is_yes: bool) -> str:
    """How a yes-or-no field spells yes (or no); "" when it is none."""
    low = {value.casefold() for value in values}
    pair = next((pair for pair in _YES_NO if low and low <= pair), None)
    return "" if pair is None else next(word for word in pair if (word in ("true", "yes")) == is_yes)


def _values_meant(low: str, profile: Profile) -> dict[str, list[str]]:
    """By field, the values that are this word, or of which it is a form; an exact one counts alone in its field."""
    values: dict[str, list[str]] = dict(profile["found"].get(low, {}))
    for form in (*plain_forms(low), *_singular(low)):
        for name, spellings in profile["found"].get(form, {}).items():
            values.setdefault(name, spellings)
    return values


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
    singular = next((word for word in (low, *_singular(low)) if word in TIME_WORDS or word in SETTING_WORDS), "")
    if not names and TIME_WORDS.get(singular) in profile["fields"]:
        return (TIME_WORDS[singular],)
    if not names and singular in SETTING_WORDS and "config" in profile["kinds"]:
        return ("key",)
    if not names and low in ("set to", "is set to") and "config" in profile["kinds"]:
        return ("value",)
    if not names and singular == "name":
        named = [name for name, field in profile["fields"].items() if field["unique"] and not field["numeric"]]
        return tuple(named) if len(named) == 1 else ()
    return tuple(names)


def _closest(phrase: str, names: list[str]) -> list[str]:
    """Fields of exactly that name, else but for plural and separators, else but for name, id or unit, else inner ones.

    Last, a field whose name ends in these words, and counts: "number of X" is the field X_count.
    """
    asked = _parts(phrase)
    counted = asked[2:] if asked[:2] in (["number", "of"], ["count", "of"]) else []
    ways: tuple[Callable[[str], bool], ...] = (
        lambda name: name.casefold() == phrase.casefold(),
        lambda name: _same_words(asked, _parts(name)),
        lambda name: _same_words(asked, _without(_parts(name), _SUFFIXES)),
        lambda name: "." in name and _same_words(asked, _parts(name.rpartition(".")[2])),
        lambda name: bool(counted) and counts_something(name) and _same_words(counted, _without(_parts(name), COUNTS)),
        lambda name: counts_something(name) and _same_words(asked, _without(_parts(name), COUNTS)),
        lambda name: len(_parts(name)) > len(asked) > 0 and _same_words(asked, _ending(name, len(asked))),
    )
    return next((found for way in ways if (found := [name for name in names if way(name)])), [])


def _ending(name: str, length: int) -> list[str]:
    return _without(_parts(name), UNITS)[-length:]


def counts_something(name: str) -> bool:
    """Whether a field says how many there are of something."""
    return bool(set(_parts(name)) & COUNTS)


def _is_usual(name: str, profile: Profile) -> bool:
    return name in profile["fields"] and 2 * profile["fields"][name]["seen"] >= profile["sampled"]


_SUFFIXES = frozenset(("name", "id", "code", "label", "text")) | UNITS


def _without(words: list[str], left_out: frozenset[str]) -> list[str]:
    return [word for word in words if word not in left_out]


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


def _misspelled(word: str, profile: Profile) -> Token | None:
    """The cue, or field, of which a longer word is one slip of the pen away; None when there are several or none."""
    if len(word) < 6 or not word.isalpha():
        return None
    known = [*(phrase for phrase in (*PHRASES, *STOPS) if " " not in phrase), *profile["fields"]]
    near = {other for other in known if len(other) > 5 and _is_one_slip(word, other.casefold())}
    return _meaning(near.pop(), "", profile) if len(near) == 1 else None


def _is_one_slip(one: str, other: str) -> bool:
    """One letter too many, too few or wrong, or two neighbors swapped."""
    if abs(len(one) - len(other)) > 1:
        return False
    start = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    left, right = one[start:], other[start:]
    return (
        left[1:] == right[1:]
        or left == right[1:]
        or left[1:] == right
        or (left[:2] == right[1::-1] and left[2:] == right[2:])
    )


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
