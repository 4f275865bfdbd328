"""Figures of a numeric field: count, sum, mean, median, least, greatest and quantiles. Runs in the sandbox."""

from __future__ import annotations

import math
from collections import Counter
from typing import TypedDict

from fleet_rlm_jupyter.engine.recipes.conditions import holds, number, parse_where
from fleet_rlm_jupyter.engine.recipes.records import Line, Piece, read_rows, value_of
from fleet_rlm_jupyter.engine.recipes.report import Report, amount, plain
from fleet_rlm_jupyter.engine.recipes.tally import KEPT_LINES, as_lines, shown

KEPT_NUMBERS = 200_000
STATISTICS = ("count", "sum", "mean", "median", "min", "max", "quantiles")


class Numbers(TypedDict):
    """What a part has seen: by group, how often each number (as text) occurs; and the lines of the extremes."""

    files: int
    records: int
    unread: int
    matched: int
    not_numbers: int
    counts: dict[str, dict[str, int]]
    lines: dict[str, list[Line]]


def numbers_of(pieces: list[Piece], slots: dict[str, str]) -> Numbers:
    """Every number of the field, by group. Raises ValueError when there are too many different ones to be exact."""
    done: Numbers = {
        "files": sum(piece.first_line == 1 for piece in pieces),
        "records": 0,
        "unread": 0,
        "matched": 0,
        "not_numbers": 0,
        "counts": {},
        "lines": {},
    }
    tests, field, by = parse_where(slots.get("where", "")), slots["field"], slots.get("by", "")
    counts: dict[str, Counter[str]] = {}
    kept = 0
    for piece in sorted(pieces, key=lambda piece: (piece.path, piece.first_line)):
        for row in read_rows(piece):
            if row.fields is None:
                done["unread"] += 1
                continue
            done["records"] += 1
            if not all(holds(test, value_of(row, test.field, piece.path)) for test in tests):
                continue
            done["matched"] += 1
            value = number(value_of(row, field, piece.path))
            group = value_of(row, by, piece.path) if by else ""
            if value is None or group is None:
                done["not_numbers"] += 1
                continue
            seen = counts.setdefault(group, Counter())
            kept += plain(value) not in seen
            seen[plain(value)] += 1
            lines = done["lines"].setdefault(group, [])
            if len(lines) < KEPT_LINES:
                lines.append(shown(piece, row))
            if kept > KEPT_NUMBERS:
                raise ValueError(f"{field} has more than {KEPT_NUMBERS:,} different numbers")
    done["counts"] = {group: dict(seen) for group, seen in counts.items()}
    return done


def merge_numbers(parts: list[Numbers], slots: dict[str, str]) -> Numbers:
    """Add up what the parts have seen."""
    whole = numbers_of([], slots)
    for part in parts:
        whole["files"] += part["files"]
        whole["records"] += part["records"]
        whole["unread"] += part["unread"]
        whole["matched"] += part["matched"]
        whole["not_numbers"] += part["not_numbers"]
        for group, seen in part["counts"].items():
            old = whole["counts"].setdefault(group, {})
            for value, n in seen.items():
                old[value] = old.get(value, 0) + n
        for group, lines in part["lines"].items():
            whole["lines"][group] = sorted(whole["lines"].get(group, []) + as_lines(lines))[:KEPT_LINES]
    return whole


def figures(seen: dict[str, int]) -> dict[str, float]:
    """The figures of numbers, given as text with how often each occurs. The sum is exact to a float's last digit."""
    ordered = sorted((float(value), n) for value, n in seen.items())
    n = sum(times for _, times in ordered)
    total = math.fsum(value * times for value, times in ordered)
    found = {"count": float(n), "sum": total, "mean": total / n, "min": ordered[0][0], "max": ordered[-1][0]}
    shares = {"median": 50, "p5": 5, "p25": 25, "p75": 75, "p95": 95, "p99": 99}
    return found | {name: quantile(ordered, n, percent) for name, percent in shares.items()}


def quantile(ordered: list[tuple[float, int]], n: int, percent: float) -> float:
    """Linear between the two nearest ranks, as numpy, pandas and spreadsheets have it."""
    rank = (n - 1) * percent / 100
    low = at_rank(ordered, math.floor(rank))
    return low + (at_rank(ordered, math.ceil(rank)) - low) * (rank - math.floor(rank))


def at_rank(ordered: list[tuple[float, int]], rank: int) -> float:
    for value, times in ordered:
        if rank < times:
            return value
        rank -= times
    return ordered[-1][0]


def report_stats(recipe: str, slots: dict[str, str], done: Numbers) -> Report:
    """Word the figures: the one that was asked for first, then all of them; by group, the groups in their order."""
    field, by, of = slots["field"], slots.get("by", ""), slots.get("of", "mean")
    among = f" among records that match {slots['where']}" if slots.get("where") else ""
    if not done["counts"]:
        return Report([f"No record has a number in {field}{among}."], [], [])
    found = {group: figures(seen) for group, seen in done["counts"].items()}
    if of.startswith("p") and of[1:].replace(".", "", 1).isdigit():
        for group, seen in done["counts"].items():
            found[group][of] = quantile(
                sorted((float(v), n) for v, n in seen.items()), sum(seen.values()), float(of[1:])
            )
    asked = "median" if of == "quantiles" else of
    sign = 1 if slots.get("order") == "lowest" else -1
    groups = sorted(found, key=lambda group: (sign * found[group][asked], group))
    if by:
        sentences = said_by_group(slots, found, groups, asked, among)
    else:
        sentences = [f"The {of} of {field}{among} is {rounded(found[''][asked])}." if of != "quantiles" else ""]
        sentences.append(f"{field}: " + ", ".join(f"{name} {rounded(x)}" for name, x in found[""].items()) + ".")
    read = f"{done['matched']:,} of {amount(done['records'], 'record')}"
    sentences.append(f"{read} taken; {done['not_numbers']:,} without a number in {field} left out.")
    if done["unread"]:
        sentences.append(f"{amount(done['unread'], 'record')} could not be read and left out.")
    lines = [line for group in groups[:5] for line in done["lines"].get(group, [])[: 20 if not by else 4]]
    where = {"where": slots["where"]} if slots.get("where") else {}
    return Report([text for text in sentences if text], lines, [where for _ in lines] if where else [])


def said_by_group(
    slots: dict[str, str], found: dict[str, dict[str, float]], groups: list[str], asked: str, among: str
) -> list[str]:
    k = int(slots.get("k", "1"))
    table = [f"{group or '(empty)'}: {rounded(found[group][asked])}" for group in groups]
    sentences: list[str] = []
    order = slots.get("order") or ("highest" if slots.get("k") else "")
    if order:
        tied = [group for group in groups[k:] if found[group][asked] == found[groups[min(k, len(groups)) - 1]][asked]]
        also = f" (as much as the last: {', '.join(tied[:9])})" if tied else ""
        head = f"The {order} {asked} of {slots['field']} by {slots['by']}{among}"
        sentences.append(f"{head}: {'; '.join(table[:k])}{also}.")
    rest = f"; and {len(table) - 30:,} more groups" if len(table) > 30 else ""
    sentences.append(f"The {asked} of {slots['field']} by {slots['by']}{among}: {'; '.join(table[:30])}{rest}.")
    return sentences


def rounded(value: float) -> str:
    """Whole numbers in full, others to four digits after the point, small ones to four that count."""
    if value == int(value):
        return f"{value:,.0f}"
    return f"{value:.4g}" if abs(value) < 0.01 else f"{value:,.4f}".rstrip("0").rstrip(".")
