"""Buffers and files on the volume, for cells. Runs in the guest, standard library only.

A file is written once and whole: the object store behind a volume knows no rename, no append and no lock.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable
from typing import Any

from .volume_tool import delete, folder, kind

ROOTS = ("memory", "artifacts", "buffers", "meta")
HOME = os.getcwd()  # cells may change the working folder
_SAID: dict[type[OSError], str] = {
    FileNotFoundError: "there is no {}: list_files() and find_files() say what there is",
    FileExistsError: "{} is there: choose another name, or pass replace=True where it is a file",
    IsADirectoryError: "{} is a folder: list_files says what is in it",
    OSError: "{} cannot be used (a link, no folder, closed or full): choose another path",
}


class About:
    """Says an OSError in a sentence. A class, for the frames of a generator would be in the cell's traceback."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, err: BaseException | None, trace: object) -> None:
        for known, said in _SAID.items():
            if isinstance(err, known):
                raise known(said.format(self._path)) from None


def add_buffer(name: str, text: Any) -> str:
    """Keep one more text under a name, for later cells and turns; below buffers/ of the volume where there is one."""
    if not isinstance(text, str):
        raise TypeError(f"a buffer keeps texts, not {type(text).__name__}: pass str(value) or json.dumps(value)")
    number = len(_pieces(name))
    while True:  # a file for each: the store behind a volume cannot append
        number += 1
        with contextlib.suppress(FileExistsError):
            return save_to_volume(f"buffers/{name}/{number:06}.txt", text)


def get_buffer(name: str) -> list[str]:
    """The texts that are kept under a name, oldest first."""
    return [str(load_from_volume(f"buffers/{name}/{piece}")) for piece in _pieces(name)]


def clear_buffer(name: str) -> None:
    """Forget the texts that are kept under a name."""
    for piece in reversed(_pieces(name)):
        with About(f"buffers/{name}"):
            delete(home_of_roots(), f"buffers/{name}/{piece}")


def save_to_volume(path: str, data: Any, replace: bool = False) -> str:
    """Write a file below memory/, artifacts/, buffers/ or meta/, once and whole, or anew with `replace`. Says where."""
    if not isinstance(data, str | bytes):
        raise TypeError(f"a file has text or bytes, not {type(data).__name__}: pass str(value) or json.dumps(value)")
    content = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data
    parent, name = _inside(path)
    with About(path), folder(home_of_roots(), parent, make=True) as here:
        if replace and kind(here, name) == "file":
            os.unlink(name, dir_fd=here)
        made = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644, dir_fd=here)
        try:
            with open(made, "wb") as file:
                file.write(content)
        except BaseException:
            os.unlink(name, dir_fd=here)  # half of it must not pass for the file
            raise
    where = "on the volume" if home_of_roots() != HOME else "in this sandbox and end with it, for it has no volume"
    return f"{path}: {len(content):,} bytes are {where}"


def load_from_volume(path: str, as_bytes: bool = False) -> str | bytes:
    """The text, or the bytes, of a file below memory/, artifacts/, buffers/ or meta/."""
    parent, name = _inside(path)
    with About(path), folder(home_of_roots(), parent) as here:
        if kind(here, name) == "folder":
            raise IsADirectoryError
        with open(os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=here), "rb") as file:
            content = file.read()
    try:
        return content if as_bytes else content.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is no text: load_from_volume({path!r}, as_bytes=True) gives its bytes") from None


TOOLS_OF_VOLUME: tuple[Callable[..., Any], ...] = (
    add_buffer, get_buffer, clear_buffer, save_to_volume, load_from_volume,
)  # fmt: skip


def home_of_roots() -> str:
    """The folder with the roots; where there is a volume they are links to those on it."""
    return os.path.dirname(os.path.realpath(os.path.join(HOME, "buffers")))


def _inside(path: Any) -> tuple[str, str]:
    """The folder and the name of a file below one of the roots."""
    root, *below = path.split("/") if isinstance(path, str) else [""]
    if root not in ROOTS or not below or any(part in ("", ".", "..") or "\0" in part for part in below):
        raise ValueError(f"{path!r} is no file below {', '.join(ROOTS)}: use a path like 'memory/notes.txt'")
    return "/".join([root, *below[:-1]]), below[-1]


def _pieces(name: Any) -> list[str]:
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", name):
        raise ValueError(f"{name!r} is no name of a buffer: use letters, digits, _, - and . as in 'notes'")
    with contextlib.suppress(FileNotFoundError), About(f"buffers/{name}"):
        with folder(home_of_roots(), f"buffers/{name}") as here:
            return sorted(piece for piece in os.listdir(here) if piece.endswith(".txt"))
    return []
