"""Files below a volume's roots, through a sandbox that has them; no link is followed."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from fleet_rlm_jupyter.domain.errors import BadPath, FleetError, SandboxError
from fleet_rlm_jupyter.domain.ports import Entry, Listing
from fleet_rlm_jupyter.domain.volume import ROOTS, VolumePath
from fleet_rlm_jupyter.sandbox.client import CALL_SECONDS, DaytonaClient
from fleet_rlm_jupyter.sandbox.retries import retried

FILE_SECONDS = 600
_TOOL = (Path(__file__).parent / "volume_tool.py").read_text(encoding="utf-8")
_SAID = {
    "missing": ("there is no {}", "look at the tree for what is there"),
    "link": ("{} is a link or behind one", "links are not followed: name the file itself"),
    "no folder": ("{} is not in a folder", "look at the tree for what is there"),
    "folder": ("{} is a folder", "name a file"),
    "exists": ("{} is there already", "delete it first, or choose another name"),
    "inside itself": ("{} would be moved into itself", "choose another name"),
}


class Place(Protocol):
    """A folder with the four roots, somewhere. Answers of `ask` are not to be trusted: code of a run was there."""

    def ask(self, do: str, **given: Any) -> Any: ...
    def pieces(self, path: str) -> Iterator[bytes]: ...
    def put(self, path: str, data: bytes | Path) -> None: ...


class Digest(BaseModel):
    """What is known of one file without reading it."""

    model_config = ConfigDict(frozen=True)

    path: str
    bytes: int
    sha256: str


class _Look(BaseModel):
    kind: str
    bytes: int


class _Tree(BaseModel):
    entries: list[tuple[str, str, int, float]]
    is_cut: bool


class _Digests(BaseModel):
    entries: list[tuple[str, int, str]]
    is_cut: bool


_ANSWER: TypeAdapter[dict[str, Any]] = TypeAdapter(dict[str, Any])


class SandboxPlace:
    """The folder `base` in a started sandbox."""

    def __init__(self, client: DaytonaClient, sandbox: Any, base: str) -> None:
        self._client = client
        self._sandbox = sandbox
        self._base = base

    def ask(self, do: str, **given: Any) -> Any:
        request = json.dumps({"do": do, "base": self._base, **given})
        command = f"python3 -I -S -c {shlex.quote(_TOOL)} {shlex.quote(request)}"
        work = retried(lambda: self._sandbox.process.exec(command, timeout=CALL_SECONDS))
        done = self._client.call(work, CALL_SECONDS)
        try:
            return _ANSWER.validate_json(done.result)
        except ValidationError as err:
            raise SandboxError(
                f"the sandbox did not say what its files are: {done.result.strip()[-300:]}", "ask again"
            ) from err

    def pieces(self, path: str) -> Iterator[bytes]:
        full = f"{self._base}/{path}"
        return self._client.pieces(lambda: self._sandbox.fs.download_file_stream(full, FILE_SECONDS), CALL_SECONDS)

    def put(self, path: str, data: bytes | Path) -> None:
        full, source = f"{self._base}/{path}", str(data) if isinstance(data, Path) else data
        work = retried(lambda: self._sandbox.fs.upload_file(source, full, timeout=FILE_SECONDS))
        self._client.call(work, FILE_SECONDS)


class VolumeFiles:
    """`domain.ports.Files` over a place. `place` may be costly and is asked for anew each time: it may have moved.

    `place(False)` is None where nothing is there to be read, and then the tree is empty.
    """

    def __init__(self, place: Callable[[bool], Place | None]) -> None:
        self._place = place

    def tree(self, path: str = "", depth: int = 10, most: int = 2000) -> Listing:
        checked = str(VolumePath(path)) if path else ""
        place = self._place(False)
        if place is None:
            return Listing([], False)
        said = place.ask("tree", path=checked, depth=depth, most=most, only=list(ROOTS))
        if not path and said.get("error") == "missing":
            return Listing([], False)  # nothing was written yet
        found = _Tree.model_validate(_ok(said, path))
        return Listing([Entry(*entry) for entry in found.entries], found.is_cut)

    def read(self, path: str, most_bytes: int = 1_000_000) -> bytes:
        return b"".join(self.pieces(path, most_bytes))

    def pieces(self, path: str, most_bytes: int) -> Iterator[bytes]:
        checked = str(VolumePath(path))
        place = self._place(False)
        if place is None:
            raise _refused("missing", path)
        found = _Look.model_validate(_ok(place.ask("look", path=checked), path))
        if found.kind != "file":
            raise _refused(found.kind, path)
        if found.bytes > most_bytes:
            raise BadPath(f"{path} has {found.bytes:,} bytes", f"ask for more than {most_bytes:,}")
        return _at_most(most_bytes, place.pieces(checked))  # it may have grown meanwhile

    def write(self, path: str, data: bytes | Path) -> None:
        put_file(self._there(), str(_inside(path)), data)

    def make_folder(self, path: str) -> None:
        _ok(self._there().ask("make_folder", path=str(VolumePath(path))), path)

    def move(self, path: str, to: str) -> None:
        _ok(self._there().ask("move", path=str(_inside(path)), to=str(_inside(to))), path)

    def delete(self, path: str) -> None:
        _ok(self._there().ask("delete", path=str(_inside(path))), path)

    def _there(self) -> Place:
        place = self._place(True)
        assert place is not None
        return place


def content(place: Place, path: str, most_bytes: int) -> bytes:
    """What is in a file, a checked path; of one that has grown its head."""
    return b"".join(_at_most(most_bytes, place.pieces(path)))


def _at_most(most_bytes: int, pieces: Iterator[bytes]) -> Generator[bytes]:
    for piece in pieces:
        yield piece[:most_bytes]
        most_bytes -= len(piece)
        if most_bytes <= 0:
            return


def put_file(place: Place, path: str, data: bytes | Path) -> None:
    """Write `data`, or what is in that file here, whole to `path`, a checked path, making the folders above it."""
    _ok(place.ask("prepare", path=path), path)
    place.put(path, data)


def digests_of(place: Place, paths: list[str]) -> list[Digest]:
    """The files among `paths`, with their digests; what is no file any more is left out."""
    found = _Digests.model_validate(_ok(place.ask("digests_of", paths=paths), "artifacts"))
    return [Digest(path=path, bytes=size, sha256=sha256) for path, size, sha256 in found.entries if path in paths]


def digests_below(place: Place, path: str, most: int) -> tuple[list[Digest], bool]:
    """The files below `path` with their digests, at most `most`, and whether there are more. What is no path is not."""
    found = _Digests.model_validate(_ok(place.ask("digests", path=path, most=most), path))
    files: list[Digest] = []
    for full, size, sha256 in found.entries:
        try:
            files.append(Digest(path=str(VolumePath(full)), bytes=size, sha256=sha256))
        except BadPath:
            continue
    return files, found.is_cut


def sha256_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _inside(path: str) -> VolumePath:
    checked = VolumePath(path)
    if str(checked) == checked.root:
        raise BadPath(f"{path} is a root of the volume", "name something in it")
    return checked


def _ok(said: dict[str, Any], path: str) -> Any:
    if "error" in said:
        raise _refused(str(said["error"])[:200], path)
    return said.get("ok")


def _refused(kind: str, path: str) -> FleetError:
    if kind in _SAID:
        text, hint = _SAID[kind]
        return BadPath(text.format(path), hint)
    if kind == "full":
        return SandboxError("the volume is full", "delete files, or move them elsewhere")
    return BadPath(f"{path} cannot be had: {kind}", "look at the tree for what is there")
