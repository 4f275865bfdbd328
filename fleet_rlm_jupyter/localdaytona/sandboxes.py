"""The records of all sandboxes, what may be done with them, and the timers that stop or delete idle ones."""

import asyncio
import contextlib
import os
import time
import uuid
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field, replace
from pathlib import Path

from fleet_rlm_jupyter.localdaytona.cgroups import Delegation
from fleet_rlm_jupyter.localdaytona.faults import Faults
from fleet_rlm_jupyter.localdaytona.folders import Folders, megabytes
from fleet_rlm_jupyter.localdaytona.listing import Departed
from fleet_rlm_jupyter.localdaytona.plan import MountedVolume, ProcessLimits, SandboxPlan, socket_path
from fleet_rlm_jupyter.localdaytona.spawner import Spawner, SpawnError
from fleet_rlm_jupyter.localdaytona.volumes import LocalVolumes
from fleet_rlm_jupyter.localdaytona.wire import ApiError, timestamp

DEFAULT_AUTO_STOP_MINUTES = 15
_RESERVED = ("/", "/proc", "/dev", "/etc", "/usr", "/bin", "/sbin", "/lib", "/lib64", "/tmp", "/home", "/opt")
_SIZES = ("cpu", "memory", "disk")
_ON_THE_WAY = ("creating", "starting", "restoring")
_NOT_LISTED = ("env", "kvm", "volumes")  # by Daytona either
_READ_ONLY = tuple(f"{path}/" for path in ("/proc", "/dev", "/etc", "/usr", "/bin", "/sbin", "/lib", "/lib64"))
Listener = Callable[[str, dict[str, object]], Awaitable[None]]


@dataclass
class LocalSandbox:
    """One sandbox as the API shows it; `wanted` is the checked body of the request that made it."""

    identifier: str
    name: str
    wanted: dict[str, object]
    labels: dict[str, str]
    auto_stop: int
    auto_delete: int
    auto_archive: int
    ttl_minutes: int
    state: str = "creating"
    error: str | None = None
    created: float = field(default_factory=time.time)
    updated: float = field(default_factory=time.time)
    active: float = field(default_factory=time.time)
    stopped: float | None = None
    connections: int = 0
    restore_seconds: float = 0.0
    is_public: bool = False
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def touch(self) -> None:
        self.active = time.time()


@dataclass(frozen=True)
class Ground:
    """What all sandboxes of a server stand on."""

    level: str
    owner: int | None
    folders: Folders
    path: str
    read_only: tuple[str, ...]
    has_our_python: bool
    memory_mb: int
    disk_mb: int
    toolbox_url: str
    delegation: Delegation
    minute_seconds: float  # how long a minute of the timers lasts


class LocalSandboxes:
    """All sandboxes of this server. State changes of one sandbox happen one after the other."""

    def __init__(self, ground: Ground, spawner: Spawner, volumes: LocalVolumes, faults: Faults, tell: Listener) -> None:
        self._ground = ground
        self._spawner = spawner
        self._volumes = volumes
        self._tell = tell
        self._all: dict[str, LocalSandbox] = {}
        self._faults = faults
        self._departed = Departed()
        self._running: set[asyncio.Task[None]] = set()

    def all(self) -> list[LocalSandbox]:
        return list(self._all.values())

    def shown(self) -> list[dict[str, object]]:
        """All as they are listed; with list_lag on, as they were."""
        lag = self._faults.take("list_lag")
        if lag is None:
            return [self._listed(one) for one in self.all()]
        then = time.time() - lag.seconds
        return self._departed.since(then) + [self._listed(one) for one in self.all() if one.created <= then]

    def get(self, id_or_name: str) -> LocalSandbox:
        found = self._all.get(id_or_name)
        if found is None:
            found = next((one for one in self._all.values() if one.name == id_or_name), None)
        if found is None:
            raise ApiError(404, "NOT_FOUND", f"Sandbox with ID or name {id_or_name} not found")
        return found

    async def create(self, body: dict[str, object]) -> LocalSandbox:
        identifier = str(uuid.uuid4())
        name = body.get("name") or identifier
        if not isinstance(name, str):
            raise ApiError(400, "BAD_REQUEST", "name must be a string")
        if any(one.name == name for one in self._all.values()):
            raise ApiError(409, "CONFLICT", f"Sandbox with name {name} already exists")
        sandbox = LocalSandbox(
            identifier=identifier,
            name=name,
            wanted=body,
            labels=strings(body, "labels"),
            auto_stop=number(body, "autoStopInterval", DEFAULT_AUTO_STOP_MINUTES),
            auto_delete=number(body, "autoDeleteInterval", -1, lowest=-1),
            auto_archive=number(body, "autoArchiveInterval", 0),
            ttl_minutes=number(body, "ttlMinutes", 0),
            is_public=bool(body.get("public")),
        )
        plan = self._plan(sandbox)  # a bad body is refused before anything exists
        self._all[identifier] = sandbox
        async with sandbox.lock:
            try:
                await self._launch_or_later(sandbox, plan)
            except ApiError:
                del self._all[identifier]
                await self._spawner.remove(identifier, plan.folder)
                raise
        return sandbox

    async def start(self, sandbox: LocalSandbox) -> None:
        async with sandbox.lock:
            if sandbox.state in ("started", *_ON_THE_WAY):
                return
            self._must_exist(sandbox)
            await self._change(sandbox, "restoring" if sandbox.state == "archived" else "starting")
            await self._launch_or_later(sandbox, self._plan(sandbox))

    async def stop(self, sandbox: LocalSandbox) -> None:
        async with sandbox.lock:
            if sandbox.state in ("stopped", "archived"):
                return
            self._must_exist(sandbox)
            await self._change(sandbox, "stopping")
            await self._spawner.kill(sandbox.identifier)
            sandbox.stopped = time.time()
            await self._change(sandbox, "stopped")
        if sandbox.auto_delete == 0:
            await self.delete(sandbox)

    async def archive(self, sandbox: LocalSandbox, restore_seconds: float = 0.0) -> None:
        """Only a stopped sandbox can be archived; its files stay, and the next start takes `restore_seconds`."""
        async with sandbox.lock:
            if sandbox.state == "archived":
                return
            self._must_exist(sandbox)
            if sandbox.state != "stopped":
                raise ApiError(400, "BAD_REQUEST", f"Sandbox is not stopped: its state is {sandbox.state}")
            sandbox.restore_seconds = restore_seconds
            await self._change(sandbox, "archiving")
            await self._change(sandbox, "archived")

    async def resize(self, sandbox: LocalSandbox, body: dict[str, object]) -> None:
        """Its sizes from the next start on. They are limits of its processes: those that run keep theirs."""
        sizes = {name: number(body, name, 1, lowest=1) for name in _SIZES if body.get(name) is not None}
        if not sizes:
            raise ApiError(400, "BAD_REQUEST", f"one of {', '.join(_SIZES)} must be given")
        async with sandbox.lock:
            self._must_exist(sandbox)
            if sandbox.state == "started":
                raise ApiError(501, "NOT_IMPLEMENTED", "the local server resizes no running sandbox: stop it first")
            if sandbox.state != "stopped":
                raise ApiError(400, "BAD_REQUEST", f"Sandbox is not stopped: its state is {sandbox.state}")
            if "disk" in sizes and sizes["disk"] < number(sandbox.wanted, "disk", 0):
                raise ApiError(400, "BAD_REQUEST", "Sandbox disk size cannot be decreased")
            sandbox.wanted = {**sandbox.wanted, **sizes}

    async def kill(self, sandbox: LocalSandbox) -> None:
        """End its processes as if the kernel had; `on_exit` then hears of it."""
        await self._spawner.kill(sandbox.identifier)

    async def delete(self, sandbox: LocalSandbox) -> None:
        async with sandbox.lock:
            if self._all.get(sandbox.identifier) is not sandbox:
                return
            if self._faults.shows("list_lag"):
                self._departed.add(self._listed(sandbox))
            await self._change(sandbox, "destroying")
            await self._spawner.kill(sandbox.identifier)
            del self._all[sandbox.identifier]
            await self._spawner.remove(sandbox.identifier, self.folder(sandbox))
            await self._change(sandbox, "destroyed")

    def on_exit(self, identifier: str) -> None:
        """The processes of a sandbox are gone; if nobody asked for that, it failed."""
        sandbox = self._all.get(identifier)
        if sandbox is not None and sandbox.state == "started":
            sandbox.error = sandbox.error or "the sandbox's process ended: it was killed, or ran out of memory"
            self._run(self._change(sandbox, "error"))

    async def tick(self) -> None:
        """Stop and delete what has been idle for too long."""
        now, minute = time.time(), self._ground.minute_seconds
        for sandbox in self.all():
            if sandbox.connections:
                sandbox.touch()
            if sandbox.ttl_minutes and now - sandbox.created >= sandbox.ttl_minutes * minute:
                await self.delete(sandbox)
            elif sandbox.state == "started" and 0 < sandbox.auto_stop * minute <= now - sandbox.active:
                await self.stop(sandbox)
            elif sandbox.state == "stopped" and 0 < sandbox.auto_archive * minute <= now - (sandbox.stopped or now):
                await self.archive(sandbox)
            elif sandbox.stopped and 0 < sandbox.auto_delete * minute <= now - sandbox.stopped:
                await self.delete(sandbox)

    async def watch_disk(self) -> None:
        """Kill the sandboxes whose files have grown beyond their limit."""
        limits = {
            self.folder(one): (one, limit)
            for one in self.all()
            if one.state == "started" and (limit := number(one.wanted, "disk", 0) * 1024 or self._ground.disk_mb)
        }
        for folder, size in (await asyncio.to_thread(megabytes, list(limits))).items():
            sandbox, limit = limits[folder]
            if size > limit and sandbox.state == "started":
                sandbox.error = f"its files are more than the {limit} MB of its disk: it was stopped"
                await self.kill(sandbox)

    def folder(self, sandbox: LocalSandbox) -> str:
        return f"{self._ground.folders.base}/{sandbox.identifier}"

    def socket(self, sandbox: LocalSandbox) -> str:
        return socket_path(self.folder(sandbox))

    def uses_volume(self, identifier: str) -> bool:
        return any(
            mount.root == self._volumes.files(identifier) for one in self.all() for mount in self._mounts(one.wanted)
        )

    def describe(self, sandbox: LocalSandbox) -> dict[str, object]:
        """The sandbox as Daytona's `Sandbox` model."""
        wanted = sandbox.wanted
        return {
            "id": sandbox.identifier,
            "organizationId": "local",
            "name": sandbox.name,
            "snapshot": wanted.get("snapshot") or "local",
            "user": "daytona",
            "env": strings(wanted, "env"),
            "labels": sandbox.labels,
            "public": sandbox.is_public,
            "networkBlockAll": self._ground.level != "L1",
            "kvm": False,
            "target": wanted.get("target") or "local",
            "cpu": number(wanted, "cpu", 0) or os.cpu_count() or 1,
            "gpu": 0,
            "memory": number(wanted, "memory", 0) or -(-self._ground.memory_mb // 1024),
            "disk": number(wanted, "disk", 0),
            "state": sandbox.state,
            "desiredState": "started" if sandbox.state in ("started", *_ON_THE_WAY) else "stopped",
            "errorReason": sandbox.error,
            "recoverable": False,
            "autoStopInterval": sandbox.auto_stop,
            "autoArchiveInterval": sandbox.auto_archive,
            "autoDeleteInterval": sandbox.auto_delete,
            "volumes": wanted.get("volumes") or [],
            "createdAt": timestamp(sandbox.created),
            "updatedAt": timestamp(sandbox.updated),
            "lastActivityAt": timestamp(sandbox.active),
            "sandboxClass": "container",
            "daemonVersion": "localdaytona",
            "runnerId": f"local-{self._ground.level}",
            "toolboxProxyUrl": self._ground.toolbox_url,
        }

    def _listed(self, sandbox: LocalSandbox) -> dict[str, object]:
        return {name: value for name, value in self.describe(sandbox).items() if name not in _NOT_LISTED}

    def _must_exist(self, sandbox: LocalSandbox) -> None:
        if self._all.get(sandbox.identifier) is not sandbox:
            raise ApiError(404, "NOT_FOUND", f"Sandbox with ID or name {sandbox.identifier} not found")

    def _run(self, work: Coroutine[None, None, None]) -> None:
        self._running.add(task := asyncio.create_task(work))
        task.add_done_callback(self._running.discard)

    async def _launch_or_later(self, sandbox: LocalSandbox, plan: SandboxPlan) -> None:
        """Launch it; with a fault on, later, so that whoever asked sees it start or fail, as on Daytona."""
        slow, fails = self._faults.take("slow_start"), self._faults.take("start_error")
        delays = [fault.seconds for fault in (slow, fails) if fault]
        if sandbox.state == "restoring" and sandbox.restore_seconds:
            delays.append(sandbox.restore_seconds)
        if delays:
            self._run(self._launch_later(sandbox, plan, max(delays), fails is not None))
        else:
            await self._launch(sandbox, plan)

    async def _launch_later(self, sandbox: LocalSandbox, plan: SandboxPlan, seconds: float, fails: bool) -> None:
        await asyncio.sleep(seconds)
        async with sandbox.lock:
            if self._all.get(sandbox.identifier) is not sandbox or sandbox.state not in _ON_THE_WAY:
                return  # stopped or deleted meanwhile
            if fails:
                sandbox.error = "the sandbox failed to start: a fault that was asked for"
                await self._change(sandbox, "error")
                return
            with contextlib.suppress(ApiError):  # the state says it
                await self._launch(sandbox, plan)

    async def _launch(self, sandbox: LocalSandbox, plan: SandboxPlan) -> None:
        try:
            await self._spawner.remove(sandbox.identifier, f"{self.folder(sandbox)}/tmp")
            self._ground.folders.make_sandbox(sandbox.identifier)
            await self._spawner.launch(plan)
        except (SpawnError, OSError) as err:
            sandbox.error = str(err)
            await self._change(sandbox, "error")
            raise ApiError(500, "INTERNAL_SERVER_ERROR", f"the sandbox did not start: {err}") from err
        sandbox.touch()
        sandbox.stopped = sandbox.error = None
        await self._change(sandbox, "started")

    async def _change(self, sandbox: LocalSandbox, state: str) -> None:
        old, sandbox.state, sandbox.updated = sandbox.state, state, time.time()
        shown = self.describe(sandbox)
        if old == "creating":
            await self._tell("sandbox.created", shown)
        await self._tell("sandbox.state.updated", {"sandbox": shown, "oldState": old, "newState": state})

    def _plan(self, sandbox: LocalSandbox) -> SandboxPlan:
        memory_gb, disk_gb = number(sandbox.wanted, "memory", 0), number(sandbox.wanted, "disk", 0)
        limits = ProcessLimits.within(memory_gb * 1024 or self._ground.memory_mb)
        # A group takes time to enter: only for what nothing else bounds.
        is_counted = self._ground.level == "L3"
        kinds = ({"memory"} if limits.memory_mb else set[str]()) | (set[str]() if is_counted else {"pids"})
        if disk_gb:
            limits = replace(limits, file_mb=disk_gb * 1024)
        return SandboxPlan(
            sandbox_id=sandbox.identifier,
            level=self._ground.level,
            folder=self.folder(sandbox),
            shared=self._ground.folders.shared,
            owner=self._ground.owner,
            read_only=self._ground.read_only,
            mounts=tuple(self._mounts(sandbox.wanted)),
            env=strings(sandbox.wanted, "env"),
            limits=limits,
            path=self._ground.path,
            groups=self._ground.delegation.groups(self._ground.folders.base, sandbox.identifier, kinds),
            strict_volumes=self._faults.shows("strict_volume") is not None,
            has_our_python=self._ground.has_our_python,
        )

    def _mounts(self, wanted: dict[str, object]) -> list[MountedVolume]:
        given = wanted.get("volumes") or []
        if not isinstance(given, list):
            raise ApiError(400, "BAD_REQUEST", "volumes must be a list")
        mounts: list[MountedVolume] = []
        for one in given:
            if not isinstance(one, dict):
                raise ApiError(400, "BAD_REQUEST", "a volume must be an object")
            volume = self._volumes.ready(str(one.get("volumeId")))
            target, subpath = os.path.normpath(str(one.get("mountPath") or "")), str(one.get("subpath") or "")
            if not target.startswith("/") or target in _RESERVED or target.startswith(_READ_ONLY):
                raise ApiError(400, "BAD_REQUEST", f"a volume cannot be mounted at {target}")
            if ".." in Path(subpath).parts:
                raise ApiError(400, "BAD_REQUEST", "the subpath of a volume must not contain '..'")
            if self._ground.level != "L3" and not target.startswith("/home/daytona/"):
                raise ApiError(400, "BAD_REQUEST", "without namespaces a volume must be mounted below /home/daytona/")
            mounts.append(MountedVolume(self._volumes.files(str(volume["id"])), subpath, target))
        return mounts


def strings(body: dict[str, object], name: str) -> dict[str, str]:
    """The map of strings at `name` in a request; raises ApiError 400."""
    value = body.get(name) or {}
    if not isinstance(value, dict) or not all(isinstance(one, str) for one in value.values()):
        raise ApiError(400, "BAD_REQUEST", f"{name} must map names to strings")
    if name == "env" and not all(key and "=" not in key and "\0" not in key + one for key, one in value.items()):
        raise ApiError(400, "BAD_REQUEST", "env holds a name or value that no process can be given")
    return value


def number(body: dict[str, object], name: str, default: int, lowest: int = 0) -> int:
    """The whole number at `name` in a request; raises ApiError 400."""
    value = body.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or value < lowest:
        raise ApiError(400, "BAD_REQUEST", f"{name} must be a whole number, {lowest} or more")
    return value
