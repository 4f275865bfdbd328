"""The routes that tell about the sandbox as a machine, and change its variables; and what is not offered here."""

import os
import shutil
import time

from aiohttp import web

from fleet_rlm_jupyter.localdaytona.processes import SandboxProcesses, is_env
from fleet_rlm_jupyter.localdaytona.wire import ApiError, parse_object, timestamp

_MISSING = {
    "lsp": "language servers are not offered by the local server; run one as a process, or use Daytona",
    "computeruse": "there is no desktop in a local sandbox; use Daytona for computer use",
}
_LISTENING = "0A"


class MachineRoutes:
    """Work dir, version, variables, ports and figures."""

    def __init__(self, processes: SandboxProcesses) -> None:
        self._processes = processes

    def add_routes(self, app: web.Application) -> None:
        app.router.add_get("/work-dir", self._work_dir)
        app.router.add_get("/user-home-dir", self._work_dir)
        app.router.add_get("/version", self._version)
        app.router.add_post("/env", self._env)
        app.router.add_get("/port", self._ports)
        app.router.add_get("/port/{port}/in-use", self._in_use)
        app.router.add_get("/system/metrics", self._metrics)
        for name in _MISSING:
            app.router.add_route("*", f"/{{kind:{name}}}/{{tail:.*}}", self._missing)

    async def _work_dir(self, request: web.Request) -> web.Response:
        return web.json_response({"dir": self._processes.home})

    async def _version(self, request: web.Request) -> web.Response:
        return web.json_response({"version": "localdaytona"})

    async def _env(self, request: web.Request) -> web.Response:
        body = parse_object(await request.read())
        unset, given, prefix = body.get("unset") or [], body.get("set") or {}, body.get("unsetValuePrefix")
        if not isinstance(unset, list) or not isinstance(given, dict):
            raise ApiError(400, "BAD_REQUEST", "unset must be a list and set an object")
        if not all(is_env(name, value) for name, value in given.items()):
            raise ApiError(400, "BAD_REQUEST", "set must map valid names to strings")
        env = self._processes.env
        for name in [*unset, *(key for key, value in env.items() if prefix and value.startswith(str(prefix)))]:
            env.pop(str(name), None)
        env.update(given)
        return web.json_response({"message": "environment updated"})

    async def _ports(self, request: web.Request) -> web.Response:
        return web.json_response({"ports": sorted(_listening())})

    async def _in_use(self, request: web.Request) -> web.Response:
        try:
            port = int(request.match_info["port"])
        except ValueError as err:
            raise ApiError(400, "BAD_REQUEST", "a port is a number") from err
        return web.json_response({"isInUse": port in _listening()})

    async def _metrics(self, request: web.Request) -> web.Response:
        """Of the machine: a local sandbox has no figures of its own."""
        disk, memory, now = shutil.disk_usage(self._processes.home), _memory(), time.time()
        return web.json_response(
            {
                "cpuCount": os.cpu_count() or 1,
                "cpuUsedPct": round(100 * os.getloadavg()[0] / (os.cpu_count() or 1), 1),
                "memTotal": memory.get("MemTotal", 0),
                "memUsed": memory.get("MemTotal", 0) - memory.get("MemAvailable", 0),
                "memCache": memory.get("Cached", 0),
                "diskTotal": disk.total,
                "diskUsed": disk.used,
                "diskFree": disk.free,
                "timestamp": timestamp(now),
                "timestampUnix": int(now),
            }
        )

    async def _missing(self, request: web.Request) -> web.Response:
        raise ApiError(501, "NOT_IMPLEMENTED", _MISSING[request.match_info["kind"]])


def _listening() -> set[int]:
    found: set[int] = set()
    for name in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            with open(name) as file:
                rows = [line.split() for line in file.readlines()[1:]]
        except OSError:  # at L2 it is out of reach, as sockets are
            continue
        found |= {int(row[1].rpartition(":")[2], 16) for row in rows if row[3] == _LISTENING}
    return found


def _memory() -> dict[str, int]:
    try:
        with open("/proc/meminfo") as file:
            return {line.split(":")[0]: int(line.split()[1]) << 10 for line in file}
    except OSError:
        return {}
