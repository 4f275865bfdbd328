"""Paths on a volume that cannot leave it."""

from __future__ import annotations

import unicodedata
from pathlib import PurePosixPath
from typing import Literal, get_args

from fleet_rlm_jupyter.domain.errors import BadPath

Root = Literal["memory", "artifacts", "buffers", "meta"]
ROOTS: tuple[Root, ...] = get_args(Root)
MAX_PATH = 1024
MAX_NAME = 255


class VolumePath:
    """A relative path under one of the four roots. Raises BadPath for anything else; never touches a disk.

    Components are compared, not prefixes: `artifacts2/x` is not under `artifacts`. Symlinks are the reader's business
    (`sandbox/files.py` opens without following them).
    """

    __slots__ = ("_path",)

    def __init__(self, text: str) -> None:
        self._path = _checked(text)

    @property
    def root(self) -> str:
        return self._path.parts[0]

    @property
    def name(self) -> str:
        return self._path.name

    def joined(self, *names: str) -> VolumePath:
        """The path below this one; an empty name is refused as it would be inside a path."""
        return VolumePath("/".join((str(self), *(name or "/" for name in names))))

    def __str__(self) -> str:
        return str(self._path)

    def __repr__(self) -> str:
        return f"VolumePath({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, VolumePath) and self._path == other._path

    def __hash__(self) -> int:
        return hash(self._path)


def _checked(text: str) -> PurePosixPath:
    hint = "use a relative path under " + ", ".join(f"{root}/" for root in ROOTS)
    if any(unicodedata.category(char) in ("Cc", "Cf", "Cs") for char in text):
        raise BadPath("a volume path has no control characters", hint)
    if not 1 <= len(text.encode()) <= MAX_PATH:
        raise BadPath(f"a volume path has 1 to {MAX_PATH} bytes", hint)
    if text.startswith(("/", "~")) or "\\" in text:
        raise BadPath(f"{text!r} is not a relative path", hint)
    parts = text.removesuffix("/").split("/")
    for part in parts:
        if part in ("", ".", "..") or len(part.encode()) > MAX_NAME or part != part.strip():
            raise BadPath(f"{text!r} has a component that is empty, dotted, padded or too long", hint)
    if parts[0] not in ROOTS:
        raise BadPath(f"{text!r} is under none of the volume's roots", hint)
    return PurePosixPath(*parts)
