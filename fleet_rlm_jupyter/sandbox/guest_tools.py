"""Functions that every cell has: commands, files, searching, and those beside it. Runs in the guest.

Standard library only. What comes back is bounded and says where it was cut; an error is a sentence with the next step.
"""

from __future__ import annotations

import ast
import contextlib
import fnmatch
import os
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from .guest_volume import HOME, ROOTS, TOOLS_OF_VOLUME, About, home_of_roots
from .guest_work import TOOLS_OF_WORK

MOST_OUTPUT, MOST_TEXT, MOST_READ = 20_000, 100_000, 100_000_000
MOST_FILES, MOST_MATCHES, EXCERPT = 1000, 100, 300
_UNSEEN = {".fleet", ".git"}


class Ran(NamedTuple):
    exit_code: int
    stdout: str
    stderr: str


class Match(NamedTuple):
    source: str
    line: int
    text: str


class Outlined(NamedTuple):
    source: str
    line: int
    end: int
    kind: str
    name: str
    about: str


def run(command: str, seconds: float = 60) -> Ran:
    """Run a shell command: its `exit_code`, 124 if it was stopped after so many seconds, and `stdout` and `stderr`."""
    import selectors
    import signal
    import subprocess
    import time

    none, pipe = subprocess.DEVNULL, subprocess.PIPE
    process = subprocess.Popen(command, shell=True, stdin=none, stdout=pipe, stderr=pipe, start_new_session=True)
    pipes = [file for file in (process.stdout, process.stderr) if file is not None]
    kept = {file.fileno(): bytearray() for file in pipes}
    left_out, half = dict.fromkeys(kept, 0), MOST_OUTPUT // 2
    deadline = time.monotonic() + seconds
    try:
        with selectors.DefaultSelector() as selector, pipes[0], pipes[1]:
            for fd in kept:
                selector.register(fd, selectors.EVENT_READ)
            while selector.get_map() and time.monotonic() < deadline:
                is_over = process.poll() is not None
                ready = selector.select(0.1)
                if is_over and not ready:
                    break  # what it left running has the pipes
                for key, _ in ready:
                    if not (data := os.read(key.fd, 65536)):
                        selector.unregister(key.fd)
                    kept[key.fd] += data
                    over = max(0, len(kept[key.fd]) - MOST_OUTPUT)
                    del kept[key.fd][half : half + over]
                    left_out[key.fd] += over
            while process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.005)  # it has closed its output and works on
    finally:
        is_late = process.poll() is None
        if is_late:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    for fd, over in left_out.items():
        kept[fd][half:half] = f"\n… {over:,} bytes left out …\n".encode() if over else b""
    out, err = (said.decode(errors="replace") for said in kept.values())
    late = f"\nstopped after {seconds:g} seconds: pass more seconds, or do less at once" if is_late else ""
    return Ran(124 if is_late else process.returncode, out, err + late)


def read_file(path: str, first: int = 1, last: int | None = None) -> str:
    """Lines `first` to `last` of a text file, counted from 1; a note at the end says where a long text was cut."""
    pieces: list[str] = []
    room = MOST_TEXT
    with About(path), open(path, encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, 1):
            if room < 0 or (last is not None and number > last):
                break
            if number >= first:
                pieces.append(line[:room])
                room -= len(line)
                if room < 0:
                    pieces.append(f"\n… cut in line {number}: go on with read_file({path!r}, {number}), or with peek")
    return "".join(pieces)


def list_files(path: str = ".") -> list[str]:
    """What is in a folder, sorted; a folder ends with a slash."""
    with About(path):
        names = sorted({*os.listdir(path)} - _UNSEEN)
    if len(names) > MOST_FILES:
        print(f"only {MOST_FILES:,} of {len(names):,} names: find_files(pattern, path) finds others")
    full = [os.path.normpath(os.path.join(path, name)) for name in names[:MOST_FILES]]
    return [f"{one}/" if os.path.isdir(one) else one for one in full]


def find_files(pattern: str, path: str = ".") -> list[str]:
    """Files at any depth below a folder with a name like "*.csv"; with a slash in it, with a path like that."""
    found: list[str] = []
    for full in _walk(path):
        if fnmatch.fnmatchcase(os.path.relpath(full, path) if "/" in pattern else os.path.basename(full), pattern):
            if len(found) == MOST_FILES:
                print(f"only the first {MOST_FILES:,} files: name a folder, or a pattern that fits fewer")
                break
            found.append(full)
    return found


def peek(source: Any, at: int = 0, chars: int = 2000) -> str:
    """Characters of a text or file from `at` on, from the end if it is negative; at most 100,000."""
    text = _text(source)
    begin = max(0, len(text) + at) if at < 0 else at
    return text[begin : begin + max(0, min(chars, MOST_TEXT))]


def grep(pattern: str, source: Any, context: int = 0) -> list[Match]:
    """Where a regular expression is in a text, a file, the files of a folder or a dict of texts: `source` (the name),
    `line`, and `text`, which has `context` lines around it too. "^" and "$" are the ends of a line; 100 at most.
    """
    try:
        wanted = re.compile(pattern, re.MULTILINE)
    except re.error as err:
        raise ValueError(f"{pattern!r} is no regular expression ({err}): re.escape makes a text one") from None
    found: list[Match] = []
    for name, text in _texts(source):
        line, counted, shown = 1, 0, 0
        for match in wanted.finditer(text):
            at, to = match.span()
            if at < shown:
                continue
            if len(found) == MOST_MATCHES:
                print(f"only the first {MOST_MATCHES} matches: use a narrower pattern, or re.finditer for all")
                return found
            line, counted = line + text.count("\n", counted, at), at
            room = EXCERPT * (context + 1)
            before = text[max(0, at - room) : at].split("\n")[-context - 1 :]
            after = text[to : to + room].split("\n")[: context + 1]
            shown = to + len(after[0])  # one for what is shown of a line
            found.append(Match(name, line, "\n".join(before) + text[at:to][:room] + "\n".join(after)))
    if not found and isinstance(source, str) and len(source) < 200 and not _is_path(source):
        print(f"{source!r} is no file that is there, and was searched as a text")
    return found


def outline(source: Any) -> list[Outlined]:
    """The classes and functions of Python sources, a text, file or folder: `source`, `line`, `end`, `kind`, `name` with
    those around it, and `about`, the first line of its docstring. At most 1,000.
    """
    found: list[Outlined] = []
    for name, text in _texts(source):
        if name.endswith(".py") or not (_is_path(source) and os.path.isdir(source)):
            try:
                found += _defined(ast.parse(text), name, "")
            except (SyntaxError, ValueError, RecursionError) as err:
                print(f"{name} is no Python that can be read, and was left out: {err}")
    if len(found) > MOST_FILES:
        print(f"only the first {MOST_FILES:,} of {len(found):,}: name a file, or a folder with fewer")
    return found[:MOST_FILES]


TOOLS: tuple[Callable[..., Any], ...] = (
    run, read_file, list_files, find_files, peek, grep, outline, *TOOLS_OF_WORK, *TOOLS_OF_VOLUME,
)  # fmt: skip


def _defined(body: ast.AST, source: str, inside: str) -> Iterator[Outlined]:
    for node in ast.iter_child_nodes(body):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            name, kind = inside + node.name, "class" if isinstance(node, ast.ClassDef) else "def"
            about = (ast.get_docstring(node) or "").partition("\n")[0][:EXCERPT]
            yield Outlined(source, node.lineno, node.end_lineno or node.lineno, kind, name, about)
            yield from _defined(node, source, f"{name}.")
        else:
            yield from _defined(node, source, inside)


def _walk(path: str) -> Iterator[str]:
    """Every file below a folder; those on a volume by its roots, which are links in the first folder."""
    with About(path):
        os.listdir(path)
    has_links = os.path.realpath(path) == HOME != home_of_roots()
    for start in (path, *(os.path.join(path, root) for root in ROOTS if has_links)):
        for here, folders, names in os.walk(start):
            unseen = {*_UNSEEN, "volume"} if here == path and has_links else _UNSEEN
            folders[:] = sorted({*folders} - unseen)
            yield from (os.path.normpath(os.path.join(here, name)) for name in sorted(names))


def _is_path(source: Any) -> bool:
    """A Path, or a text that names what is there."""
    if isinstance(source, str):
        return len(source) < 4096 and not {"\n", "\0"} & {*source} and os.path.exists(source)
    return isinstance(source, os.PathLike)


def _text(source: Any) -> str:
    if not _is_path(source):
        if not isinstance(source, str):
            raise TypeError(f"{type(source).__name__} is neither text nor path: pass str(value), or a text in it")
        return source
    with About(os.fspath(source)), open(source, encoding="utf-8", errors="replace") as file:
        text = file.read(MOST_READ)
    if len(text) == MOST_READ:
        print(f"only the first {MOST_READ:,} characters of {source}: open() reads it in pieces")
    return text


def _texts(source: Any) -> Iterator[tuple[str, str]]:
    """Texts with their names; what is no text in a folder, or cannot be read, is left out."""
    if isinstance(source, dict):
        yield from ((str(name), str(text)) for name, text in source.items())
    elif _is_path(source) and os.path.isdir(source):
        for path in _walk(os.fspath(source)):
            with contextlib.suppress(OSError):
                if os.path.isfile(path) and "\0" not in (text := _text(path))[:8000]:
                    yield path, text
    else:
        yield os.fspath(source) if _is_path(source) else "text", _text(source)
