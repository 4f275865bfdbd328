"""What the context is: kinds of files, fields, values that the question names. Runs in the sandbox."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import TypedDict

from fleet_rlm_jupyter.engine.recipes.records import (
    DELIMITERS,
    RECORD_KINDS,
    Piece,
    Row,
    kind_of,
    lines_of,
    number,
    read_rows,
)


class Field(TypedDict):
    """What a sample shows of a field. `values` is empty when there are more than 40 different ones."""

    seen: int
    numeric: bool
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
    for word in wanted:
        if word not in found:
            note(mentions(records, word), {word}, found)
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
    """Up to some thousand records, from blocks spread over the files."""
    step = max(1, len(pieces) // 20)
    rows: list[Row] = []
    for piece in pieces[::step]:
        blocks = 10 if len(pieces) < 5 else 2
        for at in range(0, len(piece.text), max(1, len(piece.text) // blocks, 16384)):
            rows.extend(row for row in read_rows(block(piece, at)) if row.fields is not None)
    return rows


def block(piece: Piece, at: int) -> Piece:
    """About 16,000 characters of whole lines from `at` on; CSV keeps its header."""
    start = piece.text.rfind("\n", 0, at) + 1
    end = piece.text.find("\n", start + 16384)
    text = piece.text[start : end if end >= 0 else None]
    if start and piece.kind in DELIMITERS:
        text = lines_of(piece.text[:65536])[0] + "\n" + text
    return piece._replace(text=text)


def fields_of(rows: list[Row]) -> dict[str, Field]:
    """The fields of a sample, at most 60, the most frequent first."""
    values: dict[str, Counter[str]] = {}
    for row in rows:
        for name, value in (row.fields or {}).items():
            values.setdefault(name, Counter())[value] += 1
    common = sorted(values, key=lambda name: -values[name].total())[:60]
    return {
        name: {
            "seen": values[name].total(),
            "numeric": sum(n for value, n in values[name].items() if number(value) is not None)
            >= 0.95 * values[name].total(),
            "values": [value[:40] for value, _ in values[name].most_common()] if len(values[name]) <= 40 else [],
        }
        for name in common
    }


def candidates(question: str) -> dict[str, None]:
    """Words of the question, and up to three in a row, that could be values; lower case, singular too."""
    words = re.findall(r"/?[\w@][\w.\-/@:]*", re.sub(r"([\"'`]).*?\1", " ", question).casefold())[:60]
    words = [word.rstrip(".:") for word in words]
    runs = [" ".join(words[i : i + n]) for n in (1, 2, 3) for i in range(len(words) - n + 1)]
    singular = [run[:-1] for run in runs if len(run) > 3 and run.endswith("s")]
    return dict.fromkeys(run for run in runs + singular if len(run) > 2 or run.isdigit())


def note(rows: list[Row], wanted: dict[str, None] | set[str], found: dict[str, dict[str, list[str]]]) -> None:
    """Add to `found` which fields of `rows` have a wanted word as their whole value, and how it is spelled there."""
    for row in rows:
        for name, value in (row.fields or {}).items():
            word = value.strip().casefold()
            if word in wanted:
                spellings = found.setdefault(word, {}).setdefault(name, [])
                if value not in spellings and len(spellings) < 6:
                    spellings.append(value)


def mentions(pieces: list[Piece], word: str) -> list[Row]:
    """Up to 200 records on lines that mention `word`."""
    rows: list[Row] = []
    for piece in pieces:
        lower = piece.text.lower()
        if len(lower) != len(piece.text):
            lower = piece.text
        at = lower.find(word)
        while at >= 0 and len(rows) < 200:
            start, end = piece.text.rfind("\n", 0, at) + 1, piece.text.find("\n", at)
            end = end if end >= 0 else len(piece.text)
            line = piece.text[start:end]
            if piece.kind in DELIMITERS:
                line = lines_of(piece.text[:65536])[0] + "\n" + line
            rows.extend(row for row in read_rows(piece._replace(text=line)) if row.fields is not None)
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
