"""Contexts on a Jupyter server: uploaded by digest, each only once."""

from __future__ import annotations

import hashlib
import json
from urllib.parse import quote

from pydantic import BaseModel

from fleet_rlm_jupyter.connection import Connection
from fleet_rlm_jupyter.domain.context import Value
from fleet_rlm_jupyter.domain.errors import ServerUnavailable
from fleet_rlm_jupyter.domain.staging import Staging

PIECE_BYTES = 1024**2

MOST_TRIES = 4
"""Of an upload; each goes on where the last one broke off."""


class RemoteContexts:
    """Context values by the digest of their bytes."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def has(self, sha256: str) -> bool:
        return self._state(sha256).is_complete

    def upload(self, value: Value) -> dict[str, str]:
        """Have it on the server, once; returns what a question names it by."""
        kind = "text" if isinstance(value, str) else "json"
        text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
        raw = text.encode("utf-8", "surrogatepass")
        sha256 = hashlib.sha256(raw).hexdigest()
        self.put(sha256, raw)
        return {"sha256": sha256, "kind": kind}

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

    def _state(self, sha256: str) -> _Upload:
        return self._connection.get(f"/contexts/{quote(sha256, safe='')}", _Upload)


class _Upload(BaseModel):
    is_complete: bool
    received: int
