"""How text becomes records: log and key=value lines, settings, JSON lines, CSV. Runs in the sandbox."""

from __future__ import annotations

import ast
import csv
import datetime
import json
import re
from collections.abc import Iterator
from typing import NamedTuple

from fleet_rlm_jupyter.engine.recipes.conditions import number

Line = tuple[str, int, str]  # path, line number, text
RECORD_KINDS = ("csv-comma", "csv-semicolon", "csv-tab", "csv-pipe", "jsonl", "kv", "log", "config")
DELIMITERS = {"csv-comma": ",", "csv-semicolon": ";", "csv-tab": "\t", "csv-pipe": "|"}

PAIR = re.compile(r'(?<![\w.\-"])([A-Za-z_][\w.\-]*)=("(?:[^"\\]|\\.)*"|\S*)')
TIME = re.compile(
    r"\s*[\[(]?(?:\d{4}[-/]\d\d?[-/]\d\d?(?:[T ]\d\d?:\d\d(?::\d\d)?(?:[.,]\d+)?)?(?:\s?(?:Z\b|UTC\b|[+-]\d\d:?\d\d))?"
    r"|(?P<syslog>[A-Z][a-z]{2} [ \d]?\d \d\d:\d\d:\d\d(?:\.\d+)?)|\d\d?:\d\d:\d\d(?:[.,]\d+)?|\d{10}(?:\.\d+)?|\d{13})"
    r"[\])]?[\s,;|-]+"
)
LEVELS = r"TRACE|DEBUG|INFO|NOTICE|WARN(?:ING)?|ERR(?:OR)?|SEVERE|CRIT(?:ICAL)?|FATAL|ALERT|EMERG|PANIC"
LEVEL = re.compile(rf"[\[<(]?({LEVELS})[\]>)]?(?:\s*[:|,-]?\s+|:?$)", re.IGNORECASE)
PLAIN_HEAD = re.compile(rf"({LEVELS}):([\w.\-]+):")
BRACKET = re.compile(r"\[([^\[\]]{1,80})\]:?\s*[-|]?\s*")
SETTING = re.compile(r"\s*([A-Za-z_][\w.\-/*@+]*)\s*=\s*(.*?)\s*$")
DATE = re.compile(r"(?<!\d)(\d{4})[-/](\d\d)[-/](\d\d)(?:[T ](\d\d):\d\d)?(?!\d)")
NAME = re.compile(r"([A-Za-z_][\w.\-/@$]*)(?:\[\d+\])?(?::\s+|:$|\s+[-|]\s+)")

LISTED = " | "
"""Between the items of a JSON list; a condition on such a field holds when it holds for an item."""

PYTHON_LINE = re.compile(r"^(?:import \w|from [\w.]+ import |(?:async )?def \w+\(|class \w+[(:])", re.MULTILINE)


class Piece(NamedTuple):
    """A file, or some whole lines of one: its kind, the number of its first line, its path and its text."""

    kind: str
    first_line: int
    path: str
    text: str


class Row(NamedTuple):
    """One record. `fields` is None when the text could not be read as its kind."""

    line: int
    fields: dict[str, str] | None
    raw: str


def read_rows(piece: Piece) -> Iterator[Row]:
    """The records of a piece, in order. Blank lines are none."""
    if piece.kind in DELIMITERS:
        yield from read_csv(piece)
        return
    read = {"jsonl": read_json_line, "config": read_setting}.get(piece.kind, read_log_line)
    for at, raw in enumerate(lines_of(piece.text), piece.first_line):
        if raw.strip() and not (piece.kind == "config" and raw.lstrip()[0] in "#;["):
            yield Row(at, read(raw), raw)


def lines_of(text: str) -> list[str]:
    """The lines as `wc -l` and editors see them: cut at line feeds, with no empty one after the last."""
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    return [line[:-1] if line.endswith("\r") else line for line in lines]


def read_csv(piece: Piece) -> Iterator[Row]:
    """CSV rows by their header. A row with another number of cells is unreadable."""
    lines = csv_lines(piece.text)
    reader = csv.reader(lines, delimiter=DELIMITERS[piece.kind])
    header: list[str] = []
    start = 0
    for cells in reader:
        if cells and not header:
            header = [cell.strip().lstrip("\ufeff") for cell in cells]
        elif cells:
            raw = lines[start].rstrip("\n") if reader.line_num == start + 1 else "".join(lines[start : reader.line_num])
            named = zip(header, cells, strict=True) if len(cells) == len(header) else None
            # An empty cell is no value, as a missing key is none in the other kinds.
            fields = {name: cell for name, cell in named if cell.strip()} if named else None
            yield Row(piece.first_line + start, fields, raw)
        start = reader.line_num


def csv_lines(text: str) -> list[str]:
    """Lines that the csv module takes: it refuses a carriage return inside an unquoted cell and long cells."""
    csv.field_size_limit(max(131072, len(text)))
    return [line.replace("\r", " ") + "\n" for line in lines_of(text)]


def read_json_line(raw: str) -> dict[str, str] | None:
    """The fields of a JSON object; those of nested objects as outer.inner; null is left out."""
    try:
        value = json.loads(raw)
        return flat(value, "") if isinstance(value, dict) else None
    except (ValueError, RecursionError):
        return None


def flat(value: dict[str, object], prefix: str) -> dict[str, str]:
    fields: dict[str, str] = {}
    for name, item in value.items():
        if isinstance(item, dict):
            fields.update(flat(item, f"{prefix}{name}."))
        elif isinstance(item, str):
            fields[prefix + name] = item
        elif isinstance(item, list):
            fields[f"{prefix}{name}.count"] = str(len(item))
            if item:
                fields[prefix + name] = LISTED.join(one if isinstance(one, str) else json.dumps(one) for one in item)
        elif item is not None:
            fields[prefix + name] = json.dumps(item)
    return fields


def read_setting(raw: str) -> dict[str, str] | None:
    """The key and the value of a line `key = value`."""
    found = SETTING.match(raw)
    return {"key": found[1], "value": unquoted(found[2])} if found else None


def read_log_line(raw: str) -> dict[str, str]:
    """key=value pairs, and from the head of the line: level, prefix (as in "prefix: …"), bracket1, bracket2, host."""
    fields: dict[str, str] = {}
    if plain := PLAIN_HEAD.match(raw):
        fields.update(level=plain[1], prefix=plain[2])
    else:
        read_head(raw, fields)
    if "=" in raw:
        # The first of a name counts: later ones, and those after a head that says it, are in messages.
        for key, value in PAIR.findall(raw):
            if key not in fields:
                fields[key] = unquoted(value)
    return fields


def read_head(raw: str, fields: dict[str, str]) -> None:
    """What stands before the message: time, then in any order a level, square brackets and one prefix."""
    time = TIME.match(raw)
    at = time.end() if time else len(raw) - len(raw.lstrip())
    if time and time["syslog"]:
        host, _, _ = raw[at:].partition(" ")
        fields["host"] = host
        at += len(host) + 1
    brackets = 0
    for _ in range(6):
        level = LEVEL.match(raw, at) if "level" not in fields else None
        if level and (time or level[1].isupper() or raw[at] in "[<("):
            fields["level"] = level[1]
            at = level.end()
            continue
        if "prefix" in fields:
            return
        if bracket := BRACKET.match(raw, at):
            if not bracket[1].strip().isdigit():
                brackets += 1
                fields[f"bracket{brackets}"] = bracket[1].strip()
            at = bracket.end()
            continue
        name = NAME.match(raw, at) if time or "level" in fields else None
        if name is None:
            return
        fields["prefix"] = name[1]
        at = name.end()


def unquoted(value: str) -> str:
    if len(value) > 1 and value[0] == value[-1] == '"':
        return value[1:-1].replace('\\"', '"').replace("\\\\", "\\") if "\\" in value else value[1:-1]
    return value.rstrip(",;")


def value_of(row: Row, field: str, path: str) -> str | None:
    """The value of a field; when there is none: `file`, `line`, word1 …, `word` (any of them), or the first date's."""
    if row.fields is not None and field in row.fields:
        return row.fields[field]
    if field == "line":
        return row.raw
    if field == "file":
        return path
    if field == "word":
        return LISTED.join(row.raw.split())
    if field[:4] == "word" and field[4:].isdigit():
        words = row.raw.split()
        return words[int(field[4:]) - 1] if 0 < int(field[4:]) <= len(words) else None
    return dated(row.raw, field) if field in TIMES else None


TIMES = ("date", "month", "year", "hour", "weekday")


def dated(raw: str, field: str) -> str | None:
    """What the first date of a line says: 2026-11-25, 2026-11, 2026, 09 or Wednesday."""
    found = DATE.search(raw, 0, 200)
    if found is None:
        return None
    if field == "weekday":
        try:
            return datetime.date(int(found[1]), int(found[2]), int(found[3])).strftime("%A")
        except ValueError:
            return None
    year, month = found[1], f"{found[1]}-{found[2]}"
    return {"date": f"{month}-{found[3]}", "month": month, "year": year, "hour": found[4]}[field]


def kind_of(path: str, text: str) -> str:
    """csv-…, jsonl, kv, config, log, python or text; judged by the name and the first lines."""
    if path.endswith((".py", ".pyw", ".pyi")):
        return "python"
    lines = [line for line in lines_of(text[:65536]) if line.strip()][:200]
    if len(text) > 65536 and len(lines) > 1:
        lines.pop()
    if not lines:
        return "text"
    if sum(read_json_line(line) is not None for line in lines) >= 0.9 * len(lines):
        return "jsonl"
    if kind := csv_kind("\n".join(lines)):
        return kind
    if sum(len(PAIR.findall(line)) >= 2 and line.lstrip()[0] != "<" for line in lines) >= 0.6 * len(lines):
        return "kv"
    settings = [found[1] for line in lines if line.lstrip()[0] not in "#;[" and (found := SETTING.match(line))]
    plain = sum(line.lstrip()[0] not in "#;[" for line in lines)
    if len(settings) >= 3 and len(settings) >= 0.9 * plain and len(set(settings)) >= 0.9 * len(settings):
        return "config"
    heads = sum(bool(TIME.match(line)) or "level" in read_log_line(line) for line in lines)
    if heads >= 0.6 * len(lines):
        return "log"
    return "python" if not path and is_python(text) else "text"


def is_python(text: str) -> bool:
    """Whether a text without a name is a Python file: it imports or defines something, and it parses."""
    if len(text) > 5_000_000 or not PYTHON_LINE.search(text):
        return False
    try:
        ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def csv_kind(text: str) -> str:
    """Which CSV it is; "" when rows differ in length or the first row does not look like names."""
    for kind, delimiter in DELIMITERS.items():
        rows = [row for row in csv.reader(csv_lines(text), delimiter=delimiter) if row]
        header = [cell.strip() for cell in rows[0]] if rows else []
        if len(rows) < 2 or len(header) < 2 or len(set(header)) < len(header):
            continue
        if any(not name or len(name) > 60 or "=" in name or number(name) is not None for name in header):
            continue
        body = rows[1:]
        if sum(len(row) == len(header) for row in body) >= 0.95 * len(body) and not TIME.match(text):
            return kind
    return ""
