"""Conditions on the fields of a record: read, shown and tested. Standard library only; runs in the sandbox."""

from __future__ import annotations

import json
import re
from typing import NamedTuple

ANY = "*"
"""As a value: the field has one, whichever; with != it has none."""


class Condition(NamedTuple):
    """One condition: `field` `operator` one of `values`."""

    field: str
    operator: str
    values: tuple[str, ...]


_VALUE = r'"(?:[^"\\]|\\.)*"|[^\s"|]+'
_NAME_OR_TEXT = r'"(?:[^"\\]|\\.)*"|[^\s"=!<>~|^$*]+'
CONDITION = re.compile(rf"\s*({_NAME_OR_TEXT})\s*(!=|>=|<=|\^=|\$=|\*=|=|>|<|~)\s*((?:{_VALUE})(?:\|(?:{_VALUE}))*)\s*")
ONE_VALUE = re.compile(_VALUE)
PLAIN_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?\Z")
AND = re.compile(r"and\s+", re.IGNORECASE)


def parse_where(text: str) -> list[Condition]:
    """`field=value|other and field>=number and line~"part of it" and field^=start`. Raises ValueError otherwise."""
    tests: list[Condition] = []
    at = 0
    while text.strip() and at <= len(text):
        if tests:
            joint = AND.match(text, at)
            if joint is None:
                raise ValueError(f"the condition {text[at:]!r} cannot be read")
            at = joint.end()
        found = CONDITION.match(text, at)
        if found is None:
            raise ValueError(f"the condition {text[at:]!r} cannot be read")
        values = tuple(bare(value) for value in ONE_VALUE.findall(found[3]))
        if found[2] in (">", ">=", "<", "<=") and (len(values) != 1 or number(values[0]) is None):
            raise ValueError(f"{found[2]} needs one number, not {found[3]!r}")
        tests.append(Condition(bare(found[1]), found[2], values))
        at = found.end()
        if at == len(text):
            break
    return tests


def bare(value: str) -> str:
    return str(json.loads(value)) if value.startswith('"') else value


def show_where(tests: list[Condition]) -> str:
    """The text that parse_where reads."""
    shown = [
        f"{quoted(test.field, _FIELD_NAME)}{test.operator}{'|'.join(quoted(v, _PLAIN) for v in test.values)}"
        for test in tests
    ]
    return " and ".join(shown)


_FIELD_NAME = re.compile(r'[^\s"=!<>~|^$*]+\Z')
_PLAIN = re.compile(r'[^\s"|=<>~]+\Z')


def quoted(text: str, plain: re.Pattern[str]) -> str:
    return text if plain.match(text) else json.dumps(text)


def number(text: str | None) -> float | None:
    """The number that a value is, or None; nan and infinity are none."""
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if value - value == 0 else None


def holds(test: Condition, value: str | None) -> bool:
    """Whether a value meets a condition: `~` minds case, the others do not; a missing value meets only `!=*`."""
    if test.values == (ANY,) and test.operator in ("=", "!="):
        return bool(value and value.strip()) == (test.operator == "=")
    if value is None:
        return False
    if test.operator == "~":
        return any(wanted in value for wanted in test.values)
    if test.operator in ("^=", "$=", "*="):
        low, ends = value.strip().casefold(), tuple(wanted.casefold() for wanted in test.values)
        if test.operator == "*=":
            return any(text in low for text in ends)
        return low.startswith(ends) if test.operator == "^=" else low.endswith(ends)
    if test.operator in ("=", "!="):
        return any(same(wanted, value) for wanted in test.values) == (test.operator == "=")
    given, limit = number(value), number(test.values[0])
    if given is None or limit is None:
        return False
    return {">": given > limit, ">=": given >= limit, "<": given < limit, "<=": given <= limit}[test.operator]


def same(wanted: str, value: str) -> bool:
    if wanted == value or (" | " in value and any(same(wanted, item) for item in value.split(" | "))):
        return True
    value = value.strip()
    if wanted.casefold() == value.casefold():
        return True
    # 500 and 500.0 are the same; 007 and 7 need not be.
    return bool(PLAIN_NUMBER.match(wanted) and PLAIN_NUMBER.match(value)) and number(wanted) == number(value)
