"""The control plane: Daytona's REST routes, the key check, and the life of the server."""

import asyncio
import contextlib
import hmac
import sys
import time
import traceback
from collections.abc import Awaitable, Callable

from aiohttp import web

from fleet_rlm_jupyter.localdaytona import listing
from fleet_rlm_jupyter.localdaytona.events import EventSocket
from fleet_rlm_jupyter.localdaytona.faults import Faults, group_of
from fleet_rlm_jupyter.localdaytona.outside import OutsideGit
from fleet_rlm_jupyter.localdaytona.previews import PreviewTokens
from fleet_rlm_jupyter.localdaytona.proxy import ToolboxProxy
from fleet_rlm_jupyter.localdaytona.sandboxes import LocalSandbox, LocalSandboxes, number, strings
from fleet_rlm_jupyter.localdaytona.switches import FaultRoutes
from fleet_rlm_jupyter.localdaytona.volumes import LocalVolumes
from fleet_rlm_jupyter.localdaytona.wire import API, PROXY, ApiError, error_body, parse_object

_SOCKET_PATH = "api/socket.io"
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class ControlPlane:
    """All routes of the server. Paths below /api are Daytona's; /toolbox leads into the sandboxes."""

    def __init__(self, key: str, about: dict[str, object], faults: Faults) -> None:
        self._key = key.encode()
        self._about = about
        self._faults = faults
        self._tokens = PreviewTokens()
        self._started = time.time()
        self.web = web.Application(middlewares=[self._guard, self._go_wrong], client_max_size=64 << 20)
        self.events = EventSocket(self.web, _SOCKET_PATH, key)

    def open(
        self,
        sandboxes: LocalSandboxes,
        volumes: LocalVolumes,
        outside: OutsideGit | None,
        restart: Callable[[float], None],
    ) -> None:
        """Add the routes; separate from __init__ because sandboxes report to `events`."""
        self._sandboxes = sandboxes
        self._volumes = volumes
        self.proxy = ToolboxProxy(sandboxes, self._faults, outside)
        FaultRoutes(self._faults, sandboxes, self.proxy, restart).add_routes(self.web)
        add = self.web.router.add_route
        add("GET", "/api/health", self._health)
        add("POST", "/api/sandbox", self._create)
        add("GET", "/api/sandbox", self._list)
        add("GET", "/api/sandbox/{id}", self._get)
        add("DELETE", "/api/sandbox/{id}", self._delete)
        add("POST", "/api/sandbox/{id}/start", self._start)
        add("POST", "/api/sandbox/{id}/stop", self._stop)
        add("POST", "/api/sandbox/{id}/archive", self._archive)
        add("POST", "/api/sandbox/{id}/resize", self._resize)
        add("POST", "/api/sandbox/{id}/recover", self._recover)
        add("POST", "/api/sandbox/{id}/fork", self._fork)
        add("POST", "/api/sandbox/{id}/public/{flag}", self._public)
        add("GET", "/api/sandbox/{id}/ports/{port}/preview-url", self._preview_url)
        add("GET", "/api/snapshots", self._snapshots)
        add("POST", "/api/snapshots", self._no_snapshots)
        add("POST", "/api/sandbox/{id}/snapshot", self._no_snapshots)
        add("GET", "/api/snapshots/{id:.*}", self._snapshot)
        add("PUT", "/api/sandbox/{id}/labels", self._labels)
        for name, lowest in (("autostop", 0), ("autodelete", -1), ("autoarchive", 0), ("ttl", 0)):
            add("POST", f"/api/sandbox/{{id}}/{name}/{{minutes}}", self._interval_route(name, lowest))
        add("POST", "/api/sandbox/{id}/last-activity", self._touch)
        add("GET", "/api/sandbox/{id}/toolbox-proxy-url", self._toolbox_url)
        add("GET", "/api/volumes", self._list_volumes)
        add("POST", "/api/volumes", self._create_volume)
        add("GET", "/api/volumes/by-name/{id}", self._get_volume)
        add("GET", "/api/volumes/{id}", self._get_volume)
        add("DELETE", "/api/volumes/{id}", self._delete_volume)
        add("*", "/toolbox/{id}/{tail:.*}", self.proxy.handle)
        add("*", "/preview/{id}/{tail:.*}", self.proxy.handle)
        add("*", "/{tail:.*}", _unknown)

    @web.middleware
    async def _guard(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        """Refuse whoever lacks the key, and answer every error in Daytona's form."""
        try:
            self._check_key(request)
            return await handler(request)
        except ApiError as err:
            problem = err
        except web.HTTPException as err:
            problem = ApiError(err.status, err.reason.upper().replace(" ", "_"), err.reason)
        except ConnectionError:
            raise  # the client is gone: nobody to answer
        except Exception as err:
            traceback.print_exc(file=sys.stderr)
            problem = ApiError(500, "INTERNAL_SERVER_ERROR", f"{type(err).__name__}: {err}")
        source = problem.source or (PROXY if request.path.startswith("/toolbox/") else API)
        body = error_body(problem, source, request.method, request.path)
        return web.Response(status=problem.status, body=body, content_type="application/json", headers=problem.headers)

    @web.middleware
    async def _go_wrong(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        """Let a fault that is on take the place of the work, or of its answer."""
        group = group_of(request.method, request.path)
        if not group:
            return await handler(request)
        self._faults.check(group)
        answer = await handler(request)
        if answer.status < 300 and (fault := self._faults.take("failure_after_success", group)):
            if not fault.status and request.transport is not None:
                request.transport.abort()
            raise ApiError(fault.status or 500, "SERVER_ERROR", "a fault that was asked for")
        return answer

    def _check_key(self, request: web.Request) -> None:
        if request.path.startswith(f"/{_SOCKET_PATH}/") or self._may_preview(request):
            return  # in the first case the key comes in the first message
        kind, _, key = request.headers.get("Authorization", "").partition(" ")
        if kind.lower() != "bearer" or not hmac.compare_digest(key.strip().encode("utf-8", "replace"), self._key):
            raise ApiError(401, "UNAUTHORIZED", "Invalid credentials: the API key is missing or wrong")

    def _may_preview(self, request: web.Request) -> bool:
        parts = request.path.split("/")
        if parts[1] != "preview" or len(parts) < 5:
            return False
        sandbox = next((one for one in self._sandboxes.all() if one.identifier == parts[2]), None)
        return sandbox is not None and (sandbox.is_public or self._tokens.fit(parts[2], parts[3], request))

    def _find(self, request: web.Request) -> LocalSandbox:
        return self._sandboxes.get(request.match_info["id"])

    def _show(self, sandbox: LocalSandbox) -> web.Response:
        return web.json_response(self._sandboxes.describe(sandbox))

    async def _health(self, request: web.Request) -> web.Response:
        return web.json_response({"status": "ok", **self._about})

    async def _create(self, request: web.Request) -> web.Response:
        # shielded, here and below: a client that gives up must not leave a half-made sandbox
        body = parse_object(await request.read())
        return self._show(await asyncio.shield(self._sandboxes.create(body)))

    async def _list(self, request: web.Request) -> web.Response:
        return web.json_response(listing.page(self._sandboxes.shown(), request.query))

    async def _get(self, request: web.Request) -> web.Response:
        return self._show(self._find(request))

    async def _delete(self, request: web.Request) -> web.Response:
        sandbox = self._find(request)
        await asyncio.shield(self._sandboxes.delete(sandbox))
        await self.proxy.forget(sandbox.identifier)
        return self._show(sandbox)

    async def _start(self, request: web.Request) -> web.Response:
        sandbox = self._find(request)
        await asyncio.shield(self._sandboxes.start(sandbox))
        return self._show(sandbox)

    async def _stop(self, request: web.Request) -> web.Response:
        sandbox = self._find(request)
        await asyncio.shield(self._sandboxes.stop(sandbox))
        await self.proxy.forget(sandbox.identifier)
        return self._show(sandbox)

    async def _fork(self, request: web.Request) -> web.Response:
        self._find(request)
        raise ApiError(422, "UNPROCESSABLE_ENTITY", "Forking is not supported for this sandbox")

    async def _archive(self, request: web.Request) -> web.Response:
        sandbox = self._find(request)
        await asyncio.shield(self._sandboxes.archive(sandbox))
        return self._show(sandbox)

    async def _resize(self, request: web.Request) -> web.Response:
        sandbox = self._find(request)
        await self._sandboxes.resize(sandbox, parse_object(await request.read()))
        return self._show(sandbox)

    async def _recover(self, request: web.Request) -> web.Response:
        state = self._find(request).state
        raise ApiError(400, "BAD_REQUEST", f"Sandbox is not in a recoverable error state: its state is {state}")

    async def _public(self, request: web.Request) -> web.Response:
        sandbox = self._find(request)
        sandbox.is_public = request.match_info["flag"].lower() == "true"
        return self._show(sandbox)

    async def _preview_url(self, request: web.Request) -> web.Response:
        sandbox, port = self._find(request), request.match_info["port"]
        if not port.isdigit() or not 0 < int(port) < 65536:
            raise ApiError(400, "BAD_REQUEST", "a port is a number from 1 to 65535")
        url = f"{self._about['url']}".removesuffix("/api") + f"/preview/{sandbox.identifier}/{port}/"
        token = self._tokens.of(sandbox.identifier, int(port))
        return web.json_response({"sandboxId": sandbox.identifier, "url": url, "token": token})

    async def _snapshots(self, request: web.Request) -> web.Response:
        only = [listing.snapshot(self._started)]
        return web.json_response({"items": only, "total": 1, "page": 1, "totalPages": 1})

    async def _snapshot(self, request: web.Request) -> web.Response:
        snapshot = listing.snapshot(self._started)
        if request.match_info["id"] not in (snapshot["id"], snapshot["name"]):
            raise ApiError(404, "NOT_FOUND", f"Snapshot {request.match_info['id']} not found: here is only 'local'")
        return web.json_response(snapshot)

    async def _no_snapshots(self, request: web.Request) -> web.Response:
        raise ApiError(501, "NOT_IMPLEMENTED", "the local server makes no snapshots: it has this machine's Python")

    async def _labels(self, request: web.Request) -> web.Response:
        sandbox = self._find(request)
        sandbox.labels = strings(parse_object(await request.read()), "labels")
        return web.json_response({"labels": sandbox.labels})

    def _interval_route(self, name: str, lowest: int) -> _Handler:
        async def set_interval(request: web.Request) -> web.Response:
            sandbox = self._find(request)
            try:
                given: dict[str, object] = {name: int(request.match_info["minutes"])}
            except ValueError as err:
                raise ApiError(400, "BAD_REQUEST", f"{name} must be a whole number of minutes") from err
            minutes = number(given, name, 0, lowest)
            if name == "autostop":
                sandbox.auto_stop = minutes
            elif name == "autodelete":
                sandbox.auto_delete = minutes
            elif name == "ttl":
                sandbox.ttl_minutes = minutes
            else:
                sandbox.auto_archive = minutes
            return self._show(sandbox)

        return set_interval

    async def _touch(self, request: web.Request) -> web.Response:
        self._find(request).touch()
        return web.Response(status=201)

    async def _toolbox_url(self, request: web.Request) -> web.Response:
        return web.json_response({"url": self._sandboxes.describe(self._find(request))["toolboxProxyUrl"]})

    async def _list_volumes(self, request: web.Request) -> web.Response:
        return web.json_response(self._volumes.all())

    async def _create_volume(self, request: web.Request) -> web.Response:
        name = parse_object(await request.read()).get("name")
        if name is not None and not isinstance(name, str):
            raise ApiError(400, "BAD_REQUEST", "name must be a string")
        return web.json_response(self._volumes.create(name))

    async def _get_volume(self, request: web.Request) -> web.Response:
        return web.json_response(self._volumes.get(request.match_info["id"]))

    async def _delete_volume(self, request: web.Request) -> web.Response:
        volume = self._volumes.get(request.match_info["id"])
        if self._sandboxes.uses_volume(str(volume["id"])):
            raise ApiError(409, "CONFLICT", f"Volume {volume['name']} is in use by a sandbox")
        await asyncio.to_thread(self._volumes.delete, str(volume["id"]))
        return web.Response()


async def keep_time(work: Callable[[], Awaitable[None]], every: float) -> None:
    """Do `work` again and again until cancelled; one failure must not end that."""
    while True:
        await asyncio.sleep(every)
        try:
            await work()
        except Exception:
            traceback.print_exc(file=sys.stderr)


async def close(plane: ControlPlane) -> None:
    with contextlib.suppress(Exception):
        await plane.events.close()
    await plane.proxy.close()


async def _unknown(request: web.Request) -> web.Response:
    raise ApiError(501, "NOT_IMPLEMENTED", f"{request.method} {request.path} is not offered by the local server")
