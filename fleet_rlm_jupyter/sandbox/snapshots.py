"""Snapshots, which sandboxes at Daytona are made of: looked at before the first sandbox, listed, built."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any

from fleet_rlm_jupyter.domain.errors import BadRequest, BadSettings, SandboxError, SandboxLost, during
from fleet_rlm_jupyter.domain.shown import SandboxSnapshot, Size
from fleet_rlm_jupyter.sandbox.client import CALL_SECONDS, DaytonaClient
from fleet_rlm_jupyter.sandbox.retries import retried
from fleet_rlm_jupyter.sandbox.service_errors import sdk
from fleet_rlm_jupyter.sandbox.states import state_of
from fleet_rlm_jupyter.settings import SandboxSettings, Settings

IMAGE = "python:3.12-slim"
PACKAGES = ("numpy", "pandas", "pyarrow")
"""What the base snapshot has beside Python: with these, tables travel as tables."""

BUILD_SECONDS = 3600
_PAGE = 100


class SandboxSnapshots:
    """`bench.snapshots`. Raises BadSettings where sandboxes are local, and SandboxUnavailable."""

    def __init__(self, settings: Callable[[], Settings]) -> None:
        self._settings = settings

    @during("snapshot")
    def list(self) -> list[SandboxSnapshot]:
        """All that the account can make sandboxes of, by name."""
        found: list[SandboxSnapshot] = []
        with self._service() as client:
            page = last = 1
            while page <= last:
                listed = client.call(retried(lambda at=page: client.made.snapshot.list(at, _PAGE)), CALL_SECONDS)
                found += map(_shown, listed.items)
                page, last = page + 1, int(listed.total_pages)
        return sorted(found, key=lambda one: one.name)

    @during("snapshot")
    def build(
        self,
        name: str,
        image: str = IMAGE,
        packages: Sequence[str] = PACKAGES,
        size: Size | None = None,
        on_log: Callable[[str], None] | None = None,
    ) -> SandboxSnapshot:
        """Build one at Daytona of an image and what pip installs into it, and wait until it can be used: minutes.

        `on_log` hears its log, from another thread. Raises BadRequest where there is one of that name, and SandboxError
        where it cannot be built.
        """
        with self._service() as client:
            known, size = sdk(), size or Size()
            made = known.Image.base(image)
            made = made.pip_install(list(packages)) if packages else made
            resources = known.Resources(cpu=size.cpu, memory=size.memory_gb, disk=size.disk_gb)
            params = known.CreateSnapshotParams(name=name, image=made, resources=resources)
            create = client.made.snapshot.create
            work = retried(lambda: create(params, on_logs=on_log, timeout=BUILD_SECONDS), only_refused=True)
            try:
                return _shown(client.call(work, BUILD_SECONDS))
            except SandboxError as err:
                cause = err.__cause__
                if isinstance(cause, known.DaytonaConflictError):
                    raise BadRequest(f"there is a snapshot {name} already", "choose another name") from err
                if type(cause) is known.DaytonaError and "reason:" in str(cause):  # the SDK saw it fail
                    hint = "its log says why; mend image or packages, and build it under another name"
                    raise SandboxError(f"the snapshot {name} was not built: {cause}", hint) from err
                raise

    @contextmanager
    def _service(self) -> Generator[DaytonaClient]:
        settings = self._settings()
        if settings.daytona.api_key is None:
            text = "local sandboxes are made of no snapshot: they have the Python of this machine"
            raise BadSettings(text, "set DAYTONA_API_KEY and DAYTONA_API_URL to use Daytona")
        client = DaytonaClient(settings, trusted_code=False)
        try:
            client.get()
            yield client
        finally:
            client.begin_closing()
            client.close()


@during("snapshot")
def preflight(client: DaytonaClient, settings: SandboxSettings) -> None:
    """Raise BadSettings, with the command that builds it, for a snapshot that is missing, not ready or too small."""
    name = settings.snapshot
    if name is None or not client.is_remote:
        return
    wanted = {"cpu": settings.cpu or 1, "memory": settings.memory_gb or 1, "disk": settings.disk_gb or 1}
    try:
        known = client.get()
        found = client.call(retried(lambda: known.snapshot.get(name)), CALL_SECONDS)
    except SandboxLost as err:  # not found
        raise BadSettings(f"there is no snapshot {name} at Daytona", f"build it: {_command(name, wanted)}") from err
    state = state_of(found)
    # A name is taken for good while there is a snapshot of it.
    other = f"build another one: {_command(f'{name}-2', wanted)}, and set sandbox.snapshot={name}-2"
    if state != "active":
        raise BadSettings(f"the snapshot {name} is {state}", f"activate it at Daytona, or {other}")
    has = {"cpu": found.cpu, "memory": found.mem, "disk": found.disk}
    small = [f"{option} {has[option]:g} < {value}" for option, value in wanted.items() if has[option] < value]
    if small:
        raise BadSettings(f"the snapshot {name} is too small: {', '.join(small)}", other)


def _command(name: str, sizes: dict[str, int]) -> str:
    options = " ".join(f"--{option} {value}" for option, value in sizes.items())
    return f"fleet sandboxes build {shlex.quote(name)} {options}"


def _shown(snapshot: Any) -> SandboxSnapshot:
    return SandboxSnapshot(
        name=snapshot.name,
        state=state_of(snapshot),
        image=snapshot.image_name or "",
        cpu=snapshot.cpu,
        memory_gb=snapshot.mem,
        disk_gb=snapshot.disk,
        error=snapshot.error_reason or "",
        created=snapshot.created_at.timestamp(),
    )
