"""The command line of the local Daytona server; the only module here that reads the environment."""

import argparse
import asyncio
import contextlib
import errno
import json
import os
import sys
from collections.abc import Mapping
from typing import NoReturn

from fleet_rlm_jupyter import localdaytona
from fleet_rlm_jupyter.localdaytona import levels, linux
from fleet_rlm_jupyter.localdaytona.faults import AT_ONCE, fault_of
from fleet_rlm_jupyter.localdaytona.folders import Folders, sweep
from fleet_rlm_jupyter.localdaytona.levels import NotIsolated
from fleet_rlm_jupyter.localdaytona.options import ServerOptions
from fleet_rlm_jupyter.localdaytona.spawner import start_fork_server
from fleet_rlm_jupyter.localdaytona.wire import ApiError

_KEY_VARIABLE = "FLEET_LOCALDAYTONA_KEY"
_SHORTEST_KEY = 8


class _Refused(Exception):
    """Ends the program with exit code 2: a stable code, one sentence, the next step."""

    def __init__(self, code: str, text: str, hint: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text
        self.hint = hint


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise _Refused("bad_option", message, f"see {self.prog} --help")


def main(argv: list[str]) -> int:
    """Run the server until it is told to stop: 0 after that, 1 if it failed meanwhile, 2 when it cannot start,
    130 when interrupted before it was ready.
    """
    ready_fd = sys.stdout.fileno()
    try:
        given = _parser().parse_args(argv)
        ready_fd = given.ready_fd if given.ready_fd is not None else ready_fd
        if not _run(_options(given), ready_fd):
            print("localdaytona: the fork server ended, and all sandboxes with it; start again", file=sys.stderr)
            return 1
    except KeyboardInterrupt:  # before the server itself listens for it
        return 130
    except _Refused as refused:
        problem = {"error": {"code": refused.code, "text": refused.text, "hint": refused.hint}}
        _tell(ready_fd, problem)
        print(f"localdaytona: {refused.text}; {refused.hint}", file=sys.stderr)
        return 2
    return 0


def _run(options: ServerOptions, ready_fd: int) -> bool:
    try:
        if sys.platform == "linux":
            linux.set_dumpable(False)  # where code runs as the same user, it must not read the key from our memory
        sweep()
        owner = levels.owner()
        folders = Folders(owner)
        fork_server = start_fork_server(folders.base)
        return asyncio.run(
            localdaytona.serve(options, folders, owner, fork_server, lambda about: _tell(ready_fd, about))
        )
    except NotIsolated as err:
        raise _Refused("not_isolated", str(err), err.hint) from err
    except OSError as err:
        raise _refusal(err, options.port) from err


def _refusal(err: OSError, port: int) -> _Refused:
    if err.errno == errno.EADDRINUSE:
        return _Refused("port_in_use", f"port {port} is in use", "choose another port, or 0 for any free one")
    if err.errno in (errno.EACCES, errno.EPERM):
        text = f"no permission: {err.strerror or err}" + (f" ({err.filename})" if err.filename else f" (port {port})")
        return _Refused("no_permission", text, "choose a port above 1023 and folders you may write")
    if err.errno in (errno.ENOENT, errno.ENOTDIR, errno.EROFS, errno.EEXIST) and err.filename:
        return _Refused("bad_folder", f"{err.filename} cannot be used: {err.strerror}", "choose another --data folder")
    if err.errno == errno.ENOSPC:
        return _Refused("disk_full", "no space left for the folders of sandboxes", "free some space, or set TMPDIR")
    return _Refused("cannot_start", f"the server cannot start: {err}", "set DAYTONA_API_KEY to use Daytona instead")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="localdaytona", description="A Daytona API on this machine, for any Daytona SDK client.")
    add = parser.add_argument
    add("--port", type=int, default=0, help="loopback port; 0 (the default) takes any free one")
    add(
        "--key",
        default="",
        help=f"the API key that clients must send; better in {_KEY_VARIABLE}, where ps shows it not",
    )
    add("--level", choices=("auto", "L3", "L2", "L1"), default="auto", help="isolation of sandboxes")
    add("--allow-unisolated", action="store_true", help="accept level L1, where code runs as you")
    add("--data", default="", help="folder that keeps the volumes (default: they end with the server)")
    add("--memory-mb", type=int, default=0, help="memory of a sandbox that asks for none; 0: no limit")
    add("--disk-mb", type=int, default=10240, help="files of a sandbox that asks for no disk, in all; 0: no limit")
    add("--ready-fd", type=int, help="descriptor for the line of JSON that says it is ready (default: stdout)")
    add("--die-with-parent", action="store_true", help="stop when the parent ends or closes our stdin")
    add("--parent-fd", type=int, help="like --die-with-parent, but watches this descriptor instead of stdin")
    add("--fault", action="append", default=[], help="for tests: NAME[:KEY=VALUE,...] goes wrong from the start")
    add("--minute-seconds", type=float, default=60.0, help="how long a minute of the timers lasts (for tests)")
    return parser


def _options(given: argparse.Namespace) -> ServerOptions:
    # popped, so that no process we start inherits it
    key = given.key or os.environ.pop(_KEY_VARIABLE, "")
    if len(key) < _SHORTEST_KEY:
        raise _Refused(
            "no_key", f"the key must have at least {_SHORTEST_KEY} characters", f"pass --key or set {_KEY_VARIABLE}"
        )
    if not 0 <= given.port <= 65535:
        raise _Refused("bad_option", f"there is no port {given.port}", "choose one from 0 to 65535")
    if min(given.memory_mb, given.disk_mb) < 0 or given.minute_seconds <= 0:
        raise _Refused("bad_option", "memory, disk and minutes must be positive", "leave it out for the default")
    parent_fd = given.parent_fd
    if parent_fd is None and given.die_with_parent:
        parent_fd = sys.stdin.fileno()
    try:
        faults = tuple(fault_of(text) for text in given.fault)
    except ApiError as err:
        raise _Refused("bad_option", err.message, "see --help") from err
    if any(fault.name in AT_ONCE for fault in faults):
        raise _Refused("bad_option", f"{', '.join(AT_ONCE)} happen at once", "POST them to /api/faults instead")
    return ServerOptions(
        port=given.port,
        key=key,
        level=given.level,
        allow_unisolated=given.allow_unisolated,
        data=os.path.abspath(os.path.expanduser(given.data)) if given.data else "",
        home=os.path.expanduser("~"),
        memory_mb=given.memory_mb,
        disk_mb=given.disk_mb,
        minute_seconds=given.minute_seconds,
        parent_fd=parent_fd,
        faults=faults,
    )


def _tell(fd: int, message: Mapping[str, object]) -> None:
    with contextlib.suppress(OSError):
        os.write(fd, json.dumps(message, ensure_ascii=False).encode() + b"\n")
