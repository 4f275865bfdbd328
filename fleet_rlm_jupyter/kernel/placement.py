"""Where a run goes: to the Jupyter server or into this kernel, and why."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from fleet_rlm_jupyter.domain.context import Context
from fleet_rlm_jupyter.domain.errors import BadRequest, NoSuchProgram, StoreFailed
from fleet_rlm_jupyter.kernel.connect import Server, find_server
from fleet_rlm_jupyter.settings import Settings
from fleet_rlm_jupyter.workbench import Workbench

On = Literal["auto", "server", "kernel"]

HERE = "in this kernel"


@dataclass(frozen=True, slots=True)
class Placed:
    """`server` is None for this kernel; `line` says where, and why where that needs to be said."""

    server: Server | None
    line: str


def choose(on: On, settings: Settings, ties: Sequence[str] = ()) -> Placed:
    """The server where one answers, unless one of `ties`, each a reason in words, holds the run in this kernel.

    Looks for the server anew each time. Raises BadRequest where the server is asked for and cannot be had.
    """
    if on not in get_args(On):
        raise BadRequest(f"on is server or kernel, not {on!r}", "leave it out, and it is the server where one answers")
    if on == "kernel":
        return Placed(None, f"{HERE}, as asked for")
    if ties:
        if on == "server":
            raise BadRequest(f"this cannot run on the server: {ties[0]}", "leave that out, or let it run in the kernel")
        return Placed(None, f"{HERE}: {ties[0]}")
    found = find_server(settings)
    if found.server is not None:
        return Placed(found.server, f"on the server at {found.server.url}")
    if on == "server":
        raise BadRequest(found.reason or "no Jupyter server started this kernel", "name one with %fleet connect URL")
    return Placed(None, f"{HERE}: {found.reason}" if found.reason else HERE)


def tie_of(program: object, inputs: Mapping[str, object], bench: Workbench) -> str:
    """What holds a run of `program` in this kernel, in words; empty for nothing."""
    if not isinstance(program, str):
        return "a program of your own is code of this kernel"
    for name, value in inputs.items():
        if not isinstance(value, Context) and not _is_json(value):
            return f"the input {name} is a {type(value).__name__} of this kernel"
    with contextlib.suppress(NoSuchProgram, StoreFailed):
        if bench.programs.get(program).version:
            return f"{program} is kept in this kernel's store"
    return ""


def _is_json(value: object) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True
