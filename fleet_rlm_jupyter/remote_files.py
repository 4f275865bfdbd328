"""The files of a session that a Jupyter server holds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from fleet_rlm_jupyter.connection import Connection, quoted
from fleet_rlm_jupyter.domain.ports import Listing


class RemoteFiles:
    """`domain.ports.Files` over a server; NoSuchSession is raised when something is done with it."""

    def __init__(self, connection: Connection, session_id: str) -> None:
        self._connection = connection
        self._path = f"/sessions/{quoted(session_id)}/files"

    def tree(self, path: str = "", depth: int = 10, most: int = 2000) -> Listing:
        query = {"path": path, "depth": depth, "most": most}
        return self._connection.ask("GET", self._path, Listing, query=query)

    def read(self, path: str, most_bytes: int = 1_000_000) -> bytes:
        return b"".join(self.pieces(path, most_bytes))

    def pieces(self, path: str, most_bytes: int) -> Iterator[bytes]:
        return self._connection.pieces(f"{self._path}/content", {"path": path, "most_bytes": most_bytes})

    def write(self, path: str, data: bytes | Path) -> None:
        headers, target = {"Content-Type": "application/octet-stream"}, f"{self._path}/content"
        if isinstance(data, bytes):
            self._connection.send("PUT", target, data, headers, {"path": path})
            return
        with data.open("rb") as file:
            headers["Content-Length"] = str(data.stat().st_size)
            self._connection.send("PUT", target, file, headers, {"path": path})

    def make_folder(self, path: str) -> None:
        self._connection.ask("POST", f"{self._path}/folders", type(None), {"path": path}, is_safe=True)

    def move(self, path: str, to: str) -> None:
        self._connection.ask("POST", f"{self._path}/move", type(None), {"path": path, "to": to})

    def delete(self, path: str) -> None:
        self._connection.ask("DELETE", self._path, type(None), query={"path": path}, is_safe=False)
