"""A session gone on with after a restart: what of it is there, in the store, on its volume and in its sandbox."""

from __future__ import annotations

from contextlib import suppress

from fleet_rlm_jupyter.domain.errors import BadRequest, FleetError, NoSuchSession, SandboxError
from fleet_rlm_jupyter.domain.manifest import Resumed, SessionManifest
from fleet_rlm_jupyter.domain.ports import Sandboxes
from fleet_rlm_jupyter.domain.session import KeptSession
from fleet_rlm_jupyter.verbs.house import House


def resume(house: House, owner: str, session_id: str, home: Sandboxes) -> Resumed:
    """What there is of it; one that only its volume knows is put into the store. Raises NoSuchSession."""
    kept: KeptSession | None = None
    with suppress(NoSuchSession):
        kept = house.store().sessions(owner).get(session_id)
    try:
        files = home.files(session_id)
        manifest, conflict = house.manifests.read(session_id, owner, files)
        count = sum(entry.kind == "file" and not entry.path.startswith("meta/") for entry in files.tree().entries)
    except (SandboxError, BadRequest) as err:
        if kept is None:
            raise _unknown(session_id, f"and its volume cannot be read: {err.text}") from err
        manifest, conflict, count = None, f"its volume cannot be read: {err.text}", 0
    is_restored = kept is None
    if kept is None:
        if manifest is None:
            raise _unknown(session_id, "nor a manifest of it on a volume")
        kept = _restored(house, owner, manifest)
    return Resumed(
        session=kept,
        is_restored=is_restored,
        manifest=manifest,
        conflict=conflict,
        notes=len(house.store().memory(owner).list("approved", session_id)),
        files=count,
        sandbox_id=_sandbox(home, session_id),
    )


def _restored(house: House, owner: str, manifest: SessionManifest) -> KeptSession:
    return house.store().sessions(owner).create(house.mask(manifest.title)[:500], manifest.session_id)


def _sandbox(home: Sandboxes, session_id: str) -> str:
    """The id of the session's own sandbox where one is there; it is resumed, or made anew, by the next question."""
    try:
        return next((one.id for one in home.list() if one.session == session_id and one.role == "session"), "")
    except FleetError:
        return ""


def _unknown(session_id: str, why: str) -> NoSuchSession:
    return NoSuchSession(f"there is no session {session_id}, {why}", "`fleet sessions list` names those that are kept")
