"""A session's manifest: what is known of it, kept on its own volume beside its files."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from fleet_rlm_jupyter.domain.context import ContextDigest
from fleet_rlm_jupyter.domain.session import KeptSession

MANIFEST_FOLDER = "meta/session"
MANIFEST_BYTES = 1_000_000
LAST_REVISION = 10**8 - 1
MOST_RUNS, MOST_FILES, MOST_CONTEXTS = 20, 200, 50
"""Of the newest runs, artifacts and contexts so many are named; their counts are whole."""

_NAME = re.compile(rf"{MANIFEST_FOLDER}/(\d{{8}})-w[0-9a-f]{{16}}\.json")


class ManifestFile(BaseModel):
    """A file that a run left on the volume."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    bytes: int
    sha256: str
    run_id: str


class SessionManifest(BaseModel):
    """One revision. Each is a file of its own that is never written again: an object store has no lock and no rename.

    `owner` is a digest of the owner's name. The newest of `runs`, `artifacts` and `contexts` are named.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    schema_version: Literal[1] = 1
    rev: int = Field(ge=1, le=LAST_REVISION)
    writer: str = Field(pattern=r"^w[0-9a-f]{16}$")
    owner: str
    session_id: str
    title: str
    turns: int
    runs: list[str]
    artifacts: list[ManifestFile]
    contexts: list[ContextDigest]
    updated_at: float

    @property
    def path(self) -> str:
        """Where it is on the volume. Two writers of one revision have two names, so neither overwrites the other's."""
        return f"{MANIFEST_FOLDER}/{self.rev:08}-{self.writer}.json"


class Resumed(BaseModel):
    """A session that is gone on with, and what there is of it.

    `is_restored`: the store had lost it, and it was recognized by the manifest on its volume; its turns are not there.
    `manifest` is None where its volume has none; `conflict` says why a newer one is not written, if so.
    """

    model_config = ConfigDict(frozen=True)

    session: KeptSession
    is_restored: bool = False
    manifest: SessionManifest | None = None
    conflict: str = ""
    notes: int = 0
    files: int = 0
    sandbox_id: str = ""


def heads(paths: Iterable[str]) -> list[str]:
    """Of the files in the folder those of the newest revision: more than one where two have written it at once."""
    revisions = [path for path in paths if _NAME.fullmatch(path)]
    newest = max(map(revision_of, revisions), default=0)
    return sorted(path for path in revisions if revision_of(path) == newest)


def superseded(paths: Iterable[str]) -> list[str]:
    """Of the files in the folder the older revisions; what is none is not ours."""
    revisions = {path for path in paths if _NAME.fullmatch(path)}
    return sorted(revisions - set(heads(revisions)))


def revision_of(path: str) -> int:
    """The number in a name that `heads` gave."""
    return int(path.removeprefix(f"{MANIFEST_FOLDER}/")[:8])


def owner_digest(owner: str) -> str:
    """What a volume is told of who owns a session."""
    return hashlib.sha256(owner.encode()).hexdigest()[:24]
