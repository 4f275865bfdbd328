"""What the command line of the server said."""

from dataclasses import dataclass

from fleet_rlm_jupyter.localdaytona.faults import Fault


@dataclass(frozen=True)
class ServerOptions:
    """Folders are absolute; an empty `data` means that volumes end with the server."""

    port: int
    key: str
    level: str = "auto"
    allow_unisolated: bool = False
    data: str = ""
    home: str = "/"
    memory_mb: int = 0
    disk_mb: int = 0
    minute_seconds: float = 60.0
    parent_fd: int | None = None
    faults: tuple[Fault, ...] = ()
