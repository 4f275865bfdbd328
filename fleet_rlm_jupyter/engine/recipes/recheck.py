"""The second look: does one excerpt by itself show a claim? Read anew from the text, without the code that counted."""

from __future__ import annotations

import csv
import json
import re

from fleet_rlm_jupyter.engine.recipes.records import DELIMITERS, Condition, parse_where


def recheck(prompt: str) -> str | None:
    """Answer yes or no to a question that ends in a line with claim, kind, header and excerpt; None for other texts."""
    _, _, line = prompt.rstrip().rpartition("\n")
    try:
        given = json.loads(line)
    except ValueError:
        return None
    if not isinstance(given, dict) or not isinstance(given.get("claim"), dict):
        return None
    claim = {str(name): str(value) for name, value in given["claim"].items()}
    kind, header, excerpt = str(given.get("kind")), str(given.get("header")), str(given.get("excerpt"))
    if "subclasses" in claim:
        return _said(_shows_base(claim["subclasses"], excerpt))
    if "definitions" in claim:
        return _said(_shows_definition(claim["definitions"], excerpt))
    try:
        tests = parse_where(claim.get("where", ""))
    except ValueError:
        return None
    if "field" in claim:
        tests.append(Condition(claim["field"], "=", (claim.get("value", ""),)))
    return _said(all(_shows(test, kind, header, excerpt) for test in tests))


def _said(is_shown: bool) -> str:
    return "yes" if is_shown else "no"


def _shows_base(base: str, excerpt: str) -> bool:
    statement = re.match(r"class\s+\w+\s*(?:\[.*?\]\s*)?\((.*)", excerpt, re.DOTALL)
    if statement is None:
        return False
    positional = re.sub(r"\w+\s*=.*", "", statement[1])
    return re.search(rf"(?<!\w){re.escape(base.rpartition('.')[2])}(?![\w.])", positional) is not None


def _shows_definition(name: str, excerpt: str) -> bool:
    return re.match(rf"(?:class|(?:async\s+)?def)\s+{re.escape(name.rpartition('.')[2])}\b", excerpt) is not None


def _shows(test: Condition, kind: str, header: str, excerpt: str) -> bool:
    if test.field == "file":
        return True  # the path is not part of the excerpt
    values = _values(test.field, kind, header, excerpt)
    if test.operator == "~":
        return any(wanted in value for wanted in test.values for value in values)
    if test.operator == "=":
        return any(_equal(wanted, value) for wanted in test.values for value in values)
    if test.operator == "!=":
        return bool(values) and not any(_equal(wanted, value) for wanted in test.values for value in values)
    return any(_compares(value, test.operator, test.values[0]) for value in values)


def _values(field: str, kind: str, header: str, excerpt: str) -> list[str]:
    """What the excerpt can mean by that field; several where the text alone does not decide."""
    if field == "line":
        return [excerpt]
    if field.startswith("word") and field[4:].isdigit():
        return excerpt.split()[int(field[4:]) - 1 : int(field[4:])]
    if kind in DELIMITERS:
        rows = list(csv.reader([header, *excerpt.splitlines(keepends=True)], delimiter=DELIMITERS[kind]))
        names = [name.strip().lstrip("\ufeff") for name in rows[0]]
        return [rows[1][names.index(field)]] if field in names and len(rows) > 1 and len(rows[1]) == len(names) else []
    if kind == "jsonl":
        return _json_values(field, excerpt)
    pairs = re.findall(rf'(?:^|[\s,;]){re.escape(field)}=(?:"((?:[^"\\]|\\.)*)"|(\S*))', excerpt)
    if pairs:
        return [quoted or bare.rstrip(",;") for quoted, bare in pairs]
    if field == "level":
        return re.findall(r"(?<!\w)[A-Za-z]{1,11}(?!\w)", excerpt[:120])
    if field == "prefix":
        return re.findall(r"(?<![^\s:])([\w.\-/@$]+?)(?:\[\d+\])?(?=:|\s+-\s)", excerpt)
    if field.startswith("bracket"):
        return [text.strip() for text in re.findall(r"\[([^\[\]]*)\]", excerpt)]
    return excerpt.split() if field == "host" else []


def _json_values(field: str, excerpt: str) -> list[str]:
    try:
        value = json.loads(excerpt)
    except ValueError:
        return []
    if isinstance(value, dict) and field in value:
        value = value[field]
    else:
        for name in field.split("."):
            value = value.get(name) if isinstance(value, dict) else None
    if value is None:
        return []
    return [value if isinstance(value, str) else json.dumps(value)]


def _equal(wanted: str, value: str) -> bool:
    left, right = wanted.strip().casefold(), value.strip().casefold()
    try:
        return left == right or float(left) == float(right)
    except ValueError:
        return False


def _compares(value: str, operator: str, limit: str) -> bool:
    try:
        left, right = float(value), float(limit)
    except ValueError:
        return False
    return left > right if operator == ">" else left < right if operator == "<" else _at(left, operator, right)


def _at(left: float, operator: str, right: float) -> bool:
    return left >= right if operator == ">=" else left <= right
