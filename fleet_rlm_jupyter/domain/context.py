"""What is asked about: one text, or texts by name, with a list of what was left out and why."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Value = str | dict[str, str]

_AS_TABLE = "a DataFrame where the sandbox has pandas, else a dict of columns; CSV for recipes"


class ContextDigest(BaseModel):
    """What names a context: the digest of its bytes, which are a text or JSON of texts by name."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    kind: Literal["text", "json"] = "text"
    bytes: int


@dataclass(slots=True)
class Manifest:
    """What a context holds. `left_out` is name → reason, `notes` says what was read as something else than it is."""

    files: int = 0
    bytes: int = 0
    notebooks: int = 0
    left_out: dict[str, str] = field(default_factory=dict[str, str])
    notes: list[str] = field(default_factory=list[str])

    def add(self, other: Manifest) -> None:
        """What `other` holds is held here too."""
        self.files, self.bytes = self.files + other.files, self.bytes + other.bytes
        self.notebooks += other.notebooks
        self.left_out.update(other.left_out)
        self.notes += other.notes

    def __str__(self) -> str:
        size = f"{self.files:,} file{'s' if self.files != 1 else ''}, {self.bytes / 1e6:.1f} MB"
        return "; ".join(filter(None, (size, self.remarks)))

    @property
    def remarks(self) -> str:
        """What is to be said beside the size, if anything is."""
        parts: list[str] = []
        if self.notebooks:
            parts.append(
                f"{self.notebooks:,} of them notebook{'s' if self.notebooks != 1 else ''}: cells and text outputs"
            )
        parts += self.notes
        if self.left_out:
            names = ", ".join(list(self.left_out)[:3]) + (", …" if len(self.left_out) > 3 else "")
            parts.append(f"left out {len(self.left_out):,} not readable as text ({names})")
        return "; ".join(parts)


@dataclass(slots=True)
class Context:
    """What the REPL sees as `context`, and the manifest that is shown of it.

    `table` is the same as a DataFrame, for code that a model writes; `value` is its text, for everything else.
    """

    value: Value
    manifest: Manifest
    table: object | None = None

    @classmethod
    def of(cls, value: Value) -> Context:
        """A value that is there already: every text counts as a file."""
        texts = [value] if isinstance(value, str) else value.values()
        return cls(value, Manifest(len(texts), sum(map(utf8_bytes, texts))))

    def __str__(self) -> str:
        """What is shown of it; nothing for one that is not there."""
        shown = str(self.manifest) if self.manifest.files else ""
        return shown if self.table is None else f"{shown}; {_AS_TABLE}"


def utf8_bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def encoded(value: Value, *, is_ordered: bool = False) -> bytes:
    """The bytes that a context is sent as: in one order of names, or where that `is_ordered` in its own."""
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=not is_ordered)
    return text.encode("utf-8", "surrogatepass")


def digest_of(value: Value, raw: bytes | None = None) -> ContextDigest:
    """What names `value`; `raw` are its bytes, where they were made already."""
    raw = encoded(value) if raw is None else raw
    kind = "text" if isinstance(value, str) else "json"
    return ContextDigest(sha256=hashlib.sha256(raw).hexdigest(), kind=kind, bytes=len(raw))
