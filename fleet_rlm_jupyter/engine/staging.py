"""Files and folders of this machine that a sandbox is to have: only from allowed roots, within limits."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from pydantic import ValidationError

from fleet_rlm_jupyter.domain.errors import BadPath, BadRequest
from fleet_rlm_jupyter.domain.staging import StagedFile, Staging, StagingManifest
from fleet_rlm_jupyter.engine.contexts import SKIPPED_FOLDERS, looks_binary
from fleet_rlm_jupyter.engine.fetch import is_url
from fleet_rlm_jupyter.settings import ContextSettings, Settings

_PIECE = 1 << 20
_NOT_THERE = "it is a link out of the folders that files may be staged from"


def roots_of(settings: Settings) -> tuple[Path, ...]:
    """The folders that sandboxes may be given files and repositories of."""
    return tuple(Path(root).resolve() for root in settings.workspace.roots or (".",))


def stage(given: Sequence[str | Path], settings: Settings) -> Staging:
    """The files of `given`, in order; those of a folder with all that is below.

    Raises BadPath for what is not there, cannot be read, lies in none of the roots (links followed), holds no file, or
    is more than `settings.context` allows. What is left out of a folder is in the manifest, with the reason.
    """
    reading = _StageReading(settings)
    for number, item in enumerate(given, 1):
        reading.add(number, item)
    if not reading.files:
        why = next((f": {reason}" for reason in reading.left_out.values()), "")
        raise BadPath(f"there is no file to stage in {', '.join(map(str, given))}{why}", "pass what holds files")
    return Staging(StagingManifest(files=tuple(reading.files), left_out=reading.left_out), reading.places)


def refuse_too_much(manifest: StagingManifest, limits: ContextSettings) -> None:
    """Raise BadRequest for more files or bytes than `limits` allow, or for none."""
    if not 0 < len(manifest.files) <= limits.max_files:
        raise BadRequest(f"{len(manifest.files):,} files are staged", "stage at least one; raise context.max_files")
    if manifest.bytes > limits.max_mb * 1_000_000:
        raise BadRequest(f"{manifest.bytes / 1e6:,.0f} MB are staged", "raise context.max_mb")


class _StageReading:
    """Reads one file after the other, within the limits of them all."""

    def __init__(self, settings: Settings) -> None:
        self.files: list[StagedFile] = []
        self.left_out: dict[str, str] = {}
        self.places: dict[str, Path] = {}
        self._limits = settings.context
        self._room = settings.context.max_mb * 1_000_000
        self._roots = roots_of(settings)

    def add(self, number: int, item: str | Path) -> None:
        """Take in a file, or what is below a folder."""
        if is_url(item):
            raise BadPath(f"{item} is a URL, which is no file to stage", "pass it with --context")
        try:
            found = Path(item).resolve(strict=True)
        except FileNotFoundError:
            raise BadPath(f"there is no file or folder {item}", "check the path") from None
        except (OSError, RuntimeError, ValueError) as err:
            raise BadPath(f"{item} cannot be read: {err}", "check the path and its permissions") from err
        root = self._root_of(found)
        if root is None:
            raise BadPath(
                f"{item} is in none of the folders that files may be staged from", "add its folder to workspace.roots"
            )
        slug = re.sub(r"[^A-Za-z0-9._-]+", "-", found.name).strip(".-")[:60] or "folder"
        prefix, shown = f"{number:02}-{slug}", found.relative_to(root).as_posix()
        if not found.is_dir():
            if why := self._take(f"{prefix}/{found.name}", found, shown):
                raise BadPath(f"{item} cannot be staged: {why}", "pass a file that can be read")
            return
        for path in self._walk(found, shown):
            inside = path.relative_to(found).as_posix()
            if why := self._take(f"{prefix}/{inside}", path, f"{shown}/{inside}"):
                self.left_out[_printable(f"{shown}/{inside}")] = why

    def _root_of(self, path: Path) -> Path | None:
        return next((root for root in self._roots if path.is_relative_to(root)), None)

    def _walk(self, folder: Path, shown: str) -> Iterator[Path]:
        def skip(path: str, why: str) -> None:
            self.left_out[_printable(f"{shown}/{Path(path).relative_to(folder).as_posix()}")] = why

        def unreadable(err: OSError) -> None:
            skip(str(err.filename), f"it cannot be read: {err.strerror}")

        for here, folders, names in os.walk(folder, onerror=unreadable):
            for name in sorted(folders):
                path = Path(here, name)
                if name in SKIPPED_FOLDERS:
                    skip(str(path), "such folders hold caches, packages or histories")
                elif path.is_symlink():
                    skip(str(path), "it is a link to a folder" if self._leads_to(path) else _NOT_THERE)
                else:
                    continue
                folders.remove(name)
            folders.sort()
            for name in sorted(names):
                if name == ".env" or name.startswith(".env."):
                    skip(str(Path(here, name)), "it may hold keys; name it alone if it is to be staged")
                else:
                    yield Path(here, name)

    def _leads_to(self, path: Path) -> Path | None:
        """What a link names, if it is there and in one of the roots."""
        try:
            found = path.resolve(strict=True)
        except (OSError, RuntimeError):
            return None
        return found if self._root_of(found) is not None else None

    def _take(self, path: str, file: Path, source: str) -> str:
        """Why the file is left out; nothing where it was taken in. Raises BadPath for one too many or too much."""
        at = self._leads_to(file) if file.is_symlink() else file
        if at is None:
            return _NOT_THERE if file.exists() else "it is a link to nothing"
        try:
            made = os.open(at, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)  # a pipe must not hold us up
            with open(made, "rb") as stream:
                if not stat.S_ISREG(os.fstat(made).st_mode):
                    return "it is no regular file"
                size, sha256, is_text = self._looked_through(stream, source)
            staged = StagedFile(path=path, source=source, bytes=size, sha256=sha256, is_text=is_text)
        except OSError as err:
            return f"it cannot be read: {err.strerror}"
        except ValidationError:
            return "it has a name that cannot be staged"
        if len(self.files) >= self._limits.max_files:
            raise BadPath(
                f"there are more than {self._limits.max_files:,} files to stage",
                "raise context.max_files or pass a sub-folder",
            )
        self._room -= size
        self.files.append(staged)
        self.places[sha256] = at
        return ""

    def _looked_through(self, stream: BinaryIO, source: str) -> tuple[int, str, bool]:
        """(bytes, digest, whether it looks like text)."""
        hashed, size, is_text = hashlib.sha256(), 0, True
        while piece := stream.read(_PIECE):
            if size == 0:
                is_text = b"\0" not in piece[:8192] and not looks_binary(piece)
            size += len(piece)
            hashed.update(piece)
            if size > self._room:
                raise BadPath(
                    f"the files to stage have more than {self._limits.max_mb} MB (at {source})",
                    "raise context.max_mb or pass a part of them",
                )
        return size, hashed.hexdigest(), is_text


def _printable(path: str) -> str:
    return path.encode("utf-8", "backslashreplace").decode("utf-8")
