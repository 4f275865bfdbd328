"""The daemon inside each sandbox: commands, terminals and files over a socket that only the server reaches."""

import asyncio

# asyncio imports it late, when the user of a sandbox may no longer read its file.
import concurrent.futures.thread  # noqa: F401  # pyright: ignore[reportUnusedImport]
import socket
from collections.abc import Awaitable, Callable

from aiohttp import web

from fleet_rlm_jupyter.localdaytona import strict
from fleet_rlm_jupyter.localdaytona.commands import CommandRoutes
from fleet_rlm_jupyter.localdaytona.contexts import InterpreterRoutes
from fleet_rlm_jupyter.localdaytona.files import FileRoutes
from fleet_rlm_jupyter.localdaytona.machine import MachineRoutes
from fleet_rlm_jupyter.localdaytona.plan import SandboxPlan, linked_place
from fleet_rlm_jupyter.localdaytona.previews import PortRoutes
from fleet_rlm_jupyter.localdaytona.processes import SandboxProcesses
from fleet_rlm_jupyter.localdaytona.repositories import GitRoutes
from fleet_rlm_jupyter.localdaytona.shells import ShellRoutes
from fleet_rlm_jupyter.localdaytona.terminals import TerminalRoutes
from fleet_rlm_jupyter.localdaytona.wire import DAEMON, HEADER_BYTES, LINE_BYTES, ApiError, error_body

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def run(
    plan: SandboxPlan, listener: socket.socket, link: socket.socket, confine: Callable[[], None] | None = None
) -> None:
    """Serve until the other end of `link`, held by the fork server, is closed; each command calls `confine` first."""
    if plan.strict_volumes:
        strict.hold([mount.target if plan.level == "L3" else linked_place(plan, mount.target) for mount in plan.mounts])
    asyncio.run(_serve(plan, listener, link, confine))


async def _serve(
    plan: SandboxPlan, listener: socket.socket, link: socket.socket, confine: Callable[[], None] | None
) -> None:
    processes = SandboxProcesses(plan, confine)
    processes.watch()
    app = web.Application(middlewares=[_errors_as_json], client_max_size=64 << 20)
    for routes in (
        MachineRoutes,
        CommandRoutes,
        TerminalRoutes,
        ShellRoutes,
        InterpreterRoutes,
        FileRoutes,
        GitRoutes,
    ):
        routes(processes).add_routes(app)
    PortRoutes().add_routes(app)
    runner = web.AppRunner(
        app, access_log=None, keepalive_timeout=3600, max_line_size=LINE_BYTES, max_field_size=HEADER_BYTES
    )
    await runner.setup()
    await web.SockSite(runner, listener).start()
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(link, ended.set)
    link.send(b'{"ready": true}\n')
    await ended.wait()
    if plan.level != "L3":
        processes.kill_all()


@web.middleware
async def _errors_as_json(request: web.Request, handler: _Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except ApiError as err:
        problem = err
    except web.HTTPException as err:
        problem = ApiError(err.status, err.reason.upper().replace(" ", "_"), err.reason)
    body = error_body(problem, DAEMON, request.method, request.path)
    return web.Response(status=problem.status, body=body, content_type="application/json")
