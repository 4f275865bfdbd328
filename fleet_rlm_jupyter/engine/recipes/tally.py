"""Counting: count, group_by and top_k over pieces, and merging what the parts counted. Runs in the sandbox."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TypedDict

from fleet_rlm_jupyter.engine.recipes.conditions import Condition, holds, number, parse_where
from fleet_rlm_jupyter.engine.recipes.inventory import PYTHON_UNITS, python_rows
from fleet_rlm_jupyter.engine.recipes.passages import TEXT_UNITS, units_of
from fleet_rlm_jupyter.engine.recipes.records import LISTED, Line, Piece, Row, lines_of, read_rows, value_of

KEPT_LINES = 20
KEPT_VALUES = 40


class Tally(TypedDict):
    """What a part has counted. `lines` has the first matching lines, by value; `ranked` [number, value, *line]."""

    files: int
    records: int
    unread: int
    first_unread: list[Line]
    matched: int
    absent: int
    not_numbers: int
    counts: dict[str, int]
    lines: dict[str, list[Line]]
    ranked: list[tuple[float, str, str, int, str]]
    others: dict[str, dict[str, int]]


def tally(pieces: list[Piece], slots: dict[str, str]) -> Tally:
    """Read every record once and count what the slots ask for."""
    done = empty_tally()
    done["files"] = sum(piece.first_line == 1 for piece in pieces)
    tests = parse_where(slots.get("where", ""))
    field, by = slots.get("field", ""), slots.get("by", "")
    others: dict[str, Counter[str]] = {test.field: Counter() for test in tests if test.operator == "="}
    counts: Counter[str] = Counter()
    for piece in sorted(pieces, key=lambda piece: (piece.path, piece.first_line)):
        for row in rows_or_lines(piece, slots.get("unit", "records")):
            if row.fields is None:
                done["unread"] += 1
                done["first_unread"] = done["first_unread"] or [shown(piece, row)]
                continue
            done["records"] += 1
            for name, seen in others.items():
                value = value_of(row, name, piece.path)
                if value is not None and (value in seen or len(seen) <= KEPT_VALUES):
                    seen[value] += 1
            if not all(holds(test, value_of(row, test.field, piece.path)) for test in tests):
                value = value_of(row, field, piece.path) if slots.get("order") == "fewest" else None
                if value is not None:
                    counts.update(dict.fromkeys(items_of(row, field, value), 0))  # fewest can be none at all
                continue
            done["matched"] += 1
            value = value_of(row, field, piece.path) if field else ""
            if by:
                rank(done, number(value_of(row, by, piece.path)), value or "", shown(piece, row), slots)
            elif value is None:
                done["absent"] += 1
            else:
                for item in items_of(row, field, value):
                    counts[item] += 1
                    lines = done["lines"].setdefault(item, [])
                    if len(lines) < KEPT_LINES:
                        lines.append(shown(piece, row))
    done["counts"] = dict(counts)
    done["others"] = {name: dict(seen) for name, seen in others.items() if len(seen) <= KEPT_VALUES}
    return trimmed(done, slots)


def items_of(row: Row, field: str, value: str) -> list[str]:
    """The value, or the items of a JSON list, each once."""
    is_list = row.fields is not None and f"{field}.count" in row.fields
    return list(dict.fromkeys(value.split(LISTED))) if is_list else [value]


def empty_tally() -> Tally:
    return {
        "files": 0,
        "records": 0,
        "unread": 0,
        "first_unread": [],
        "matched": 0,
        "absent": 0,
        "not_numbers": 0,
        "counts": {},
        "lines": {},
        "ranked": [],
        "others": {},
    }


def rows_or_lines(piece: Piece, unit: str) -> Iterator[Row]:
    """Records, or what else is counted: plain lines, units of prose, definitions in Python files."""
    if unit == "records":
        yield from read_rows(piece)
        return
    if unit in PYTHON_UNITS:
        yield from python_rows(piece, unit)
        return
    if unit in TEXT_UNITS:
        for line, text in units_of(piece, unit):
            yield Row(line, {}, text)
        return
    for number_, raw in enumerate(lines_of(piece.text), piece.first_line):
        yield Row(number_, {}, raw)


def shown(piece: Piece, row: Row) -> Line:
    raw = row.raw if len(row.raw) <= 300 else row.raw[:300] + "…"
    return (piece.path, row.line, raw)


def rank(done: Tally, value: float | None, label: str, line: Line, slots: dict[str, str]) -> None:
    """Keep the k records with the highest (or lowest) number; equal ones in the order of the text."""
    if value is None:
        done["not_numbers"] += 1
        return
    done["ranked"].append((value, label, *line))
    if len(done["ranked"]) > 4 * wanted(slots) + 100:
        trim_ranked(done, slots)


def wanted(slots: dict[str, str]) -> int:
    return int(slots.get("k", "1"))


def trim_ranked(done: Tally, slots: dict[str, str]) -> None:
    sign = 1 if slots.get("order") == "lowest" else -1
    done["ranked"].sort(key=lambda row: (sign * row[0], row[2], row[3]))
    # One more than asked for shows whether the last one shares its place.
    del done["ranked"][max(20, wanted(slots) + 1) :]


def order_of(counts: dict[str, int], slots: dict[str, str]) -> list[str]:
    """Values by count, most first unless order=fewest; equal ones by name."""
    sign = 1 if slots.get("order") == "fewest" else -1
    return sorted(counts, key=lambda value: (sign * counts[value], value))


def trimmed(done: Tally, slots: dict[str, str]) -> Tally:
    """Example lines are kept for the values that can be shown; counts are all kept."""
    trim_ranked(done, slots)
    first = order_of(done["counts"], slots)[: max(KEPT_VALUES, wanted(slots))]
    done["lines"] = {value: done["lines"][value] for value in first if value in done["lines"]}
    return done


def merge_tallies(parts: list[Tally], slots: dict[str, str]) -> Tally:
    """Add up what the parts counted; example lines in the order of the text."""
    whole = empty_tally()
    counts: Counter[str] = Counter()
    hidden = {name for part in parts for name in wheres(slots) if name not in part["others"]}
    for part in parts:
        whole["files"] += part["files"]
        whole["records"] += part["records"]
        whole["unread"] += part["unread"]
        whole["matched"] += part["matched"]
        whole["absent"] += part["absent"]
        whole["not_numbers"] += part["not_numbers"]
        whole["first_unread"] = sorted(as_lines(whole["first_unread"] + part["first_unread"]))[:1]
        for value, n in part["counts"].items():
            counts[value] += n
        whole["ranked"].extend(part["ranked"])
        for value, lines in part["lines"].items():
            whole["lines"].setdefault(value, []).extend(as_lines(lines))
        for name, seen in part["others"].items():
            if name not in hidden:
                old = whole["others"].setdefault(name, {})
                for value, n in seen.items():
                    old[value] = old.get(value, 0) + n
    whole["counts"] = dict(counts)
    for value, lines in whole["lines"].items():
        whole["lines"][value] = sorted(lines)[:KEPT_LINES]
    return trimmed(whole, slots)


def as_lines(lines: list[Line]) -> list[Line]:
    """Lines that went through JSON come back as lists."""
    return [(path, int(line), text) for path, line, text in lines]


def wheres(slots: dict[str, str]) -> list[str]:
    tests: list[Condition] = parse_where(slots.get("where", ""))
    return [test.field for test in tests if test.operator == "="]
