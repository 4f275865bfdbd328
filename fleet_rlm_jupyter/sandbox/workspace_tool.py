"""Run in a sandbox by `python3 -c`: what its workspace holds, and how that is brought up to date.

Needs nothing but Python. `base` is the working folder, the files are in workspace/NAME, and .fleet/workspaces/NAME.json
says which of them were put there, from where.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tarfile
from typing import Any


def answer(text: str) -> str:
    """What the request in `text` comes to, as JSON."""
    request = json.loads(text)
    base, name = request["base"], request["name"]
    folder = os.path.join(base, "workspace", name)
    record = os.path.join(base, ".fleet", "workspaces", f"{name}.json")
    before = _read(record) if os.path.isdir(folder) and not os.path.islink(folder) else {}
    if request["do"] == "look":
        return json.dumps({"digest": before.get("digest", "")})
    archive = os.path.join(base, request["archive"])
    try:
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
