"""What a session has come to, written on its volume after a turn that used it, and read where the store has lost it."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

from pydantic import ValidationError

from fleet_rlm_jupyter.domain.context import Value, digest_of
from fleet_rlm_jupyter.domain.errors import BadPath, FleetError, ManifestConflict
from fleet_rlm_jupyter.domain.events import Event, SandboxChanged
from fleet_rlm_jupyter.domain.manifest import (
    LAST_REVISION,
    MANIFEST_BYTES,
    MANIFEST_FOLDER,
    MOST_CONTEXTS,
    MOST_FILES,
    MOST_RUNS,
    ManifestFile,
    SessionManifest,
    heads,
    owner_digest,
    revision_of,
    superseded,
)
from fleet_rlm_jupyter.domain.ports import Files
from fleet_rlm_jupyter.verbs.live import LiveRun

if TYPE_CHECKING:  # it imports SQLAlchemy
    from fleet_rlm_jupyter.store.store import Store

log = logging.getLogger("fleet_rlm_jupyter.manifests")


def _nothing() -> None:
    """There is nothing to do."""


class Manifests:
    """Thread-safe. One session is written by one thread at a time; another process is met at the volume.

    A revision is written only over one that this store knows of: that it wrote itself, or whose last run it has. Any
    other is somebody else's, opened with another store, and stays as it is: `problems` says so by session.
    """

    def __init__(self, store: Callable[[], Store]) -> None:
        self._store = store
        self._writer = f"w{secrets.token_hex(8)}"
        self._changed = threading.Condition()
        self._writing = threading.Lock()
        self._due: dict[str, int] = {}
        self._is_closed = False
        self._known: dict[str, SessionManifest] = {}
        self.problems: dict[str, str] = {}

    def due(self, run: LiveRun, files: Callable[[str], Files] | None, inputs: Mapping[str, Any]) -> Callable[[], None]:
        """What is to be called when the run is over: it writes, and never raises.

        Only where the run used the volume of its session and left its sandbox there: nothing is started for this.
        """
        if files is None or run.not_kept or not any(map(_left_on_volume, reversed(run.trace.stamped))):
            return _nothing
        with self._changed:
            if self._is_closed:
                return _nothing
            self._due[run.session_id] = self._due.get(run.session_id, 0) + 1

        def write() -> None:
            try:
                self._write(run, files, inputs)
            finally:
                self._done(run.session_id)

        return write

    def close(self, seconds: float) -> None:
        """Wait at most so long for what is being written; from now on nothing is begun."""
        with self._changed:
            self._changed.wait_for(lambda: not self._due, seconds)
            self._is_closed = True

    def read(self, session_id: str, owner: str, files: Files) -> tuple[SessionManifest | None, str]:
        """The newest revision on the volume, None where there is none of this owner's, and what is wrong there.

        Raises SandboxUnavailable.
        """
        newest = heads(_paths(files))
        found = [self._read(files, path) for path in newest]
        ours = [one for one in found if one and one.session_id == session_id and one.owner == owner_digest(owner)]
        two = f"{' and '.join(newest)} were written at the same time" if len(ours) > 1 else ""
        return max(ours, key=lambda one: one.updated_at, default=None), self.problems.get(session_id, two)

    def _done(self, session_id: str) -> None:
        with self._changed:
            self._due[session_id] -= 1
            if not self._due[session_id]:
                del self._due[session_id]
            self._changed.notify_all()

    def _write(self, run: LiveRun, files: Callable[[str], Files], inputs: Mapping[str, Any]) -> None:
        session_id = run.session_id
        try:
            with self._writing:
                if self._is_closed or self._due[session_id] > 1:
                    return  # whoever comes later has more to write
                self._known[session_id] = self._added(run, files(session_id), inputs)
            self.problems.pop(session_id, None)
        except FleetError as err:
            # The turn is answered and kept: what is lost is that its volume says so too.
            self.problems[session_id] = err.text
            log.warning("no manifest of session %s: %s (%s)", session_id, err.text, err.code)

    def _added(self, run: LiveRun, files: Files, inputs: Mapping[str, Any]) -> SessionManifest:
        found = _paths(files)
        newest = heads(found)
        bases = [self._base(run, files, path) for path in newest]
        if bases and bases[0].rev == LAST_REVISION:
            raise ManifestConflict(f"{newest[0]} has the last number there is", "delete it")
        made = self._made(run, revision_of(newest[0]) + 1 if newest else 1, bases, inputs)
        files.write(made.path, made.model_dump_json().encode())
        for path in superseded(found):  # the revision before this one stays, for somebody may be reading it
            files.delete(path)
        return made

    def _base(self, run: LiveRun, files: Files, path: str) -> SessionManifest:
        """What this revision goes on from. Raises ManifestConflict where it is none that this store knows of."""
        known = self._known.get(run.session_id)
        if known is not None and known.path == path:
            return known
        found = self._read(files, path)
        if found is None or found.owner != owner_digest(run.owner) or found.session_id != run.session_id:
            raise ManifestConflict(f"{path} is no manifest of this session", "look at it, and delete it")
        last = found.runs[-1:]
        if last and last[0] not in self._runs(run):
            raise ManifestConflict(
                f"{path} was written with another store, which knows more of this session",
                "go on there, or delete that file to go on here",
            )
        return found

    def _runs(self, run: LiveRun) -> list[str]:
        turns = self._store().sessions(run.owner).session(run.session_id).turns
        return [turn.run.run_id for turn in turns]

    def _made(self, run: LiveRun, rev: int, bases: list[SessionManifest], inputs: Mapping[str, Any]) -> SessionManifest:
        sessions = self._store().sessions(run.owner)
        kept = sessions.get(run.session_id)
        named = ManifestFile.model_fields
        files = [ManifestFile(**item.model_dump(include=set(named))) for item in sessions.artifacts(run.session_id)]
        contexts = {one.sha256: one for base in bases for one in base.contexts}
        context = inputs.get("context")
        if isinstance(context, str | dict) and context:
            asked = digest_of(cast("Value", context))
            contexts[asked.sha256] = asked
        return SessionManifest(
            rev=rev,
            writer=self._writer,
            owner=owner_digest(run.owner),
            session_id=run.session_id,
            title=kept.title,
            turns=kept.turns,
            runs=self._runs(run)[-MOST_RUNS:],
            artifacts=files[:MOST_FILES],
            contexts=list(contexts.values())[-MOST_CONTEXTS:],
            updated_at=time.time(),
        )

    def _read(self, files: Files, path: str) -> SessionManifest | None:
        """The one in that file; None for what is none: a run's code can write there too."""
        try:
            found = SessionManifest.model_validate_json(files.read(path, MANIFEST_BYTES))
        except (ValidationError, BadPath):
            return None
        return found if found.path == path else None


def _left_on_volume(event: Event) -> bool:
    fact = event.fact
    return isinstance(fact, SandboxChanged) and fact.state == "detached" and bool(fact.volume)


def _paths(files: Files) -> list[str]:
    try:
        return [entry.path for entry in files.tree(MANIFEST_FOLDER, depth=1).entries if entry.kind == "file"]
    except BadPath:
        return []  # there is no such folder yet
