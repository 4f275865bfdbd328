"""What the context is: kinds of files, fields, values that the question names. Runs in the sandbox."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import TypedDict

from fleet_rlm_jupyter.engine.recipes.conditions import number
from fleet_rlm_jupyter.engine.recipes.records import (
    DELIMITERS,
    LISTED,
    RECORD_KINDS,
    TIMES,
    Piece,
    Row,
    dated,
    kind_of,
    lines_of,
    read_rows,
)

ADDED = re.compile(r"([a-z][^\s:@]*)[:@][^\s:@/]*\Z")
"""What is added to a name behind a colon or an at sign: an architecture, a tag, a port, a host."""


class Field(TypedDict):
    """What a sample shows of a field. `values` is empty for more than 40; a `unique` field tells records apart."""

    seen: int
    numeric: bool
    unique: bool
    values: list[str]


class Profile(TypedDict):
    """What the first step prints. `found` has, for words of the question, the fields that have it as a value."""

    question: str
    question_chars: int
    shape: str
    files: int
    chars: int
    kinds: dict[str, list[int]]
    sampled: int
    fields: dict[str, Field]
    found: dict[str, dict[str, list[str]]]


def pieces_of(context: str | dict[str, str]) -> list[Piece]:
    """The context as files, each with its kind."""
    if isinstance(context, str):
        return [Piece(kind_of("", context), 1, "context", context)]
    return [Piece(kind_of(path, text), 1, path, text) for path, text in context.items()]


def profile(context: str | dict[str, str], question: str) -> Profile:
    """Look at all kinds and sizes, at a sample of records, and at lines that mention words of the question."""
    pieces = pieces_of(context)
    kinds: dict[str, list[int]] = {}
    for piece in pieces:
        files_and_chars = kinds.setdefault(piece.kind, [0, 0])
        files_and_chars[0] += 1
        files_and_chars[1] += len(piece.text)
    records = [piece for piece in pieces if piece.kind in RECORD_KINDS]
    rows = sample(records)
    wanted = candidates(question)
    found: dict[str, dict[str, list[str]]] = {}
    note(rows, wanted, found)
    lowers = [piece.text.lower() for piece in records] if len(found) < len(wanted) else []
    for word in wanted:
        if word not in found:
            note(mentions(records, lowers, word), {word}, found)
    return {
        "question": question[:4000],
        "question_chars": len(question),
        "shape": "text" if isinstance(context, str) else "folder",
        "files": len(pieces),
        "chars": sum(len(piece.text) for piece in pieces),
        "kinds": kinds,
        "sampled": len(rows),
        "fields": fields_of(rows),
        "found": found,
    }


def sample(pieces: list[Piece]) -> list[Row]:
    """Up to some thousand records, from blocks spread over the files. No line is taken twice."""
    step = max(1, len(pieces) // 20)
    rows: list[Row] = []
    for piece in pieces[::step]:
        spread = 10 if len(pieces) < 5 else 2
        reached = 0
        for at in range(0, len(piece.text), max(1, len(piece.text) // spread, 16384)):
            start, end = bounds(piece.text, max(at, reached))
            rows.extend(
                with_words(row, piece) for row in read_rows(cut_out(piece, start, end)) if row.fields is not None
            )
            reached = end + 1
    return rows


def with_words(row: Row, piece: Piece) -> Row:
    """A log line that has no fields gets its first words as word1, word2 …"""
    if piece.kind != "log" or row.fields:
        return row
    return row._replace(fields={f"word{at}": word for at, word in enumerate(row.raw.split()[:8], 1)})


def bounds(text: str, at: int) -> tuple[int, int]:
    """About 16,000 characters of whole lines from `at` on."""
    start = text.rfind("\n", 0, at) + 1
    end = text.find("\n", start + 16384)
    return start, end if end >= 0 else len(text)


def cut_out(piece: Piece, start: int, end: int) -> Piece:
    """Some lines of a piece; CSV keeps its header."""
    header = lines_of(piece.text[:65536])[0] + "\n" if start and piece.kind in DELIMITERS else ""
    return piece._replace(text=header + piece.text[start:end])


def fields_of(rows: list[Row]) -> dict[str, Field]:
    """The fields of a sample, at most 60, the most frequent first."""
    values: dict[str, Counter[str]] = {}
    for row in rows:
        for name, value in (row.fields or {}).items():
            values.setdefault(name, Counter())[value] += 1
        for name in TIMES:
            if name not in (row.fields or {}) and (value := dated(row.raw, name)) is not None:
                values.setdefault(name, Counter())[value] += 1
    values = {name: seen for name, seen in values.items() if name not in TIMES or 2 * seen.total() >= len(rows)}
    common = sorted(values, key=lambda name: -values[name].total())[:60]
    return {
        name: {
            "seen": values[name].total(),
            "numeric": sum(n for value, n in values[name].items() if number(value) is not None)
            >= 0.95 * values[name].total(),
            "unique": len(values[name]) == values[name].total() == len(rows) > 2,
            "values": [value[:40] for value, _ in values[name].most_common()] if len(values[name]) <= 40 else [],
        }
        for name in common
    }


def candidates(question: str) -> dict[str, None]:
    """Words of the question, and up to three in a row, that could be values; lower case, singular too."""
    words = re.findall(r"/?[\w@][\w.\-/@:]*", re.sub(r"([\"'`]).*?\1", " ", question).casefold())[:60]
    words = [word.rstrip(".:") for word in words]
    runs = [" ".join(words[i : i + n]) for n in (1, 2, 3) for i in range(len(words) - n + 1)]
    forms = [form for run in runs for form in plain_forms(run)]
    return dict.fromkeys(run for run in runs + forms if len(run) > 2 or run.isdigit())


def plain_forms(word: str) -> list[str]:
    """What a word can be an English form of: upgrades, upgraded and upgrading are of upgrade."""
    forms: list[str] = []
    for ending, put in (("ies", "y"), ("es", ""), ("s", ""), ("ed", ""), ("d", ""), ("ing", ""), ("ing", "e")):
        if word.endswith(ending) and len(word) - len(ending) >= 3 and not word.endswith("ss"):
            forms.append(word[: -len(ending)] + put)
    return forms


def note(rows: list[Row], wanted: dict[str, None] | set[str], found: dict[str, dict[str, list[str]]]) -> None:
    """Add to `found` which fields of `rows` have a wanted word as their whole value, and how it is spelled there."""
    for row in rows:
        for name, value in (row.fields or {}).items():
            for item in value.split(LISTED):
                word = item.strip().casefold()
                word = word if word in wanted else ADDED.sub(r"\1", word)  # bash:amd64 is a bash
                spellings = found.setdefault(word, {}).setdefault(name, []) if word in wanted else None
                if spellings is not None and item not in spellings and len(spellings) < 6:
                    spellings.append(item)


def mentions(pieces: list[Piece], lowers: list[str], word: str) -> list[Row]:
    """Up to 200 records on lines that mention `word`; `lowers` are the texts in lower case."""
    rows: list[Row] = []
    for piece, lower in zip(pieces, lowers, strict=True):
        if len(lower) != len(piece.text):
            lower = piece.text
        at = lower.find(word)
        while at >= 0 and len(rows) < 200:
            start, end = piece.text.rfind("\n", 0, at) + 1, piece.text.find("\n", at)
            end = end if end >= 0 else len(piece.text)
            read = read_rows(cut_out(piece, start, end))
            rows.extend(with_words(row, piece) for row in read if row.fields is not None)
            at = lower.find(word, end)
    return rows


def fitted(shown: Profile, limit: int = 9000) -> str:
    """The profile as one line of JSON that is not cut off when it is shown: long lists of values go first."""
    for most in (40, 20, 8, 0):
        fields: dict[str, Field] = {
            name: {**field, "values": field["values"][:most]} for name, field in shown["fields"].items()
        }
        line = json.dumps({**shown, "fields": fields})
        if len(line) <= limit:
            return line
    return json.dumps({**shown, "question": shown["question"][:2000], "fields": {}, "found": {}})
