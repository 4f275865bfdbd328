"""Cutting a context into parts of about the same size, and reading what children sent back. Runs in the sandbox."""

from __future__ import annotations

import csv
import json
from typing import NamedTuple

from fleet_rlm_jupyter.engine.recipes.inventory import PYTHON_UNITS
from fleet_rlm_jupyter.engine.recipes.records import DELIMITERS, RECORD_KINDS, Piece, csv_lines, lines_of


class Replies(NamedTuple):
    """What came back: results by part, parts that no child may do, and parts that are lost, with the reason."""

    results: dict[int, dict[str, object]]
    refused: dict[int, str]
    lost: dict[int, str]


def chosen(pieces: list[Piece], reads: str, unit: str) -> list[Piece]:
    """The files a recipe reads, as what it reads them: records, Python, plain lines or prose."""
    if reads == "python" or unit in PYTHON_UNITS:
        return [piece for piece in pieces if piece.kind == "python"]
    if unit in ("lines", "words"):
        return [piece._replace(kind="text") for piece in pieces]
    if unit in ("chapters", "sections"):
        return [piece._replace(kind="whole") for piece in pieces]
    if reads == "text" or unit in ("paragraphs", "verses"):
        return [piece._replace(kind="entries" if piece.kind in RECORD_KINDS else "prose") for piece in pieces]
    return [piece for piece in pieces if piece.kind in RECORD_KINDS]


def cut(pieces: list[Piece], parts: int) -> list[dict[str, str]]:
    """At most `parts` contexts of about the same size. A key is kind:first line:path; large record files are cut."""
    target = max(1, sum(len(piece.text) for piece in pieces) // parts + 1)
    small = [bit for piece in pieces for bit in bits_of(piece, target)]
    boxes: list[dict[str, str]] = [{} for _ in range(min(parts, len(small)))]
    sizes = [0] * len(boxes)
    # The largest first, each into the emptiest box: no box ends much fuller than another.
    for piece in sorted(small, key=lambda piece: (-len(piece.text), piece.path, piece.first_line)):
        box = sizes.index(min(sizes))
        boxes[box][f"{piece.kind}:{piece.first_line}:{piece.path}"] = piece.text
        sizes[box] += len(piece.text) + 1
    return boxes


def bits_of(piece: Piece, target: int) -> list[Piece]:
    """A file in bits of whole records or paragraphs, none much larger than `target`; a Python file stays whole."""
    if piece.kind in ("python", "whole") or len(piece.text) <= target * 1.25:
        return [piece]
    lines = lines_of(piece.text)
    raw = piece.text.split("\n")  # carriage returns stay where they are
    header, ends = record_ends(piece.kind, lines)
    bits: list[Piece] = []
    start, size = header, 0
    for line_index in range(header, len(lines)):
        size += len(lines[line_index]) + 1
        if (size >= target and (ends is None or line_index + 1 in ends)) or line_index + 1 == len(lines):
            text = "\n".join(raw[:header] + raw[start : line_index + 1]) + "\n"
            bits.append(piece._replace(first_line=piece.first_line + start - header, text=text))
            start, size = line_index + 1, 0
    return bits or [piece]


def record_ends(kind: str, lines: list[str]) -> tuple[int, set[int] | None]:
    """How many lines the header has, and after which lines a record or paragraph ends; None when every line is one."""
    if kind == "prose":
        blank = {at for at, line in enumerate(lines, 1) if not line.strip()}
        return 0, blank or None
    if kind not in DELIMITERS:
        return 0, None
    reader = csv.reader(csv_lines("\n".join(lines)), delimiter=DELIMITERS[kind])
    header, ends = 0, set[int]()
    for cells in reader:
        if cells and not header:
            header = reader.line_num
        ends.add(reader.line_num)
    return header, ends


def pieces_of_part(context: dict[str, str]) -> list[Piece]:
    """The pieces that cut() put into a context."""
    pieces: list[Piece] = []
    for key, text in context.items():
        kind, first_line, path = key.split(":", 2)
        pieces.append(Piece(kind, int(first_line), path, text))
    return pieces


def opened(replies: list[object]) -> Replies:
    """Sort what children sent back: a result is the JSON text of an object; anything else is a lost or refused part."""
    sorted_out = Replies({}, {}, {})
    for index, reply in enumerate(replies):
        if isinstance(reply, dict):
            error = reply.get("error", reply)
            code = str(error.get("code", "error")) if isinstance(error, dict) else "error"
            text = str(error.get("text", error)) if isinstance(error, dict) else str(error)
            box = sorted_out.refused if code in ("depth_exceeded", "sandboxes_exceeded") else sorted_out.lost
            box[index] = f"{code}: {text}"
            continue
        try:
            value = json.loads(str(reply))
        except ValueError:
            value = None
        if isinstance(value, dict) and "files" in value:
            sorted_out.results[index] = value
        else:
            sorted_out.lost[index] = f"no result in {str(reply)[:120]!r}"
    return sorted_out
