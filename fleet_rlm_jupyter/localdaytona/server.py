"""One run of the server: picks the level, serves until told to stop, leaves nothing behind."""

import asyncio
import contextlib
import hashlib
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fleet_rlm_jupyter.localdaytona import app, cgroups, levels, restricted
from fleet_rlm_jupyter.localdaytona.cgroups import Delegation
from fleet_rlm_jupyter.localdaytona.door import Door
from fleet_rlm_jupyter.localdaytona.faults import Faults
from fleet_rlm_jupyter.localdaytona.folders import PREFIX, Folders, reachable_by_all, remove_tree, temporary
from fleet_rlm_jupyter.localdaytona.levels import LABELS, NotIsolated
from fleet_rlm_jupyter.localdaytona.options import ServerOptions
from fleet_rlm_jupyter.localdaytona.outside import OutsideGit
from fleet_rlm_jupyter.localdaytona.plan import SandboxPlan
from fleet_rlm_jupyter.localdaytona.sandboxes import Ground, LocalSandboxes
from fleet_rlm_jupyter.localdaytona.spawner import ForkServer, Spawner, SpawnError
from fleet_rlm_jupyter.localdaytona.volumes import LocalVolumes

_SYSTEM_PYTHON = "/usr/bin/python3"
_FAREWELL_SECONDS = 10


@dataclass(frozen=True)
class Footing:
    """The level chosen, why not a higher one, and the interpreter that works there."""

    level: str
    reason: str
    python: str
    reaches_host_python: bool


async def serve(
    options: ServerOptions,
    folders: Folders,
    owner: int | None,
    fork_server: ForkServer,
    on_ready: Callable[[dict[str, object]], None],
) -> bool:
    """Serve until SIGTERM, SIGINT or the parent's end, and then return true; false if the fork server was lost.
    Raises NotIsolated or OSError before it is ready."""
    relay: list[LocalSandboxes] = []
    spawner = Spawner(fork_server.control, lambda identifier: relay[0].on_exit(identifier) if relay else None)
    await spawner.listen()
    try:
        door = Door(options.port)
        footing = await _choose(options, folders, spawner, owner)
        data, notice = _data_folder(options, folders, footing, owner)
        faults = Faults(options.faults)
        volumes = LocalVolumes(data / "volumes", owner, faults)
        delegation = _delegation()
        about = _about(footing, notice, door.port, delegation)
        plane = app.ControlPlane(options.key, about, faults)
        ground = Ground(
            level=footing.level,
            owner=owner,
            folders=folders,
            path=folders.path_with(footing.python),
            read_only=_read_only(footing, options),
            has_our_python=footing.reaches_host_python,
            memory_mb=options.memory_mb,
            disk_mb=options.disk_mb,
            toolbox_url=f"http://127.0.0.1:{door.port}/toolbox",
            delegation=delegation,
            minute_seconds=options.minute_seconds,
        )
        sandboxes = LocalSandboxes(ground, spawner, volumes, faults, plane.events.tell)
        relay.append(sandboxes)
        outside = OutsideGit(folders.base, owner) if footing.level != "L1" else None
        plane.open(sandboxes, volumes, outside, door.shut_for)
        await door.open(plane.web)
        timers = _timers(sandboxes, options.minute_seconds)
        stop = _stop_signals(options)
        on_ready(about)
        lost = asyncio.create_task(spawner.lost.wait())
        await asyncio.wait([asyncio.create_task(stop.wait()), lost], return_when=asyncio.FIRST_COMPLETED)
        for timer in timers:
            timer.cancel()
        await app.close(plane)
        with contextlib.suppress(TimeoutError):
            await door.close()
        return stop.is_set()
    finally:
        spawner.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            await asyncio.to_thread(fork_server.process.wait, _FAREWELL_SECONDS)
        await asyncio.to_thread(remove_tree, folders.base)  # nothing is left of it, unless the fork server was killed


def _timers(sandboxes: LocalSandboxes, minute: float) -> list[asyncio.Task[None]]:
    return [
        asyncio.create_task(app.keep_time(sandboxes.tick, min(minute / 6, 5))),
        asyncio.create_task(app.keep_time(sandboxes.watch_disk, min(max(minute / 12, 0.2), 5))),
    ]


async def _choose(options: ServerOptions, folders: Folders, spawner: Spawner, owner: int | None) -> Footing:
    """Try L3, then L2, each in a child process; fall back to L1 only if that was allowed."""
    refusals: list[str] = []
    for level in ("L3", "L2"):
        if options.level not in ("auto", level):
            continue
        try:
            works = await _probe(level, options, folders, spawner, owner)
        except SpawnError as err:
            refusals.append(f"{level}: {err}")
            continue
        reason = "namespaces work here" if level == "L3" else "; ".join([*refusals, restricted.weakness(owner)])
        return _footing(level, reason, works)
    reason = "; ".join(refusals) or "asked for"
    if options.level in ("L3", "L2"):
        raise NotIsolated(
            f"level {options.level} is not available, {reason}", "use --level auto, or set DAYTONA_API_KEY"
        )
    if not options.allow_unisolated:
        text = "level L1 does not isolate" if options.level == "L1" else f"no isolation is available: {reason}"
        raise NotIsolated(text, "pass --allow-unisolated if code may run as you, or set DAYTONA_API_KEY")
    try:
        works = await _probe("L1", options, folders, spawner, owner)
    except SpawnError as err:
        raise NotIsolated(f"no sandbox can be started: {err}", "set DAYTONA_API_KEY to use Daytona instead") from err
    return _footing("L1", reason, works)


def _footing(level: str, reason: str, works: bool) -> Footing:
    if not works:
        reason = f"{reason}; {sys.executable} cannot be reached from a sandbox, so {_SYSTEM_PYTHON} is used"
    return Footing(level, reason, sys.executable if works else _SYSTEM_PYTHON, works)


async def _probe(level: str, options: ServerOptions, folders: Folders, spawner: Spawner, owner: int | None) -> bool:
    identifier = f"probe-{secrets.token_hex(4)}"
    plan = SandboxPlan(
        sandbox_id=identifier,
        level=level,
        folder=folders.make_sandbox(identifier),
        shared=folders.shared,
        owner=owner,
        read_only=levels.interpreter_paths(options.home) if level != "L1" else (),
        probe=sys.executable,
    )
    try:
        return bool((await spawner.launch(plan))["python"])
    finally:
        await spawner.remove(identifier, plan.folder)


def _read_only(footing: Footing, options: ServerOptions) -> tuple[str, ...]:
    return levels.interpreter_paths(options.home) if footing.reaches_host_python else ()


def _data_folder(options: ServerOptions, folders: Folders, footing: Footing, owner: int | None) -> tuple[Path, str]:
    """Where volumes are kept, and a notice if that is not where they were asked to be."""
    if not options.data:
        return Path(folders.base) / "data", ""
    wanted = Path(options.data)
    if footing.level == "L3" or owner is None or reachable_by_all(wanted):
        return wanted, ""
    other = Path("/var/lib/fleet-localdaytona") / hashlib.sha256(options.data.encode()).hexdigest()[:16]
    return other, f"; volumes are kept in {other}, because the user that code runs as cannot enter {wanted}"


def _delegation() -> Delegation:
    found = cgroups.delegation()
    cgroups.sweep({folder for _, folder in found.parents}, temporary(), PREFIX)
    return found


def _about(footing: Footing, notice: str, port: int, delegation: Delegation) -> dict[str, object]:
    return {
        "port": port,
        "url": f"http://127.0.0.1:{port}/api",
        "level": footing.level,
        "label": LABELS[footing.level],
        "reason": footing.reason + notice,
        "limits": delegation.limits,
        "python": footing.python,
        "pid": os.getpid(),
    }


def _stop_signals(options: ServerOptions) -> asyncio.Event:
    """An event that is set by a signal, or when the parent is gone.

    Not PR_SET_PDEATHSIG: that fires when the *thread* ends that started us. A process descriptor fires
    when the whole parent ends, and the pipe works where there are none.
    """
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, stop.set)
    if options.parent_fd is not None:
        os.set_blocking(options.parent_fd, False)
        loop.add_reader(options.parent_fd, _on_parent, options.parent_fd, stop)
        with contextlib.suppress(OSError, AttributeError):
            loop.add_reader(os.pidfd_open(os.getppid()), stop.set)
    return stop


def _on_parent(fd: int, stop: asyncio.Event) -> None:
    try:
        gone = not os.read(fd, 4096)
    except BlockingIOError:
        return
    except OSError:
        gone = True
    if gone:
        asyncio.get_running_loop().remove_reader(fd)
        stop.set()
