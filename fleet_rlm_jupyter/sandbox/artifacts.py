"""Which files below artifacts/ changed since they were last looked at. Runs in the guest: standard library only."""

from __future__ import annotations

import os
import stat

FOLDER = "artifacts"
MOST_SEEN, MOST_TOLD = 2000, 200

_Look = tuple[int, int, int]


class Artifacts:
    """Remembers what files look like from outside; links are not followed. A look costs a call for each file."""

    def __init__(self) -> None:
        self._root = os.path.abspath(FOLDER)  # cells may change the working folder
        self._known = self._seen()

    def changed(self) -> list[str]:
        """Paths that begin with artifacts/; those above MOST_TOLD come the next time."""
        seen, known = self._seen(), self._known
        told = [path for path, look in seen.items() if known.get(path) != look][:MOST_TOLD]
        self._known = {path: seen[path] if path in told else known[path] for path in {*told, *(known.keys() & seen)}}
        return told

    def _seen(self) -> dict[str, _Look]:
        found: dict[str, _Look] = {}
        for here, _, names in os.walk(self._root):
            inside = os.path.normpath(os.path.join(FOLDER, os.path.relpath(here, self._root)))
            for name in names:
                try:
                    look = os.lstat(os.path.join(here, name))
                    path = f"{inside}/{name}"
                    path.encode()
                except (OSError, UnicodeEncodeError):
                    continue
                if stat.S_ISREG(look.st_mode):
                    found[path] = (look.st_size, look.st_mtime_ns, look.st_ino)
                if len(found) >= MOST_SEEN:
                    return found
        return found
