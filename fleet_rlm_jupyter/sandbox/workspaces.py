"""A repository's files in a sandbox: put there once, and brought up to date when they changed."""

from __future__ import annotations

import json
import secrets
import shlex
import tempfile
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from fleet_rlm_jupyter.domain.errors import SandboxError
from fleet_rlm_jupyter.domain.events import WorkspacePlaced
from fleet_rlm_jupyter.domain.ports import Workspace
from fleet_rlm_jupyter.sandbox.machine import SandboxMachine

_TOOL = (Path(__file__).parent / "workspace_tool.py").read_text(encoding="utf-8")
_ANSWER: TypeAdapter[dict[str, Any]] = TypeAdapter(dict[str, Any])


def placed(machine: SandboxMachine, wanted: Workspace) -> WorkspacePlaced:
    """See that `wanted` is in workspace/NAME of the machine's working folder. What is there already is not sent again.

    Files that generated code changed or made stay as long as the digest is the same; for another one, those of the
    repository become what they are in it, and others stay. Raises SandboxError.
    """
    found = _asked(machine, do="look", name=wanted.name).get("digest", "")
    state = "reused" if found == wanted.digest else "reconciled" if found else "created"
    if state != "reused":
        archive = f".fleet/incoming-{secrets.token_hex(6)}.tar.gz"
        with tempfile.TemporaryDirectory(prefix="fleet-workspace-") as folder:
            packed = Path(folder, "tree.tar.gz")
            wanted.pack(packed)
            machine.put(f"{machine.home}/{archive}", str(packed))
        given = {"name": wanted.name, "source": wanted.source, "digest": wanted.digest, "archive": archive}
        _asked(machine, do="place", **given)
    return WorkspacePlaced(path=wanted.path, source=wanted.source, ref=wanted.ref, commit=wanted.commit, state=state)


def _asked(machine: SandboxMachine, **request: str) -> dict[str, Any]:
    text = json.dumps({"base": machine.home, **request})
    exit_code, said = machine.run(f"python3 -I -S -c {shlex.quote(_TOOL)} {shlex.quote(text)}")
    try:
        return _ANSWER.validate_json(said)
    except ValidationError as err:
        raise SandboxError(
            f"the workspace could not be made ({exit_code}): {said.strip()[-300:]}", "ask again"
        ) from err
