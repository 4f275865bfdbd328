"""Routes of a session's files. They are named in the query, for a path has slashes."""

from __future__ import annotations

from pathlib import Path

from fleet_rlm_jupyter.server.desk import Asked
from fleet_rlm_jupyter.server.schema import (
    FileEntry,
    FileQuery,
    FileTree,
    FolderBody,
    MoveBody,
    ReadQuery,
    TreeQuery,
)
from fleet_rlm_jupyter.server.web import Endpoint, Raw


def list_files(asked: Asked, session_id: str, query: TreeQuery) -> FileTree:
    """What is on the session's volume, a folder before what is in it. Links are shown and never followed."""
    found = asked.bench.files(session_id).tree(query.path, query.depth, query.most)
    return FileTree(entries=[FileEntry.of(entry) for entry in found.entries], is_cut=found.is_cut)


def read_file(asked: Asked, session_id: str, query: ReadQuery) -> Raw:
    """The bytes of a file, as a download; refused where it is larger than `most_bytes`."""
    pieces = asked.bench.files(session_id).pieces(query.path, query.most_bytes)
    return Raw(pieces, "application/octet-stream", query.path.rstrip("/").rpartition("/")[2])


def write_file(asked: Asked, session_id: str, query: FileQuery, upload: Path) -> None:
    """Write a file whole, with the folders above it. The body is its bytes."""
    asked.bench.files(session_id).write(query.path, upload)


def delete_file(asked: Asked, session_id: str, query: FileQuery) -> None:
    """Delete a file, or a folder with all that is in it."""
    asked.bench.files(session_id).delete(query.path)


def make_folder(asked: Asked, session_id: str, body: FolderBody) -> None:
    """Make a folder and those above it."""
    asked.bench.files(session_id).make_folder(body.path)


def move_file(asked: Asked, session_id: str, body: MoveBody) -> None:
    """Move a file or folder to a name that is free."""
    asked.bench.files(session_id).move(body.path, body.to)


ROUTES = (
    Endpoint("GET", "/sessions/{session_id}/files", list_files),
    Endpoint("DELETE", "/sessions/{session_id}/files", delete_file, status=204),
    Endpoint("GET", "/sessions/{session_id}/files/content", read_file),
    Endpoint("PUT", "/sessions/{session_id}/files/content", write_file, status=204),
    Endpoint("POST", "/sessions/{session_id}/files/folders", make_folder, status=204),
    Endpoint("POST", "/sessions/{session_id}/files/move", move_file, status=204),
)
