"""The words of an answer: what was found, how it was counted, on which lines it rests. Runs in the sandbox."""

from __future__ import annotations

import json
from collections import Counter
from typing import NamedTuple

from fleet_rlm_jupyter.engine.recipes.classes import Census
from fleet_rlm_jupyter.engine.recipes.records import DELIMITERS, Line, Piece, lines_of
from fleet_rlm_jupyter.engine.recipes.tally import Tally, as_lines, order_of, wanted

SHOWN_LINES = 20
HEADS = {
    "bracket1": "bracket1 is what stands in the first square brackets of a log line.",
    "bracket2": "bracket2 is what stands in the second square brackets of a log line.",
    "prefix": "prefix is the name that a colon or dash sets off at the head of a log line.",
}
CHECK = "Does this excerpt by itself show what is claimed? Answer yes or no.\n"


class Report(NamedTuple):
    """An answer's sentences, the lines it rests on, and for each line what it must show."""

    sentences: list[str]
    lines: list[Line]
    claims: list[dict[str, str]]


def report_tally(recipe: str, slots: dict[str, str], done: Tally) -> Report:
    """Word what count, group_by or top_k have counted."""
    if recipe == "count":
        sentences, lines = said_count(slots, done), as_lines(done["lines"].get("", []))
        claims = [claim(slots, "") for _ in lines]
    elif recipe == "list":
        sentences, lines, claims = said_list(slots, done)
    elif slots.get("by"):
        sentences, lines, claims = said_ranking(slots, done)
    else:
        sentences, lines, claims = said_groups(recipe, slots, done)
    if slots.get("unit", "records") not in ("records", "lines"):
        claims = []  # what is counted is no excerpt that shows it by itself
    return Report(sentences + said_rest(slots, done), lines[:SHOWN_LINES], claims[:SHOWN_LINES])


def claim(slots: dict[str, str], value: str, field: str = "") -> dict[str, str]:
    shown = {"where": slots.get("where", ""), "field": field, "value": value}
    return {name: text for name, text in shown.items() if text}


def said_count(slots: dict[str, str], done: Tally) -> list[str]:
    unit = slots.get("unit", "records")
    noun, plural = {"classes": "class"}.get(unit, unit[:-1]), unit
    if not slots.get("where"):
        what = "" if noun != "record" else " A record is a line that is not blank, a CSV row or a JSON object."
        return [f"{amount(done['records'], noun, plural)} in {amount(done['files'], 'file')}.{what}"]
    part = f" ({share(done['matched'], done['records'])})" if done["records"] else ""
    return [f"{done['matched']:,} of {amount(done['records'], noun, plural)}{part} match {slots['where']}."]


def said_groups(recipe: str, slots: dict[str, str], done: Tally) -> tuple[list[str], list[Line], list[dict[str, str]]]:
    """The table of values with counts and shares; the first of a ranking by name, with those that share its place."""
    field, counts = slots["field"], done["counts"]
    order = order_of(counts, slots)
    among = f" among records that match {slots['where']}" if slots.get("where") else ""
    if not order:
        return [f"No record has a value of {field}{among}."], [], []
    most = 20 if recipe == "group_by" else max(wanted(slots), 5)
    total = done["matched"] - done["absent"]
    table = [f"{value or '(empty)'}: {counts[value]:,} ({share(counts[value], total)})" for value in order[:most]]
    rest = f"; and {len(order) - most:,} more values" if len(order) > most else ""
    if recipe == "group_by":
        sentences = [f"{amount(len(order), 'different value')} of {field}{among}: {'; '.join(table)}{rest}."]
        is_list = sum(counts.values()) > total
        sentences.append(
            f"{total:,} records, each counted for every item it has." if is_list else f"Together {total:,}."
        )
        keep = order[:10]
    else:
        sentences = [first_of(slots, counts, order, among), f"By {field}: {'; '.join(table)}{rest}."]
        keep = order[: wanted(slots)] + [v for v in order[wanted(slots) :] if counts[v] == counts[order[0]]]
    each = max(1, SHOWN_LINES // len(keep))
    lines = [(line, value) for value in keep for line in as_lines(done["lines"].get(value, []))[:each]]
    return sentences, [line for line, _ in lines], [claim(slots, value, field) for _, value in lines]


def first_of(slots: dict[str, str], counts: dict[str, int], order: list[str], among: str) -> str:
    k, rank = wanted(slots), "fewest" if slots.get("order") == "fewest" else "most"
    limit = counts[order[min(k, len(order)) - 1]]
    tied = [value for value in order[k:] if counts[value] == limit]
    if k == 1:
        names = " and ".join([order[0], *tied[:9]]) + (f" and {len(tied) - 9:,} more" if len(tied) > 9 else "")
        verb = "share the place with" if tied else "has"
        sentence = f"{names or '(empty)'} {verb} the {rank} records{among}: {counts[order[0]]:,}"
        return sentence + (" each." if tied else ".")
    tie = f" (as many as the last: {', '.join(tied[:9])}{' …' if len(tied) > 9 else ''})" if tied else ""
    head = f"The {min(k, len(order))} values of {slots['field']} with the {rank} records{among}"
    return f"{head}: {', '.join(order[:k])}{tie}."


def said_list(slots: dict[str, str], done: Tally) -> tuple[list[str], list[Line], list[dict[str, str]]]:
    """The values in the records that match, each once; the lines of the first."""
    field, counts = slots["field"], done["counts"]
    among = f" in records that match {slots['where']}" if slots.get("where") else ""
    if not counts:
        return [f"No value of {field}{among}."], [], []
    names = sorted(counts)
    table = [f"{name} ({counts[name]:,})" if counts[name] > 1 else name for name in names[:200]]
    rest = f"; and {len(names) - 200:,} more" if len(names) > 200 else ""
    sentences = [f"{amount(len(names), 'value')} of {field}{among}: {'; '.join(table)}{rest}."]
    lines = [(line, name) for name in names if name in done["lines"] for line in as_lines(done["lines"][name])[:1]]
    if done["matched"] <= 3:
        sentences += [f"{path}:{at}: {text.strip()}" for (path, at, text), _ in lines]
    return sentences, [line for line, _ in lines], [claim(slots, name, field) for _, name in lines]


def said_ranking(slots: dict[str, str], done: Tally) -> tuple[list[str], list[Line], list[dict[str, str]]]:
    """The records with the highest or lowest number, ties included in the note."""
    k, by, order = wanted(slots), slots["by"], slots["order"]
    rows = done["ranked"]
    if not rows:
        return [f"No record has a number in {by}."], [], []
    table = [
        f"{f'{label} ' if label else ''}{plain(value)} ({path}:{line})" for value, label, path, line, _ in rows[:k]
    ]
    sentences = [f"The {order} {by}{' values' if k > 1 else ''}: {'; '.join(table)}."]
    if len(rows) > k and rows[k][0] == rows[k - 1][0]:
        sentences.append(f"At least one more record has {plain(rows[k][0])}.")
    if slots.get("field"):
        sentences.append(f"Single records are compared; {slots['field']} is shown beside the number.")
    if done["not_numbers"]:
        sentences.append(f"{amount(done['not_numbers'], 'record')} without a number in {by} left out.")
    lines = [(path, line, text) for _, _, path, line, text in rows[:k]]
    if k <= 3:
        sentences += [f"{path}:{line}: {text.strip()}" for path, line, text in lines]
    return sentences, lines, [claim(slots, plain(row[0]), by) for row in rows[:k]]


def said_rest(slots: dict[str, str], done: Tally) -> list[str]:
    """What a reader must know to trust the figure: other spellings, missing fields, unreadable records."""
    sentences = [HEADS[name] for name in (slots.get("field", ""), *done["others"]) if name in HEADS]
    for name, seen in done["others"].items():
        shown = "; ".join(f"{value or '(empty)'} {n:,}" for value, n in Counter(seen).most_common(12))
        sentences.append(f"All values of {name}: {shown}." if shown else f"No record has a field {name}.")
    if done["absent"]:
        sentences.append(f"{amount(done['absent'], 'matching record')} without {slots['field']} left out.")
    if done["unread"]:
        where = ", ".join(f"{path}:{line}" for path, line, _ in done["first_unread"])
        sentences.append(f"{amount(done['unread'], 'record')} could not be read and left out (first: {where}).")
    return sentences


def report_census(recipe: str, slots: dict[str, str], done: Census) -> Report:
    """Word which classes or functions were found, by module."""
    found = done["found"]
    name = slots.get("base") or slots["name"]
    modules = Counter(one["path"] for one in found)
    where = f" in {amount(len(modules), 'module')}"
    is_transitive = slots.get("transitive") == "yes"
    if recipe == "subclasses":
        how = "directly or through other classes" if is_transitive else "directly"
        verb = "subclasses" if len(found) == 1 else "subclass"
        head = f"{amount(len(found), 'class', 'classes')}{where} {verb} {name} {how}"
    else:
        kind = slots.get("kind", "any").replace("any", "class, function or constant")
        head = f"{name} is defined {amount(len(found), 'time')}{where} (as a {kind})"
    ranked = sorted(modules, key=lambda path: (-modules[path], path))
    listed = "; ".join(f"{path} ({modules[path]})" for path in ranked)
    sentences = [f"{head}: {listed}." if found else f"{head}."]
    if recipe == "definitions" and len(found) <= 12:
        sentences += [f"{one['path']}:{one['line']}: `{one['text']}`." for one in found]
    if recipe == "subclasses" and found:
        names = [f"{one['name']} ({one['path']}:{one['line']})" for one in found[:60]]
        more = f"; and {len(found) - 60:,} more" if len(found) > 60 else ""
        sentences.append(f"Classes: {'; '.join(names)}{more}.")
    if recipe == "subclasses" and not is_transitive:
        sentences.append("Bases as written, imports resolved; slot transitive=yes also goes through other classes.")
    sentences.append(
        f"{amount(done['files'], 'Python file')} read; in {done['skipped']:,} of them the name does not occur."
    )
    if done["unparsed"]:
        shown = ", ".join(done["unparsed"][:10]) + (" …" if len(done["unparsed"]) > 10 else "")
        sentences.append(
            f"{amount(len(done['unparsed']), 'file')} with the name that do not parse are left out: {shown}."
        )
    step = max(1, len(found) // SHOWN_LINES)
    picked = found[::step][:SHOWN_LINES]
    # What goes through other classes cannot be seen on one line.
    claims = [] if is_transitive else [{recipe: name, "kind": one["kind"]} for one in picked]
    return Report(sentences, [(one["path"], one["line"], one["text"]) for one in picked], claims)


def check_prompts(report: Report, pieces: list[Piece], most: int = 5) -> dict[int, str]:
    """By line: a question about that line alone, for a second look that sees nothing else."""
    whole = [index for index in range(len(report.claims)) if not report.lines[index][2].endswith("…")]
    by_path = {piece.path: piece for piece in pieces}
    prompts: dict[int, str] = {}
    for index in whole[:: max(1, len(whole) // most)][:most]:
        path, _, excerpt = report.lines[index]
        piece = by_path[path]
        header = lines_of(piece.text[:65536])[0] if piece.kind in DELIMITERS else ""
        given = {"claim": report.claims[index], "kind": piece.kind, "header": header, "excerpt": excerpt}
        prompts[index] = CHECK + json.dumps(given)
    return prompts


def said_checks(report: Report, answers: dict[int, str]) -> list[str]:
    """How the second look went; a line that it does not confirm is named."""
    doubted = [report.lines[index] for index, answer in answers.items() if not answer.strip().lower().startswith("yes")]
    if not answers:
        return []
    sentence = f"{len(answers) - len(doubted)} of {amount(len(answers), 'line')} of evidence confirmed by a second look"
    names = ", ".join(f"{path}:{line}" for path, line, _ in doubted)
    return [f"{sentence}; UNCONFIRMED: {names}." if doubted else f"{sentence}."]


def amount(number: int, noun: str, plural: str = "") -> str:
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %"


def plain(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)


def outcome(report: Report, answers: dict[int, str], parts: int, lost: dict[int, str]) -> str:
    """The answer's text; parts that gave no result come first, since the figures leave them out."""
    sentences = list(report.sentences)
    if lost:
        first = "; ".join(f"part {index + 1}: {reason}" for index, reason in sorted(lost.items())[:3])
        sentences.insert(0, f"INCOMPLETE: {len(lost)} of {parts} parts gave no result and are left out ({first}).")
    if parts:
        sentences.append(f"Counted in {amount(parts, 'part')} by child runs and merged.")
    return " ".join(sentences + said_checks(report, answers))
