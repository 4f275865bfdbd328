"""The routes below /api/faults, by which a test turns faults on and off; they need the server's key like all others."""

import asyncio
from collections.abc import Callable
from dataclasses import asdict

from aiohttp import web

from fleet_rlm_jupyter.localdaytona.faults import AT_ONCE, FAULTS, Fault, Faults, parse_fault
from fleet_rlm_jupyter.localdaytona.proxy import ToolboxProxy
from fleet_rlm_jupyter.localdaytona.sandboxes import LocalSandbox, LocalSandboxes
from fleet_rlm_jupyter.localdaytona.wire import parse_object


class FaultRoutes:
    """`restart` cuts all connections and accepts none for some seconds."""

    def __init__(
        self, faults: Faults, sandboxes: LocalSandboxes, proxy: ToolboxProxy, restart: Callable[[float], None]
    ) -> None:
        self._faults = faults
        self._sandboxes = sandboxes
        self._proxy = proxy
        self._restart = restart

    def add_routes(self, app: web.Application) -> None:
        app.router.add_get("/api/faults", self._list)
        app.router.add_post("/api/faults", self._set)
        app.router.add_delete("/api/faults", self._clear)

    async def _list(self, request: web.Request) -> web.Response:
        names = {name: text for name, (text, _) in FAULTS.items()}
        return web.json_response({"on": [asdict(fault) for fault in self._faults.all()], "all": names})

    async def _set(self, request: web.Request) -> web.Response:
        fault = parse_fault(parse_object(await request.read()))
        if fault.name in AT_ONCE:
            await asyncio.shield(self._do(fault))
        else:
            self._faults.set(fault)
            self._proxy.cut_open(fault)
        return web.json_response(asdict(fault))

    async def _clear(self, request: web.Request) -> web.Response:
        self._faults.clear()
        return web.Response(status=204)

    async def _do(self, fault: Fault) -> None:
        if fault.name == "server_restart":
            self._restart(fault.seconds)
            return
        for sandbox in self._meant(fault):
            if fault.name == "killed_sandbox":
                await self._sandboxes.kill(sandbox)
            else:
                await self._sandboxes.stop(sandbox)
                await self._proxy.forget(sandbox.identifier)
                await self._sandboxes.archive(sandbox, fault.seconds)

    def _meant(self, fault: Fault) -> list[LocalSandbox]:
        return [self._sandboxes.get(fault.sandbox)] if fault.sandbox else self._sandboxes.all()
