"""What the control plane tells the fork server about one sandbox: folders, mounts, limits, environment."""

import json
from dataclasses import asdict, dataclass, field

HOME = "/home/daytona"
BIN = "/opt/daytona/bin"
USER = "daytona"
INSIDE_UID = 1000


@dataclass(frozen=True)
class MountedVolume:
    """A folder of a volume (`root`/`subpath` on the host) and where the sandbox sees it."""

    root: str
    subpath: str
    target: str


MOST_PROCESSES = 512
_MB_OF_A_FORK = 4
"""What a forked Python costs at the least. A bomb of forks has to meet its own limit, an error that code can catch,
before the memory runs out: the kernel would then kill by size, and the kernel of the sandbox is as large as any."""


@dataclass(frozen=True)
class ProcessLimits:
    memory_mb: int = 0  # per process; 0 means no limit
    file_mb: int = 16384
    open_files: int = 4096
    processes: int = MOST_PROCESSES

    @classmethod
    def within(cls, memory_mb: int) -> "ProcessLimits":
        """The limits of a sandbox with so much memory."""
        fitting = memory_mb // _MB_OF_A_FORK if memory_mb else MOST_PROCESSES
        return cls(memory_mb=memory_mb, processes=min(MOST_PROCESSES, max(32, fitting)))


@dataclass(frozen=True)
class SandboxPlan:
    """Everything the start of one sandbox needs. `folder` holds root/, home/, tmp/ and the socket."""

    sandbox_id: str
    level: str
    folder: str
    shared: str  # etc/ and bin/, made once per server
    owner: int | None  # the user id to become; None: stay the user who runs the server
    read_only: tuple[str, ...] = ()
    mounts: tuple[MountedVolume, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    limits: ProcessLimits = field(default_factory=ProcessLimits)
    path: str = "/usr/local/bin:/usr/bin:/bin"
    groups: tuple[str, ...] = ()  # control groups to make and enter; the processes of one sandbox each
    strict_volumes: bool = False  # for tests: they know no rename, append, change or lock
    has_our_python: bool = False  # python3 inside is the Python of the fork server
    python_path: tuple[str, ...] = ()  # where that finds modules; the fork server fills it in
    probe: str = ""  # an interpreter to try inside; the sandbox says how it went and ends

    @property
    def home(self) -> str:
        """The home folder as the sandbox sees it."""
        return HOME if self.level == "L3" else f"{self.folder}/home"

    @property
    def tmp(self) -> str:
        return "/tmp" if self.level == "L3" else f"{self.folder}/tmp"

    @property
    def socket(self) -> str:
        return socket_path(self.folder)

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "SandboxPlan":
        raw = json.loads(text)
        for name in ("read_only", "groups", "python_path"):
            raw[name] = tuple(raw[name])
        raw["mounts"] = tuple(MountedVolume(**mount) for mount in raw["mounts"])
        raw["limits"] = ProcessLimits(**raw["limits"])
        return cls(**raw)


def linked_place(plan: SandboxPlan, target: str) -> str:
    """Where a volume is shown without a mount namespace: as a link below the private home."""
    return f"{plan.home}/{target.removeprefix('/home/daytona').strip('/')}"


def socket_path(folder: str) -> str:
    """Where the toolbox of the sandbox in `folder` listens; short, since a socket's path may have 104 bytes."""
    base, _, name = folder.rpartition("/")
    return f"{base}/{name[:13]}.s"
