"""Dataset: rows with provenance and a fixed split, and how they come out of JSON."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Literal, NoReturn, cast, get_args

from pydantic import BaseModel, ConfigDict, JsonValue

from fleet_rlm_jupyter.domain.errors import BadRequest

Split = Literal["train", "val", "test"]

SPLITS: tuple[Split, ...] = get_args(Split)
SPLIT_FIELD = "split"
"""The one field of a row that is no data: it says the row's split."""

MAX_BYTES = 50_000_000
MAX_ROWS = 20_000
MAX_ROW_BYTES = 1_000_000
MAX_NAMED = 50
"""Most rows that are named as left out; the last line counts the others."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_TRAIN, _VAL = 0.6, 0.8
"""Where of a row's digest, read as a number below 1, train ends and val ends."""


class _Item(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DatasetRow(_Item):
    """One example. `row_id` is a digest of `fields`, `origin` where it comes from."""

    row_id: str
    split: Split
    fields: dict[str, JsonValue]
    origin: str


class Dataset(_Item):
    """What is known of a dataset without its rows. `fields` are those that every row has, `splits` counts rows.

    `left_out` says which rows were not taken and why; `created_at` is seconds since the epoch.
    """

    name: str
    created_at: float
    rows: int
    splits: dict[Split, int]
    fields: list[str]
    left_out: list[str]


def checked_name(name: str) -> str:
    """`name` where it can be one of a dataset or program, and be part of a path. Raises BadRequest."""
    if not _NAME.fullmatch(name):
        raise BadRequest(f"{name[:100]!r} is no name", "take letters, digits, dots, dashes and underscores")
    return name


def read_rows(given: str | bytes | Iterable[object], origin: str = "") -> tuple[list[DatasetRow], list[str]]:
    """The rows in a JSON array, in lines of JSON or in objects, with their splits; and which were left out, and why.

    A row's split follows from what is in it, so it is the same in every dataset; a field `split` overrules that. A row
    that was there already is left out. Raises BadRequest where nothing is left or it is too much.
    """
    rows: dict[str, DatasetRow] = {}
    left_out: list[str] = []
    for count, (number, item) in enumerate(_items(given)):
        if count == MAX_ROWS:
            raise BadRequest(f"more than {MAX_ROWS:,} rows", "make several datasets of them, or take a sample")
        try:
            row = _row(item, f"{origin or 'given'}:{number}")
            if row.row_id in rows:
                raise BadRequest(f"the same as {rows[row.row_id].origin}")
            rows[row.row_id] = row
        except BadRequest as err:
            left_out.append(f"{number}: {err.text}")
    if not rows:
        why = f"row {left_out[0]}" if left_out else "there is no row"
        raise BadRequest(f"nothing of it can be a dataset; {why}", "give a JSON array of objects, or one object a line")
    if len(left_out) > MAX_NAMED:
        left_out[MAX_NAMED:] = [f"and {len(left_out) - MAX_NAMED} more"]
    return list(rows.values()), left_out


def common_fields(rows: Iterable[DatasetRow]) -> list[str]:
    """The fields that every row has, in the order of the first one."""
    found: dict[str, None] | None = None
    for row in rows:
        found = dict.fromkeys(row.fields) if found is None else {name: None for name in found if name in row.fields}
    return list(found or ())


def split_of(row_id: str) -> Split:
    """60 of 100 rows are for training, 20 for validation, 20 are held out for the test."""
    place = int(row_id, 16) / 16 ** len(row_id)
    return "train" if place < _TRAIN else "val" if place < _VAL else "test"


def _items(given: str | bytes | Iterable[object]) -> Iterable[tuple[int, object]]:
    """Numbered as an editor numbers lines, or as they come."""
    if not isinstance(given, str | bytes):
        return enumerate(given, 1)
    if len(given) > MAX_BYTES:
        raise BadRequest(f"more than {MAX_BYTES // 10**6} MB", "make several datasets of it")
    try:
        text = (given if isinstance(given, str) else given.decode()).removeprefix("\ufeff")
    except UnicodeDecodeError as err:
        raise BadRequest("a dataset is text in UTF-8, and this is none", "convert it") from err
    if text.lstrip()[:1] == "[":
        try:
            return enumerate(cast("list[object]", _parsed(text)), 1)
        except ValueError as err:
            raise BadRequest(f"it is no JSON array: {err}", "mend it, or give one JSON object a line") from err
    return [(number, _line(line)) for number, line in enumerate(text.split("\n"), 1) if line.strip()]


def _line(line: str) -> object:
    try:
        return _parsed(line)
    except ValueError as err:
        return BadRequest(f"no JSON: {err}")


def _parsed(text: str) -> object:
    try:
        return json.loads(text, parse_constant=_refuse)
    except RecursionError as err:
        raise ValueError("nested too deep") from err


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _row(item: object, origin: str) -> DatasetRow:
    if isinstance(item, BadRequest):
        raise item
    if not isinstance(item, Mapping) or not all(
        isinstance(name, str) for name in cast("Mapping[object, object]", item)
    ):
        raise BadRequest("no object of named fields")
    fields = dict(cast("Mapping[str, JsonValue]", item))
    split = fields.pop(SPLIT_FIELD, None)
    if split is not None and split not in SPLITS:
        raise BadRequest(f"split is one of {', '.join(SPLITS)}")
    if not fields:
        raise BadRequest("no fields")
    try:
        # Halves of a surrogate pair can be in JSON and in no file.
        raw = json.dumps(fields, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace")
        fields = cast("dict[str, JsonValue]", json.loads(raw))
        canonical = json.dumps(fields, ensure_ascii=False, sort_keys=True).encode()
    except (TypeError, ValueError, RecursionError) as err:
        raise BadRequest(f"a value that is not JSON: {err}") from err
    if len(raw) > MAX_ROW_BYTES:
        raise BadRequest(f"more than {MAX_ROW_BYTES // 10**6} MB in one row")
    row_id = hashlib.sha256(canonical).hexdigest()[:20]
    return DatasetRow(row_id=row_id, split=split or split_of(row_id), fields=fields, origin=origin)
