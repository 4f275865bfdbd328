"""Contexts on a Jupyter server: uploaded by digest, each only once, tables with their types."""

from __future__ import annotations

import hashlib

from pydantic import BaseModel

from fleet_rlm_jupyter.connection import Connection, quoted
from fleet_rlm_jupyter.domain.context import Context, Manifest, Value, encoded
from fleet_rlm_jupyter.domain.errors import FleetError, ServerUnavailable
from fleet_rlm_jupyter.domain.staging import Staging
from fleet_rlm_jupyter.verbs.frames import packed

PIECE_BYTES = 1024**2

MOST_NOTED = 1000
"""Characters of what is told of a context."""

MOST_TRIES = 4
"""Of an upload; each goes on where the last one broke off."""


class RemoteContexts:
    """Context values by the digest of their bytes."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def has(self, sha256: str) -> bool:
        return self._state(sha256).is_complete

    def upload(self, given: Value | Context) -> dict[str, str]:
        """Have it on the server, once; returns what a question names it by.

        Of a table its bytes with types go, and the server writes the CSV; where they cannot, the CSV goes and is told.
        """
        context = given if isinstance(given, Context) else Context(given, Manifest())
        made, note = None, context.manifest.remarks
        if context.table is not None:
            there = self._readers()
            made = packed(context.table, there)
            if made is None:
                why = "its values have no common form" if there else "the server has no pandas"
                note = "; ".join(filter(None, (note, f"a table without its types, as CSV: {why}")))
        kind, raw = made or ("text" if isinstance(context.value, str) else "json", encoded(context.value))
        sha256 = hashlib.sha256(raw).hexdigest()
        self.put(sha256, raw)
        return {"sha256": sha256, "kind": kind, "note": note[:MOST_NOTED]}

    def upload_staged(self, staging: Staging) -> str:
        """Have staged files on the server, each once; returns the digest of their manifest."""
        for sha256, place in staging.places.items():
            self.put(sha256, place.read_bytes())
        raw = staging.manifest.model_dump_json().encode()
        sha256 = hashlib.sha256(raw).hexdigest()
        self.put(sha256, raw)
        return sha256

    def put(self, sha256: str, raw: bytes) -> None:
        """Upload what the server does not have of it yet. Raises BadRequest when it is not what the digest says."""
        tries = 0
        while not (state := self._state(sha256)).is_complete:
            pieces = (raw[at : at + PIECE_BYTES] for at in range(state.received, len(raw), PIECE_BYTES))
            headers = {"Content-Type": "application/octet-stream", "Content-Length": str(len(raw) - state.received)}
            try:
                self._connection.send("PUT", f"/contexts/{sha256}", pieces, headers, {"offset": state.received})
            except ServerUnavailable:
                tries += 1
                if tries == MOST_TRIES:
                    raise

    def _readers(self) -> list[str]:
        try:
            return self._connection.get("/contexts", _Readable).libraries
        except FleetError as err:
            if err.code == "not_found":  # an earlier server, which reads texts
                return []
            raise

    def _state(self, sha256: str) -> _Upload:
        return self._connection.get(f"/contexts/{quoted(sha256)}", _Upload)


class _Readable(BaseModel):
    libraries: list[str]


class _Upload(BaseModel):
    is_complete: bool
    received: int
