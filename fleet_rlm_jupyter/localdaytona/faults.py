"""Faults as switches, for tests: what goes wrong with a real Daytona, made to happen here."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields

from fleet_rlm_jupyter.localdaytona.wire import ApiError

# What each switch does, and which of a fault's fields it reads besides `times`.
FAULTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "slow_start": ("create and start answer at once; the sandbox is started `seconds` later", ("seconds",)),
    "start_error": ("create and start answer at once; the sandbox then fails to start", ("seconds",)),
    "fork_422": ("fork is refused, as for Daytona's containers", ()),
    "pending_volume": ("a new volume is pending_create for `seconds`", ("seconds",)),
    "strict_volume": ("volumes of sandboxes started from now on know no rename, append, change or lock", ()),
    "rate_limit": ("429 with Retry-After-`suffix`: `seconds`", ("seconds", "on", "suffix")),
    "quota": ("400: the total limit of `resource` is exceeded", ("on", "resource")),
    "server_error": ("an error with `status` instead of the work", ("on", "status")),
    "failure_after_success": ("the work is done, then the answer is `status`; 0: none at all", ("on", "status")),
    "dropped_socket": ("a WebSocket is cut after `bytes` to the client; 0: those open now, at once", ("bytes",)),
    "slow_reader": ("each WebSocket message to the client takes `seconds`", ("seconds",)),
    "list_lag": ("lists show what was `seconds` ago", ("seconds",)),
    "archived_sandbox": ("`sandbox`, or all, are archived now; restoring takes `seconds`", ("sandbox", "seconds")),
    "killed_sandbox": ("all processes of `sandbox`, or of all, are killed now", ("sandbox",)),
    "server_restart": ("connections are cut and none is accepted for `seconds`; sandboxes live on", ("seconds",)),
}
AT_ONCE = ("archived_sandbox", "killed_sandbox", "server_restart")
_GROUPS = ("any", "create", "lifecycle", "list", "volumes", "toolbox", "other")


@dataclass
class Fault:
    """A switch that is on. `times` counts down to the end of the fault; 0 means until it is cleared."""

    name: str
    times: int = 0
    seconds: float = 1.0
    bytes: int = 0
    on: str = "create"
    suffix: str = "sandbox-create"
    resource: str = "CPU"
    status: int = 500
    sandbox: str = ""


class Faults:
    """The switches that are on."""

    def __init__(self, at_start: Iterator[Fault] | tuple[Fault, ...] = ()) -> None:
        self._on: list[Fault] = list(at_start)

    def all(self) -> list[Fault]:
        return list(self._on)

    def set(self, fault: Fault) -> None:
        self._on.append(fault)

    def clear(self) -> None:
        self._on.clear()

    def shows(self, name: str) -> Fault | None:
        """The first fault of this name, which is not used up by that."""
        return next((fault for fault in self._on if fault.name == name), None)

    def take(self, name: str, group: str = "") -> Fault | None:
        """The same, used once; with `group`, only one that is on for requests of that group."""
        for fault in self._on:
            if fault.name == name and (not group or fault.on in ("any", group)):
                self.use(fault)
                return fault
        return None

    def use(self, fault: Fault) -> None:
        if fault.times == 1:
            self._on.remove(fault)
        fault.times = max(fault.times - 1, 0)

    def check(self, group: str) -> None:
        """Raise what a switch puts in the place of a request's work."""
        if fault := self.take("rate_limit", group):
            message = "ThrottlerException: Too Many Requests"
            raise ApiError(429, "TOO_MANY_REQUESTS", message, _limit_headers(fault))
        if fault := self.take("quota", group):
            amount = "Volume quota exceeded" if group == "volumes" else f"Total {fault.resource} limit exceeded"
            raise ApiError(400, "BAD_REQUEST", f"{amount}. Maximum allowed: 10.")
        if fault := self.take("server_error", group):
            raise ApiError(fault.status, "SERVER_ERROR", "a fault that was asked for")


def group_of(method: str, path: str) -> str:
    """What kind of request this is, in the words of `on`; empty for those that no switch may disturb."""
    if path.startswith("/toolbox/"):
        return "toolbox"
    parts = path.split("/")[2:]
    match parts[:1]:
        case ["sandbox"] if len(parts) == 1:
            return "create" if method == "POST" else "list"
        case ["sandbox"] if method == "DELETE" or parts[2:] in (["start"], ["stop"], ["archive"], ["fork"]):
            return "lifecycle"
        case ["volumes"]:
            return "volumes"
        case ["faults"] | ["health"] | ["socket.io"]:
            return ""
        case _:
            return "other"


def parse_fault(given: Mapping[str, object]) -> Fault:
    """A fault from JSON; raises ApiError 400 for a name, field or value that it does not know."""
    name = given.get("fault")
    if not isinstance(name, str) or name not in FAULTS:
        raise ApiError(400, "BAD_REQUEST", f"there is no fault {name}; there are {', '.join(FAULTS)}")
    allowed = ("times", *FAULTS[name][1])
    fault = Fault(name)
    kinds = {field.name: type(getattr(fault, field.name)) for field in fields(Fault)}
    for key, value in given.items():
        if key == "fault":
            continue
        if key not in allowed:
            raise ApiError(400, "BAD_REQUEST", f"{name} takes {', '.join(allowed)}, not {key}")
        if kinds[key] is str:
            if not isinstance(value, str) or (key == "on" and value not in _GROUPS):
                raise ApiError(400, "BAD_REQUEST", f"{key} must be a text" + f" of {_GROUPS}" * (key == "on"))
        elif isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
            raise ApiError(400, "BAD_REQUEST", f"{key} must be a number, 0 or more")
        setattr(fault, key, kinds[key](value))
    return fault


def fault_of(text: str) -> Fault:
    """A fault from the command line: `name` or `name:key=value,key=value`; raises ApiError 400."""
    name, _, rest = text.partition(":")
    given: dict[str, object] = {"fault": name}
    for pair in filter(None, rest.split(",")):
        key, _, value = pair.partition("=")
        try:
            given[key] = float(value)
        except ValueError:
            given[key] = value
    return parse_fault(given)


def _limit_headers(fault: Fault) -> dict[str, str]:
    """Daytona names the throttler at the end of each header; there is no plain Retry-After."""
    return {
        f"X-RateLimit-Limit-{fault.suffix}": "300",
        f"X-RateLimit-Remaining-{fault.suffix}": "0",
        f"X-RateLimit-Reset-{fault.suffix}": str(int(time.time() + fault.seconds) + 1),
        f"Retry-After-{fault.suffix}": f"{fault.seconds:g}",
    }
