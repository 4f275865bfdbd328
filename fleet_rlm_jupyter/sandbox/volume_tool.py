"""Runs where a volume is mounted: looks at it and changes it without following a link. Standard library only.

What is asked for is one JSON object, `{"do": NAME, "base": FOLDER, …}`; the answer is `{"ok": …}` or `{"error": KIND}`.
Files are written whole and moved by copying: the object store behind a volume knows no rename, no append, no change.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
import sys
from collections.abc import Generator

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_PIECE = 1 << 20


class Refused(Exception):
    """Something cannot be done; says what is in the way."""


@contextlib.contextmanager
def folder(base: str, path: str, *, make: bool = False) -> Generator[int]:
    """A descriptor of the folder `path` below `base`, reached without following a link."""
    if make:
        os.makedirs(base, exist_ok=True)
    here = os.open(base, os.O_RDONLY | os.O_DIRECTORY)  # `base` itself may be one: that is how a volume is shown
    try:
        for part in filter(None, path.split("/")):
            if make:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, 0o755, dir_fd=here)
            there = os.open(part, _FOLDER, dir_fd=here)
            os.close(here)
            here = there
        yield here
    finally:
        os.close(here)


def kind(here: int, name: str) -> str:
    """file, folder, link, other, or "" where there is nothing."""
    try:
        mode = os.stat(name, dir_fd=here, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return ""
    if stat.S_ISLNK(mode):
        return "link"
    return "folder" if stat.S_ISDIR(mode) else "file" if stat.S_ISREG(mode) else "other"


def look(base: str, path: str) -> dict[str, object]:
    parent, _, name = path.rpartition("/")
    with folder(base, parent) as here:
        found = kind(here, name)
        if not found:
            raise Refused("missing")
        return {"kind": found, "bytes": os.stat(name, dir_fd=here, follow_symlinks=False).st_size}


def tree(base: str, path: str, depth: int, most: int, only: list[str] | None = None) -> dict[str, object]:
    """Entries below `path`, a folder before what is in it. `is_cut` says that there is more than was asked for.

    `only`: what of the names in `base` itself is meant.
    """
    entries: list[list[object]] = []
    is_cut = False
    stack = [(path, 1)]
    while stack:
        inside, level = stack.pop()
        with folder(base, inside) as here:
            below: list[tuple[str, int]] = []
            for name in sorted(os.listdir(here)):
                if len(entries) >= most:
                    return {"entries": entries, "is_cut": True}
                if not inside and only is not None and name not in only:
                    continue
                full = f"{inside}/{name}" if inside else name
                try:
                    full.encode()
                    found = os.stat(name, dir_fd=here, follow_symlinks=False)
                except (OSError, UnicodeEncodeError):
                    is_cut = True
                    continue
                what = kind(here, name)
                entries.append([full, what, found.st_size if what == "file" else 0, int(found.st_mtime)])
                if what == "folder" and level < depth:
                    below.append((full, level + 1))
                elif what == "folder":
                    with folder(base, full) as deeper:
                        is_cut = is_cut or bool(os.listdir(deeper))
            stack += reversed(below)
    return {"entries": entries, "is_cut": is_cut}


def digests(base: str, path: str, most: int) -> dict[str, object]:
    """[path, bytes, sha256] of `path` if it is a file, else of the files below it, of whatever depth."""
    found: dict[str, object] = {"entries": [], "is_cut": False}
    try:
        seen = look(base, path)
        if seen["kind"] == "file":
            found["entries"] = [(path, "file", seen["bytes"], 0)]
        elif seen["kind"] == "folder":
            found = tree(base, path, 32, most)
    except (FileNotFoundError, Refused):
        return found
    entries = found["entries"]
    assert isinstance(entries, list)
    files: list[list[object]] = []
    for full, what, size, _ in entries:
        if what == "file":
            parent, _, name = full.rpartition("/")
            with folder(base, parent) as here:
                files.append([full, size, _digest(here, name)])
    return {"entries": files, "is_cut": found["is_cut"]}


def digests_of(base: str, paths: list[str]) -> dict[str, object]:
    """[path, bytes, sha256] of those that are files."""
    files: list[list[object]] = []
    for path in paths:
        try:
            seen = look(base, path)
            if seen["kind"] == "file":
                parent, _, name = path.rpartition("/")
                with folder(base, parent) as here:
                    files.append([path, seen["bytes"], _digest(here, name)])
        except (OSError, Refused):
            continue
    return {"entries": files, "is_cut": False}


def prepare(base: str, path: str) -> dict[str, object]:
    """Make the folders above a file that is about to be written; refuse what is there and no file."""
    parent, _, name = path.rpartition("/")
    with folder(base, parent, make=True) as here:
        if kind(here, name) not in ("", "file"):
            raise Refused(kind(here, name))
    return {}


def make_folder(base: str, path: str) -> dict[str, object]:
    with folder(base, path, make=True):
        return {}


def delete(base: str, path: str) -> dict[str, object]:
    parent, _, name = path.rpartition("/")
    with folder(base, parent) as here:
        _remove(here, name)
    return {}


def move(base: str, path: str, to: str) -> dict[str, object]:
    if (to + "/").startswith(path + "/"):
        raise Refused("inside itself")
    parent, _, name = path.rpartition("/")
    above, _, new = to.rpartition("/")
    with folder(base, parent) as here, folder(base, above, make=True) as there:
        if kind(there, new):
            raise Refused("exists")
        _copy(here, name, there, new)
        _remove(here, name)
    return {}


def _copy(here: int, name: str, there: int, new: str) -> None:
    what = kind(here, name)
    if not what:
        raise Refused("missing")
    if what == "folder":
        os.mkdir(new, 0o755, dir_fd=there)
        source, target = os.open(name, _FOLDER, dir_fd=here), os.open(new, _FOLDER, dir_fd=there)
        try:
            for inner in os.listdir(source):
                _copy(source, inner, target, inner)
        finally:
            os.close(source)
            os.close(target)
    elif what == "file":
        reader = os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=here)
        with (
            open(reader, "rb") as old,
            open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644, dir_fd=there), "wb") as made,
        ):
            while piece := old.read(_PIECE):
                made.write(piece)
    else:
        raise Refused(what)


def _remove(here: int, name: str) -> None:
    what = kind(here, name)
    if not what:
        raise Refused("missing")
    if what != "folder":
        os.unlink(name, dir_fd=here)
        return
    inside = os.open(name, _FOLDER, dir_fd=here)
    try:
        for inner in os.listdir(inside):
            _remove(inside, inner)
    finally:
        os.close(inside)
    os.rmdir(name, dir_fd=here)


def _digest(here: int, name: str) -> str:
    import hashlib  # takes longer to import than all of a guest's other modules

    found = hashlib.sha256()
    with open(os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=here), "rb") as file:
        while piece := file.read(_PIECE):
            found.update(piece)
    return found.hexdigest()


_DO = {
    "look": look, "tree": tree, "digests": digests, "digests_of": digests_of, "prepare": prepare,
    "make_folder": make_folder, "delete": delete, "move": move,
}  # fmt: skip
_KINDS = {errno.ENOENT: "missing", errno.ELOOP: "link", errno.ENOTDIR: "no folder", errno.ENOSPC: "full"}


def answer(request: str) -> str:
    """The answer to a request, both as JSON."""
    asked = json.loads(request)
    work = _DO[asked.pop("do")]
    try:
        return json.dumps({"ok": work(**asked)})
    except Refused as err:
        return json.dumps({"error": str(err)})
    except OSError as err:
        return json.dumps({"error": _KINDS.get(err.errno or 0, err.strerror or "failed")})


if __name__ == "__main__":
    print(answer(sys.argv[1]))
