"""Contexts that were sent here, kept once by their digest, in files beside the store."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Generator, Iterable, Set
from contextlib import contextmanager, suppress
from pathlib import Path

from fleet_rlm_jupyter.domain.errors import BadRequest, StoreFailed

_DIGEST = re.compile(r"[0-9a-f]{64}")


class StoredContexts:
    """The contexts of one owner. Raises BadRequest for what is no digest or does not match it, and StoreFailed."""

    def __init__(self, folder: Path, owner: str, most_bytes: int) -> None:
        # Per owner: that somebody else has a text is nobody's business.
        self._folder = folder / "contexts" / hashlib.sha256(owner.encode()).hexdigest()[:24]
        self._most_bytes = most_bytes

    def has(self, sha256: str) -> bool:
        return self._path(sha256).exists()

    def received(self, sha256: str) -> int:
        """Bytes that are here already of a context whose sending broke off: where to go on."""
        part = self._part(sha256)
        return part.stat().st_size if part.exists() else 0

    def put(self, sha256: str, pieces: Iterable[bytes], begin: int = 0) -> None:
        """Keep it; `begin` goes on where an earlier sending broke off. It is there when its digest is right."""
        path, part = self._path(sha256), self._part(sha256)
        if path.exists():
            return
        if begin != self.received(sha256) and begin:
            raise BadRequest(f"{self.received(sha256)} bytes are here, not {begin}", "go on from there, or begin anew")
        with _told():
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            made = os.open(part, os.O_WRONLY | os.O_CREAT | (0 if begin else os.O_TRUNC), 0o600)
        with os.fdopen(made, "wb") as file:
            size = file.seek(begin)
            for piece in pieces:  # whatever this raises is the sender's error
                size += len(piece)
                if size > self._most_bytes:
                    part.unlink()
                    raise BadRequest(f"the context has more than {self._most_bytes:,} bytes", "raise context.max_mb")
                with _told():
                    file.write(piece)
        with _told():
            if _digest(part) != sha256:
                part.unlink()
                raise BadRequest("the context is another one than its digest says", "send it anew")
            part.replace(path)

    def get(self, sha256: str) -> bytes:
        """Its bytes. Raises BadRequest where it is not here."""
        path = self.path(sha256)
        with _told():
            return path.read_bytes()

    def path(self, sha256: str) -> Path:
        """Where its bytes are. Raises BadRequest where it is not here."""
        path = self._path(sha256)
        with _told():
            try:
                os.utime(path)  # used: `prune` leaves it
            except FileNotFoundError:
                raise BadRequest(f"the context {sha256[:12]} is not here", "send it") from None
        return path

    def prune(self, before: float) -> int:
        """Forget what was last used before that time; returns how many."""
        return prune_folder(self._folder, before)

    def _path(self, sha256: str) -> Path:
        if not _DIGEST.fullmatch(sha256):
            raise BadRequest("a context is named by its SHA-256 in 64 hex digits", "hash its bytes")
        return self._folder / sha256

    def _part(self, sha256: str) -> Path:
        return self._path(sha256).with_suffix(".part")


def prune_folder(folder: Path, before: float, but: Set[str] = frozenset()) -> int:
    """Delete the files below `folder` that were last used before that time, `but` those of these names; how many."""
    count = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            if path.is_file() and path.name not in but and path.stat().st_mtime < before:
                path.unlink()
                count += 1
    return count


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _told() -> Generator[None]:
    try:
        yield
    except OSError as err:
        raise StoreFailed(
            f"contexts cannot be kept: {err}", "check that the data folder is there and has room"
        ) from err
