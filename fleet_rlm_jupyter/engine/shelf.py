"""Folders by name that several processes fill and read, and that make room for others when nobody uses them."""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import weakref
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

_USE, _CHANGE, _GONE = ".use", ".change", ".gone-"


class Taken:
    """A folder that stays where it is until `release`, or the end of object or process; it may not be there yet."""

    def __init__(self, folder: Path, use: int) -> None:
        """`use` is a file that is locked as long as it is open."""
        self.folder = folder
        self.release = weakref.finalize(self, os.close, use)  # harmless twice

    @contextmanager
    def alone(self) -> Generator[None]:
        """Change it, and nobody else does meanwhile."""
        with _locked(self.folder.with_suffix(_CHANGE), fcntl.LOCK_EX):
            yield


class Shelf:
    """Names have no dot. The system's file locks tell who uses what, so that nothing is left locked by a crash."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def take(self, name: str) -> Taken:
        """The folder of that name, which is not removed until the result is released."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        use = _opened(self._use(name))
        taken = Taken(self._folder / name, use)
        fcntl.flock(use, fcntl.LOCK_SH)
        os.utime(use)
        return taken

    def prune(self, most_bytes: float, before: float = 0) -> int:
        """Remove what was last used before that time, and the longest unused until the rest has `most_bytes`.

        What is in use stays, whatever its size. Returns how many were removed.
        """
        for left in self._folder.glob(f"*{_GONE}*"):  # by who died over it
            shutil.rmtree(left, ignore_errors=True)
        found = sorted((self._used_at(folder), folder) for folder in self._folder.glob("*") if _is_kept(folder))
        sizes = {folder: _bytes_of(folder) for _, folder in found}
        room, count = most_bytes - sum(sizes.values()), 0
        for used_at, folder in found:
            if (used_at < before or room < 0) and self._removed(folder):
                room += sizes[folder]
                count += 1
        return count

    def _removed(self, folder: Path) -> bool:
        try:
            with _locked(self._use(folder.name), fcntl.LOCK_EX | fcntl.LOCK_NB):
                # By one step, so that nobody ever finds a half of it.
                gone = folder.rename(folder.with_name(f"{folder.name}{_GONE}{secrets.token_hex(4)}"))
        except (BlockingIOError, FileNotFoundError):  # it is used, or another process was quicker
            return False
        shutil.rmtree(gone, ignore_errors=True)
        return True

    def _use(self, name: str) -> Path:
        return self._folder / f"{name}{_USE}"

    def _used_at(self, folder: Path) -> float:
        for path in (self._use(folder.name), folder):
            with suppress(FileNotFoundError):
                return path.stat().st_mtime
        return 0.0


def _opened(path: Path) -> int:
    """A file for a lock. It is left there: who removed it might part two who wait for the same."""
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)


@contextmanager
def _locked(path: Path, how: int) -> Generator[None]:
    lock = _opened(path)
    try:
        fcntl.flock(lock, how)
        yield
    finally:
        os.close(lock)


def _is_kept(folder: Path) -> bool:
    return "." not in folder.name and folder.is_dir()


def _bytes_of(folder: Path) -> int:
    size = 0
    for here, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                size += os.lstat(os.path.join(here, name)).st_size
    return size
