"""The second look: does one excerpt by itself show a claim? Read anew from the text, without the code that counted."""

from __future__ import annotations

import csv
import datetime
import json
import re

from fleet_rlm_jupyter.engine.recipes.conditions import ANY, Condition, parse_where
from fleet_rlm_jupyter.engine.recipes.records import DELIMITERS


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
    if "usages" in claim:
        return _said(_shows_usage(claim["usages"], claim.get("how", ""), excerpt))
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
    last = re.escape(name.rpartition(".")[2])
    return re.match(rf"(?:class|(?:async\s+)?def)\s+{last}\b|{last}\s*[:=]", excerpt) is not None


def _shows_usage(name: str, how: str, excerpt: str) -> bool:
    """Whether the line has the name; an alias hides it, and then only a no is honest."""
    before = {"raise": r"raise\b.*", "catch": r"except\b.*", "import": r"(?:import|from)\b.*"}.get(how, "")
    after = r"\s*\(" if how == "call" else ""
    return re.search(rf"{before}(?<!\w){re.escape(name.rpartition('.')[2])}(?!\w){after}", excerpt) is not None


def _shows(test: Condition, kind: str, header: str, excerpt: str) -> bool:
    if test.field == "file":
        return True  # the path is not part of the excerpt
    values = _values(test.field, kind, header, excerpt)
    if test.values == (ANY,) and test.operator in ("=", "!="):
        return any(value.strip() for value in values) == (test.operator == "=")
    if test.operator in ("^=", "$=", "*="):
        return any(_has(value.casefold(), test.operator, text.casefold()) for text in test.values for value in values)
    if test.operator == "~":
        return any(wanted in value for wanted in test.values for value in values)
    if test.operator == "=":
        return any(_equal(wanted, value) for wanted in test.values for value in values)
    if test.operator == "!=":
        return bool(values) and not any(_equal(wanted, value) for wanted in test.values for value in values)
    return any(_compares(value, test.operator, test.values[0]) for value in values)


def _has(value: str, operator: str, text: str) -> bool:
    if operator == "*=":
        return text in value
    return value.strip().startswith(text) if operator == "^=" else value.strip().endswith(text)


def _values(field: str, kind: str, header: str, excerpt: str) -> list[str]:
    """What the excerpt can mean by that field; several where the text alone does not decide."""
    if field == "line":
        return [excerpt]
    if field == "word":
        return excerpt.split()
    if field.startswith("word") and field[4:].isdigit():
        return excerpt.split()[int(field[4:]) - 1 : int(field[4:])]
    if kind == "config":
        key, _, value = excerpt.partition("=")
        return {"key": [key.strip()], "value": [value.strip().strip('"')]}.get(field, [])
    if kind in DELIMITERS:
        rows = list(csv.reader([header, *excerpt.splitlines(keepends=True)], delimiter=DELIMITERS[kind]))
        names = [name.strip().lstrip("\ufeff") for name in rows[0]]
        return [rows[1][names.index(field)]] if field in names and len(rows) > 1 and len(rows[1]) == len(names) else []
    if kind == "jsonl":
        return _json_values(field, excerpt)
    if field in ("date", "month", "year", "hour", "weekday"):
        return _dates(field, excerpt)
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


def _dates(field: str, excerpt: str) -> list[str]:
    """What the first date of the excerpt says, by the calendar of the standard library."""
    found = re.search(r"\d{4}.\d\d.\d\d(?:[T ]\d\d)?", excerpt)
    try:
        day = datetime.datetime.fromisoformat(found[0].replace("/", "-")) if found else None
    except ValueError:
        return []
    form = {"date": "%Y-%m-%d", "month": "%Y-%m", "year": "%Y", "hour": "%H", "weekday": "%A"}[field]
    return [day.strftime(form)] if day else []


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
    if value is None and field.endswith(".count"):
        listed = _json_list(field.removesuffix(".count"), excerpt)
        return [] if listed is None else [str(len(listed))]
    if value is None or value == []:
        return []
    if isinstance(value, list):
        items = [one if isinstance(one, str) else json.dumps(one) for one in value]
        return [" | ".join(items), *items]
    return [value if isinstance(value, str) else json.dumps(value)]


def _json_list(field: str, excerpt: str) -> list[object] | None:
    value = json.loads(excerpt)
    for name in field.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value if isinstance(value, list) else None


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
