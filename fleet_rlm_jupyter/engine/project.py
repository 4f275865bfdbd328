"""A copy of the user's project for a child: paths, and the few text files that fit its prompt best.

Secrets stay here: names that begin with a dot, keys and certificates, whatever else staging leaves out of folders.
"""

from __future__ import annotations

import codecs
import os
import re
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fleet_rlm_jupyter.domain.errors import ToolFailed
from fleet_rlm_jupyter.engine.contexts import SKIPPED_FOLDERS, looks_binary
from fleet_rlm_jupyter.engine.documents import FOLDER, Given, digest_of_text
from fleet_rlm_jupyter.engine.staging import roots_of
from fleet_rlm_jupyter.settings import Settings

MOST_PATHS, MOST_FILES, FILES_WHERE_NONE_FITS = 400, 24, 12
FILE_CHARS, ALL_CHARS = 12_000, 180_000
MOST_LOOKED_AT = 2000

_MAY_BE_SECRET = re.compile(
    r"\.(pem|key|p12|pfx|jks|keystore|kdbx|gpg|asc|ovpn)$|^id_(rsa|dsa|ecdsa|ed25519)|secret|credential|password", re.I
)
_PRIVATE_KEY = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY")
_COMMON = re.compile(
    r"and|are|but|can|does|find|for|from|has|have|how|into|its|look|not|that|the|their|them|then|there|this|was|what"
    r"|when|where|which|who|why|will|with|you|your"
)


@dataclass(frozen=True, slots=True)
class _File:
    path: str
    bytes: int
    text: str
    score: int

    @property
    def rank(self) -> tuple[int, int, str]:
        """Best first; among equals what lies higher, then by name."""
        return -self.score, self.path.count("/"), self.path


def project_copy(prompt: str, settings: Settings) -> Given:
    """One text with the paths and the chosen files, for the same files and prompt always the same. Raises ToolFailed.

    It says what was left out. Links are not followed, and only the beginning of a long file is looked at.
    """
    if not settings.delegation.project:
        raise ToolFailed("no copy of the project is given here (delegation.project=false)", "go on without it")
    files, left_out = _looked_at(roots_of(settings), words_of(prompt))
    if not files:
        raise ToolFailed("there is no text in the project", "go on without it")
    files.sort(key=lambda file: file.rank)
    chosen = [file for file in files if file.score][:MOST_FILES] or files[:FILES_WHERE_NONE_FITS]
    parts, room, copied = list[str](), ALL_CHARS, 0
    tag = digest_of_text("".join(file.text for file in chosen))
    for file in chosen:
        text = file.text[: min(FILE_CHARS, room)]
        if not text:
            continue
        room -= len(text)
        copied += 1
        cut = f", its first {len(text):,} characters" if len(text) < len(file.text) or file.bytes > _READ else ""
        parts.append(f"=== [{tag}] {file.path}{cut} ===\n{text}\n")
    said = f"{copied} of {len(files):,} text files"
    paths = [f"{file.path}  {file.bytes:,}" for file in files[:MOST_PATHS]]
    head = [f"A copy of {said}, by the words of the prompt. Files begin with a line that has [{tag}].", ""]
    why_not = [f"- {why}: {count:,}" for why, count in sorted(left_out.items()) if count]
    head += ["Left out:", *(why_not or ["- nothing"]), ""]
    head += [f"Paths and bytes, {len(paths)} of {len(files):,}, best first:", *paths, "", ""]
    whole = "\n".join([*head, *parts])
    return Given(f"a copy of {said} of the project", whole, f"{FOLDER}/project-{digest_of_text(whole)}.txt")


def words_of(prompt: str) -> list[str]:
    """What the files are looked through for: words of three letters and more, without the commonest."""
    words = re.findall(r"\w{3,}", prompt.lower())
    return [word for word in dict.fromkeys(words) if not _COMMON.fullmatch(word)][:50]


def score_of(path: str, text: str, words: Sequence[str]) -> int:
    """Five for a word in the path, one for each time it is in the text, five times at most."""
    low_path, low = path.lower(), text.lower()
    return sum(5 * (word in low_path) + min(low.count(word), 5) for word in words)


_READ = FILE_CHARS * 4
"""Bytes that FILE_CHARS characters have at most."""


def _looked_at(roots: Sequence[Path], words: Sequence[str]) -> tuple[list[_File], Counter[str]]:
    files: list[_File] = []
    left_out: Counter[str] = Counter()
    for number, root in enumerate(roots, 1):
        prefix = f"{number:02}-{root.name}/" if len(roots) > 1 else ""
        for path in _walk(root, left_out):
            if len(files) + left_out.total() >= MOST_LOOKED_AT:
                left_out[f"not looked at, after {MOST_LOOKED_AT:,}: the rest"] = 1
                return files, left_out
            name = "".join(char if char.isprintable() else "?" for char in prefix + path.relative_to(root).as_posix())
            read = _read(path)
            if isinstance(read, str):
                left_out[read] += 1
                continue
            size, text = read
            files.append(_File(name, size, text, score_of(name, text, words)))
    return files, left_out


def _walk(root: Path, left_out: Counter[str]) -> Iterator[Path]:
    for here, folders, names in os.walk(root):
        kept = [name for name in folders if name not in SKIPPED_FOLDERS and not name.startswith(".")]
        left_out["hidden folders, and those of caches, packages or histories"] += len(folders) - len(kept)
        folders[:] = sorted(kept)
        for name in sorted(names):
            if name.startswith(".") or _MAY_BE_SECRET.search(name):
                left_out["hidden files, and those that may hold keys"] += 1
            else:
                yield Path(here, name)


def _read(path: Path) -> tuple[int, str] | str:
    """(bytes, text of its beginning), or why it is left out."""
    try:
        made = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)  # no link, and no pipe that holds us up
        with open(made, "rb") as stream:
            about = os.fstat(made)
            if not stat.S_ISREG(about.st_mode):
                return "links, and what is no regular file"
            raw = stream.read(_READ)
    except OSError:
        return "links, and what cannot be read"
    try:
        text = codecs.getincrementaldecoder("utf-8-sig")().decode(raw, final=about.st_size <= len(raw))
    except UnicodeDecodeError:
        return "no UTF-8 text"
    if "\0" in text or looks_binary(raw):
        return "no UTF-8 text"
    if _PRIVATE_KEY.search(text):
        return "hidden files, and those that may hold keys"
    return about.st_size, text
