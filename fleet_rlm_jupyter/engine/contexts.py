"""Files, folders and URLs become a context: one text, or texts by name, with a list of what was left out and why."""

from __future__ import annotations

import codecs
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from fleet_rlm_jupyter.domain.context import Context, Manifest
from fleet_rlm_jupyter.domain.errors import BadPath, NotText
from fleet_rlm_jupyter.engine.fetch import MAX_BYTES, Fetcher, is_url, shown
from fleet_rlm_jupyter.engine.notebooks import notebook_text
from fleet_rlm_jupyter.settings import ContextSettings

SKIPPED_FOLDERS = {"__pycache__", "site-packages", "node_modules", ".git", ".venv", ".hg", ".svn", ".ipynb_checkpoints"}
"""Folders nobody means when they say "this folder": caches, installed packages, histories."""


def read_context(given: Sequence[str | Path], limits: ContextSettings) -> Context:
    """One file or URL → its text; a folder or several of them → a dict of name → text.

    A name is the path relative to its folder, or the URL without its query. Notebooks are read as cells and text
    outputs. Raises BadPath for a path that does not exist, BadUrl for a URL that is not fetched, either for one thing
    that is no text, an empty folder, or more than `limits` allow. In folders, files that are not text are left out and
    listed in the manifest.
    """
    reading = _Reading(limits)
    if not given:
        return Context("", reading.manifest)
    if len(given) == 1 and (is_url(given[0]) or not _is_folder(Path(given[0]))):
        return Context(reading.one(given[0]), reading.manifest)
    texts: dict[str, str] = {}
    for name, item in _items(given, reading.manifest):
        try:
            texts[_free(name, texts)] = reading.one(item)
        except NotText as err:
            reading.manifest.left_out[name] = err.text
    if not texts:
        where = ", ".join(str(item) for item in given)
        why = next((f": {reason}" for reason in reading.manifest.left_out.values()), "")
        raise BadPath(f"there is no text in {where}{why}", "pass a file or folder that holds text")
    return Context(texts, reading.manifest)


class _Reading:
    """Reads one thing after the other into the manifest, within the limits of them all."""

    def __init__(self, limits: ContextSettings) -> None:
        self.manifest = Manifest()
        self._limits = limits

    def one(self, item: str | Path) -> str:
        """The text of a file or URL."""
        if self.manifest.files >= self._limits.max_files:
            raise BadPath(
                f"there are more than {self._limits.max_files:,} files", "raise context.max_files or pass a sub-folder"
            )
        raw, text = self._fetched(str(item)) if is_url(item) else self._read(Path(item))
        self.manifest.files += 1
        self.manifest.bytes += len(raw)
        return text

    @property
    def _room(self) -> int:
        return self._limits.max_mb * 1_000_000 - self.manifest.bytes

    def _read(self, path: Path) -> tuple[bytes, str]:
        if _stat(path).st_size > self._room:
            raise self._too_large(path)
        try:
            with path.open("rb") as file:
                raw = file.read(self._room + 1)  # a pipe or device has no size before it is read
        except OSError as err:
            raise NotText(f"{path} cannot be read: {err.strerror}", "check its permissions") from err
        if len(raw) > self._room:
            raise self._too_large(path)
        return raw, self._text(raw, str(path), path.suffix == ".ipynb")

    def _fetched(self, url: str) -> tuple[bytes, str]:
        most = min(MAX_BYTES, self._room)
        page = Fetcher(self._limits.allow_private_urls, most).fetch(url)
        is_notebook = page.content_type == "application/x-ipynb+json" or shown(page.url).endswith(".ipynb")
        if page.content_type in ("text/html", "application/xhtml+xml"):
            self.manifest.notes.append(f"{shown(page.url)} is HTML and read as it is, with its tags")
        return page.body, self._text(page.body, shown(url), is_notebook, page.charset)

    def _text(self, raw: bytes, name: str, is_notebook: bool, charset: str = "") -> str:
        text = _decoded(raw, name, charset)
        if is_notebook and (cells := notebook_text(text)) is not None:
            self.manifest.notebooks += 1
            return cells
        return text

    def _too_large(self, path: Path) -> BadPath:
        return BadPath(
            f"the context is larger than {self._limits.max_mb} MB (at {path})",
            "raise context.max_mb or pass a part of it",
        )


def _items(given: Sequence[str | Path], manifest: Manifest) -> Iterator[tuple[str, str | Path]]:
    """(name in the context, path or URL). Among several, a folder's name leads, so that none hides another."""
    for item in given:
        if is_url(item):
            yield shown(str(item)), item
            continue
        path = Path(item)
        prefix = f"{path.resolve().name}/" if len(given) > 1 else ""
        if _is_folder(path):
            for file in _walk(path, manifest):
                yield prefix + file.relative_to(path).as_posix(), file
        else:
            yield str(item), path


def _free(name: str, taken: Mapping[str, str]) -> str:
    """`name`, or `name (2)` where two folders, files or URLs have one."""
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name} ({number})"
    return free


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


def _is_folder(path: Path) -> bool:
    return stat.S_ISDIR(_stat(path).st_mode)


def _stat(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except FileNotFoundError:
        raise BadPath(f"there is no file or folder {path}", "check the path") from None
    except (OSError, ValueError) as err:
        raise BadPath(
            f"{path} cannot be read: {getattr(err, 'strerror', err)}", "check the path and its permissions"
        ) from err


def _decoded(raw: bytes, name: str, charset: str = "") -> str:
    """`raw` as text: in `charset` where one is said and known, else UTF-8, else an old encoding. Raises NotText."""
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        charset = "utf-16"
    elif b"\0" in raw[:8192]:
        raise NotText(f"{name} is a binary file", "convert it to text first")
    text = ""
    for known in filter(None, (charset, "utf-8-sig", "latin-1")):
        try:
            text = raw.decode(known)
            break
        except (UnicodeError, LookupError):
            if known == "utf-8-sig" and looks_binary(raw):
                raise NotText(f"{name} is a binary file", "convert it to text first") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")  # as Python reads text files


def looks_binary(raw: bytes) -> bool:
    """More than one in twenty control characters in the first 8 kB: no old text encoding looks like that."""
    head = raw[:8192]
    control = sum(byte < 32 and byte not in (9, 10, 12, 13, 27) for byte in head)
    return control > len(head) // 20
