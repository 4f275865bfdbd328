"""Volumes: named folders that outlive the server, and opening a folder in one without following links."""

import errno
import json
import os
import time
import uuid
from pathlib import Path

from fleet_rlm_jupyter.localdaytona.faults import Faults
from fleet_rlm_jupyter.localdaytona.folders import remove_tree
from fleet_rlm_jupyter.localdaytona.wire import ApiError, timestamp

_MAX_NAME = 100


class LocalVolumes:
    """The volumes below `folder`: each is `<id>/meta.json` beside `<id>/files`."""

    def __init__(self, folder: Path, owner: int | None, faults: Faults) -> None:
        self._folder = folder
        self._owner = owner
        self._faults = faults
        self._ready_at: dict[str, float] = {}
        self._mode = 0o700 if owner is None else 0o711  # as for the folders of sandboxes
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(self._mode)

    def all(self) -> list[dict[str, object]]:
        found = [json.loads(path.read_text()) for path in self._folder.glob("*/meta.json")]
        for volume in found:
            if time.time() < self._ready_at.get(volume["id"], 0):
                volume["state"] = "pending_create"
        return sorted(found, key=lambda volume: volume["createdAt"])

    def get(self, id_or_name: str) -> dict[str, object]:
        for volume in self.all():
            if id_or_name in (volume["id"], volume["name"]):
                return volume
        raise ApiError(404, "NOT_FOUND", f"Volume {id_or_name} not found")

    def create(self, name: str | None) -> dict[str, object]:
        now = timestamp(time.time())
        identifier = str(uuid.uuid4())
        name = name or identifier
        if len(name) > _MAX_NAME or "/" in name:
            raise ApiError(400, "BAD_REQUEST", f"a volume name has at most {_MAX_NAME} characters and no slash")
        if any(volume["name"] == name for volume in self.all()):
            raise ApiError(400, "BAD_REQUEST", f"Volume with name {name} already exists")
        files = self._folder / identifier / "files"
        files.mkdir(parents=True)
        files.parent.chmod(self._mode)
        files.chmod(0o700)
        if self._owner is not None:
            os.chown(files, self._owner, self._owner)
        volume: dict[str, object] = {
            "id": identifier,
            "name": name,
            "organizationId": "local",
            "state": "ready",
            "createdAt": now,
            "updatedAt": now,
            "lastUsedAt": None,
            "errorReason": None,
        }
        (self._folder / identifier / "meta.json").write_text(json.dumps(volume))
        if fault := self._faults.take("pending_volume"):
            self._ready_at[identifier] = time.time() + fault.seconds
        return self.get(identifier)

    def ready(self, id_or_name: str) -> dict[str, object]:
        """The volume, if it can be mounted; else ApiError 404 or 400."""
        volume = self.get(id_or_name)
        if volume["state"] != "ready":
            raise ApiError(400, "BAD_REQUEST", f"Volume '{volume['name']}' is not in a ready state")
        return volume

    def delete(self, identifier: str) -> None:
        remove_tree(str(self._folder / str(self.get(identifier)["id"])))

    def files(self, identifier: str) -> str:
        """The folder on the host that holds the files of a volume."""
        return str(self._folder / identifier / "files")


def open_inside(root: str, subpath: str, owner: int | None) -> int:
    """Open `root`/`subpath`, making what is missing, and follow no link below `root`; returns a descriptor."""
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    for part in subpath.split("/"):
        if part in ("", "."):
            continue
        if part == "..":
            os.close(fd)
            raise OSError(errno.EINVAL, f"'..' in the subpath of a volume: {subpath}")
        parent = fd
        try:
            try:
                os.mkdir(part, 0o755, dir_fd=parent)
                if owner is not None:
                    os.chown(part, owner, owner, dir_fd=parent, follow_symlinks=False)
            except FileExistsError:
                pass
            fd = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
        finally:
            os.close(parent)
    return fd
