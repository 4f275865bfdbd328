"""A repository's files, and staged ones, in a sandbox: put there once, and brought up to date when they changed."""

from __future__ import annotations

import hashlib
import json
import secrets
import shlex
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from fleet_rlm_jupyter.domain.errors import SandboxError, during
from fleet_rlm_jupyter.domain.events import FilesStaged, WorkspacePlaced
from fleet_rlm_jupyter.domain.ports import Role, Workspace
from fleet_rlm_jupyter.domain.staging import FOLDER, StagedFile, Staging
from fleet_rlm_jupyter.sandbox.machine import SandboxMachine

_TOOL = (Path(__file__).parent / "workspace_tool.py").read_text(encoding="utf-8")


class _Compared(BaseModel):
    missing: list[int]
    gone: int
    is_new: bool
    is_same: bool


_ANSWER: TypeAdapter[dict[str, Any]] = TypeAdapter(dict[str, Any])


@during("stage")
def furnished(machine: SandboxMachine, role: Role) -> dict[str, WorkspacePlaced | FilesStaged]:
    """What is to be said of the files that `role` wants in its sandbox, once they are there. Raises SandboxError."""
    said: dict[str, WorkspacePlaced | FilesStaged] = {}
    if role.workspace is not None:
        said["workspace"] = _placed(machine, role.workspace)
    if role.staging is not None:
        said["staged"] = _staged(machine, role.staging)
    return said


def _placed(machine: SandboxMachine, wanted: Workspace) -> WorkspacePlaced:
    """See that `wanted` is in workspace/NAME of the machine's working folder. What is there already is not sent again.

    Files that generated code changed or made stay as long as the digest is the same; for another one, those of the
    repository become what they are in it, and others stay.
    """
    found = _asked(machine, do="look", name=wanted.name).get("digest", "")
    state = "reused" if found == wanted.digest else "reconciled" if found else "created"
    if state != "reused":
        archive = _incoming(".tar.gz")
        with tempfile.TemporaryDirectory(prefix="fleet-workspace-") as folder:
            packed = Path(folder, "tree.tar.gz")
            wanted.pack(packed)
            machine.put(f"{machine.home}/{archive}", str(packed))
        given = {"name": wanted.name, "source": wanted.source, "digest": wanted.digest, "archive": archive}
        _asked(machine, do="place", **given)
    return WorkspacePlaced(path=wanted.path, source=wanted.source, ref=wanted.ref, commit=wanted.commit, state=state)


def _staged(machine: SandboxMachine, wanted: Staging) -> FilesStaged:
    """See that the files of `wanted`, and only those of what was staged, are in workspace/context, as they are here.

    One that generated code changed is put back; what is there, under whatever name, is not sent again.
    """
    files, name, manifest = wanted.manifest.files, FOLDER.rpartition("/")[2], _incoming(".json")
    machine.put(f"{machine.home}/{manifest}", wanted.manifest.model_dump_json(indent=1).encode())
    found = _Compared.model_validate(_asked(machine, do="compare", name=name, archive=manifest))
    if not all(0 <= place < len(files) for place in found.missing):
        raise SandboxError("the sandbox misses files that nobody staged", "ask again")
    missing = [files[place] for place in found.missing]
    if not found.is_same:
        archive = _incoming(".tar.gz")
        with tempfile.TemporaryDirectory(prefix="fleet-staging-") as folder:
            packed = Path(folder, "files.tar.gz")
            _pack(packed, missing, wanted.places)
            machine.put(f"{machine.home}/{archive}", str(packed))
        _asked(machine, do="stage", name=name, manifest=manifest, archive=archive)
    return FilesStaged(
        path=FOLDER,
        files=len(files),
        bytes=wanted.manifest.bytes,
        sent=len(missing),
        removed=found.gone,
        left_out=len(wanted.manifest.left_out),
        state="created" if found.is_new else "reused" if found.is_same else "reconciled",
    )


def _pack(packed: Path, files: list[StagedFile], places: Mapping[str, Path]) -> None:
    """Raises SandboxError for a file that is not any more what the manifest says."""
    with tarfile.open(packed, "w:gz", compresslevel=1) as tar:
        for file in files:
            info = tarfile.TarInfo(file.sha256)
            info.size = file.bytes
            try:
                with open(places[file.sha256], "rb") as stream:
                    tar.addfile(info, stream)
                with open(places[file.sha256], "rb") as stream:
                    is_same = hashlib.file_digest(stream, "sha256").hexdigest() == file.sha256
            except OSError:
                is_same = False
            if not is_same:
                raise SandboxError(f"{file.source} was changed while it was sent", "ask again")


def _incoming(suffix: str) -> str:
    return f".fleet/incoming-{secrets.token_hex(6)}{suffix}"


def _asked(machine: SandboxMachine, **request: str) -> dict[str, Any]:
    text = json.dumps({"base": machine.home, **request})
    exit_code, said = machine.run(f"python3 -I -S -c {shlex.quote(_TOOL)} {shlex.quote(text)}")
    try:
        return _ANSWER.validate_json(said)
    except ValidationError as err:
        raise SandboxError(
            f"the workspace could not be made ({exit_code}): {said.strip()[-300:]}", "ask again"
        ) from err
