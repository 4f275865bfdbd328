"""Run in a sandbox by `python3 -c`: what its workspace holds, and how that is brought up to date.

Needs nothing but Python. `base` is the working folder, the files are in workspace/NAME, and .fleet/workspaces/NAME.json
says which of them were put there, from where. A repository comes as one archive; of staged files, which a manifest
lists with their digests, only those that are not there.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import sys
import tarfile
from typing import Any

MANIFEST = "manifest.json"


def answer(text: str) -> str:
    """What the request in `text` comes to, as JSON."""
    request = json.loads(text)
    base, name = request["base"], request["name"]
    folder = os.path.join(base, "workspace", name)
    record = os.path.join(base, ".fleet", "workspaces", f"{name}.json")
    before = _read(record) if os.path.isdir(folder) and not os.path.islink(folder) else {}
    if request["do"] == "look":
        if before:
            os.utime(record)  # it is the one that is asked about now: see guest_work
        return json.dumps({"digest": before.get("digest", "")})
    archive = os.path.join(base, request["archive"])
    if request["do"] == "compare":
        return json.dumps(_compared(folder, before, archive))
    try:
        if request["do"] == "stage":
            return json.dumps(_stage(folder, record, before, os.path.join(base, request["manifest"]), archive))
        return json.dumps({"files": _place(folder, record, before, request, archive)})
    finally:
        os.unlink(archive)


def _place(folder: str, record: str, before: dict[str, Any], request: dict[str, Any], archive: str) -> int:
    os.makedirs(os.path.dirname(record), exist_ok=True)
    os.makedirs(os.path.dirname(folder), exist_ok=True)
    if before.get("source") != request["source"]:
        before = {}
        _remove(folder)
    os.makedirs(folder, exist_ok=True)
    with tarfile.open(archive) as tar:
        members = tar.getmembers()
        files = sorted(one.name for one in members if not one.isdir())
        known = {"source": request["source"], "digest": "", "files": sorted({*files, *before.get("files", ())})}
        _write(record, known)  # if this ends in the middle, nobody takes the half for the whole
        for path in sorted(set(before.get("files", ())) - set(files)):
            _vanish(folder, path)
        for one in members:
            _make_room(folder, one.name, one.isdir())
        # The sandbox is the boundary: links of the tree stay what they are.
        trusted: dict[str, Any] = {"filter": "fully_trusted"} if hasattr(tarfile, "fully_trusted_filter") else {}
        tar.extractall(folder, members, **trusted)
    _write(record, {"source": request["source"], "digest": request["digest"], "files": files})
    return len(files)


def _compared(folder: str, before: dict[str, Any], manifest: str) -> dict[str, Any]:
    """Places in the manifest of one file for each content that is not here, and how many files are to go."""
    wanted, there = _read(manifest), _intact(folder, before)
    missing = {one["sha256"]: place for place, one in enumerate(wanted["files"]) if one["sha256"] not in there.values()}
    moved = [one for one in wanted["files"] if there.get(one["path"]) != one["sha256"]]
    gone = set(before.get("files", ())) - {one["path"] for one in wanted["files"]}
    is_same = _read(os.path.join(folder, MANIFEST)) == wanted and not moved and not gone
    if is_same:
        os.unlink(manifest)
    return {
        "missing": sorted(missing.values()),
        "gone": len(gone),
        "is_new": "files" not in before,
        "is_same": is_same,
    }


def _stage(folder: str, record: str, before: dict[str, Any], manifest: str, archive: str) -> dict[str, Any]:
    wanted, there = _read(manifest)["files"], _intact(folder, before)
    os.makedirs(os.path.dirname(record), exist_ok=True)
    os.makedirs(os.path.dirname(folder), exist_ok=True)
    if os.path.islink(folder) or not os.path.isdir(folder):
        _remove(folder)
        os.mkdir(folder)
    pool = f"{archive}.d"
    try:
        os.mkdir(pool)
        with tarfile.open(archive) as tar:
            for member in tar.getmembers():
                if source := tar.extractfile(member):
                    with source, open(os.path.join(pool, os.path.basename(member.name)), "wb") as file:
                        shutil.copyfileobj(source, file)
        needed = {one["sha256"] for one in wanted if there.get(one["path"]) != one["sha256"]}
        for path, sha256 in there.items():  # what only has another name now
            if sha256 in needed and not os.path.exists(os.path.join(pool, sha256)):
                shutil.copyfile(os.path.join(folder, path), os.path.join(pool, sha256))
        paths = [one["path"] for one in wanted]
        unsure = {path: ["", 0, 0] for path in [*before.get("files", ()), *paths]}
        _write(record, {"files": unsure})  # if this ends in the middle, nobody takes the half for the whole
        for path in set(before.get("files", ())) - set(paths):
            _vanish(folder, path)
        known: dict[str, Any] = {}
        for one in wanted:
            path, sha256 = one["path"], one["sha256"]
            full = os.path.join(folder, path)
            if there.get(path) != sha256:
                _make_room(folder, path, False)
                os.makedirs(os.path.dirname(full), exist_ok=True)
                shutil.copyfile(os.path.join(pool, sha256), full)
            found = os.lstat(full)
            known[path] = [sha256, found.st_size, found.st_mtime_ns]
        _remove(os.path.join(folder, MANIFEST))
        shutil.move(manifest, os.path.join(folder, MANIFEST))
        _write(record, {"files": known})
    finally:
        _remove(pool)
    return {"files": len(known)}


def _intact(folder: str, before: dict[str, Any]) -> dict[str, str]:
    """path -> digest of the staged files that nobody changed since they were put there."""
    found: dict[str, str] = {}
    known = before.get("files")
    for path, (sha256, size, changed) in known.items() if isinstance(known, dict) else ():
        try:
            seen = os.lstat(os.path.join(folder, path))
        except OSError:
            continue
        if sha256 and stat.S_ISREG(seen.st_mode) and (seen.st_size, seen.st_mtime_ns) == (size, changed):
            found[path] = sha256
    return found


def _make_room(folder: str, path: str, is_folder: bool) -> None:
    """Take away what would be written through, or is in the way."""
    parts = path.strip("/").split("/")
    for end in range(1, len(parts) + is_folder):
        above = os.path.join(folder, *parts[:end])
        if os.path.islink(above) or os.path.isfile(above):
            os.unlink(above)
    if not is_folder:
        _remove(os.path.join(folder, *parts))


def _vanish(folder: str, path: str) -> None:
    """Remove a file that is no more, and folders that it leaves empty."""
    full = os.path.join(folder, path)
    if not os.path.realpath(os.path.dirname(full)).startswith(os.path.realpath(folder)):
        return
    if os.path.lexists(full) and (os.path.islink(full) or not os.path.isdir(full)):
        os.unlink(full)
    above = os.path.dirname(path)
    while above and os.path.isdir(os.path.join(folder, above)) and not os.listdir(os.path.join(folder, above)):
        os.rmdir(os.path.join(folder, above))
        above = os.path.dirname(above)


def _remove(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    elif os.path.lexists(path):
        os.unlink(path)


def _read(record: str) -> dict[str, Any]:
    try:
        with open(record, encoding="utf-8") as file:
            found = json.load(file)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _write(record: str, known: dict[str, Any]) -> None:
    with open(f"{record}.new", "w", encoding="utf-8") as file:
        json.dump(known, file)
    os.replace(f"{record}.new", record)


if __name__ == "__main__":
    print(answer(sys.argv[1]))
