"""Files and folders become a context: one text, or texts by path, with a list of what was left out and why."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fleet_rlm_jupyter.domain.errors import BadPath, NotText
from fleet_rlm_jupyter.settings import ContextSettings

SKIPPED_FOLDERS = {"__pycache__", "site-packages", "node_modules", ".git", ".venv", ".hg", ".svn", ".ipynb_checkpoints"}
"""Folders nobody means when they say "this folder": caches, installed packages, histories."""

Value = str | dict[str, str]


@dataclass(slots=True)
class Manifest:
    """What a context holds. `left_out` is path → reason."""

    files: int = 0
    bytes: int = 0
    left_out: dict[str, str] = field(default_factory=dict[str, str])

    def __str__(self) -> str:
        text = f"{self.files:,} file{'s' if self.files != 1 else ''}, {self.bytes / 1e6:.1f} MB"
        if not self.left_out:
            return text
        shown = ", ".join(list(self.left_out)[:3]) + (", …" if len(self.left_out) > 3 else "")
        return f"{text}; left out {len(self.left_out):,} not readable as text ({shown})"


@dataclass(slots=True)
class Context:
    """What the REPL sees as `context`, and the manifest that is shown of it."""

    value: Value
    manifest: Manifest


def read_context(paths: Sequence[str | Path], limits: ContextSettings) -> Context:
    """One file → its text; a folder or several paths → a dict of path → text, paths relative to their folder.

    Raises BadPath for a path that does not exist, a single file that cannot be read as text, an empty folder, or more
    than `limits` allow. In folders, files that are not text are left out and listed in the manifest.
    """
    manifest = Manifest()
    if not paths:
        return Context("", manifest)
    if len(paths) == 1 and not _is_folder(Path(paths[0])):
        text = _add(Path(paths[0]), manifest, limits)
        return Context(text, manifest)
    texts: dict[str, str] = {}
    for name, path in _files(paths, manifest):
        try:
            texts[name] = _add(path, manifest, limits)
        except NotText as err:
            manifest.left_out[name] = err.text
    if not texts:
        shown = ", ".join(str(path) for path in paths)
        raise BadPath(f"there is no text in {shown}", "pass a file or folder that holds text")
    return Context(texts, manifest)


def _files(paths: Sequence[str | Path], manifest: Manifest) -> Iterator[tuple[str, Path]]:
    """(name in the context, path). With several paths a folder's name leads, so that none hides another."""
    for given in paths:
        path = Path(given)
        prefix = f"{path.resolve().name}/" if len(paths) > 1 else ""
        if _is_folder(path):
            for file in _walk(path, manifest):
                yield prefix + file.relative_to(path).as_posix(), file
        else:
            yield str(given), path


def _walk(folder: Path, manifest: Manifest) -> Iterator[Path]:
    def skip(err: OSError) -> None:
        manifest.left_out[str(err.filename)] = f"cannot be read: {err.strerror}"

    for here, folders, names in os.walk(folder, onerror=skip):
        folders[:] = sorted(name for name in folders if name not in SKIPPED_FOLDERS)
        for name in sorted(names):
            path = Path(here, name)
            # A link may lead out of the folder or in circles; what it names is read where it stands.
            if path.is_file() and not path.is_symlink():
                yield path


def _add(path: Path, manifest: Manifest, limits: ContextSettings) -> str:
    size = _size(path)
    if manifest.bytes + size > limits.max_mb * 1_000_000:
        raise BadPath(
            f"the context is larger than {limits.max_mb} MB (at {path})", "raise context.max_mb or pass a part of it"
        )
    if manifest.files >= limits.max_files:
        raise BadPath(f"there are more than {limits.max_files:,} files", "raise context.max_files or pass a sub-folder")
    text = _read(path)
    manifest.files += 1
    manifest.bytes += size
    return text


def _is_folder(path: Path) -> bool:
    return stat.S_ISDIR(_stat(path).st_mode)


def _size(path: Path) -> int:
    return _stat(path).st_size


def _stat(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except FileNotFoundError:
        raise BadPath(f"there is no file or folder {path}", "check the path; URLs must be downloaded first") from None
    except OSError as err:
        raise BadPath(f"{path} cannot be read: {err.strerror}", "check its permissions") from err


def _read(path: Path) -> str:
    try:
        raw = path.read_bytes()
    except OSError as err:
        raise NotText(f"{path} cannot be read: {err.strerror}", "check its permissions") from err
    if b"\0" in raw[:8192]:
        raise NotText(f"{path} is a binary file", "convert it to text first")
    if b"\r" in raw:
        raw = raw.replace(b"\r\n", b"\n").replace(b"\r", b"\n")  # as Python reads text files
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        if _looks_binary(raw):
            raise NotText(f"{path} is a binary file", "convert it to text first") from None
        return raw.decode("latin-1")


def _looks_binary(raw: bytes) -> bool:
    """More than one in twenty control characters in the first 8 kB: no old text encoding looks like that."""
    head = raw[:8192]
    control = sum(byte < 32 and byte not in (9, 10, 12, 13, 27) for byte in head)
    return control > len(head) // 20
