"""Limits for a sandbox as a whole, by control groups; only where the machine has delegated them to us."""

import contextlib
import errno
import os
import time
from dataclasses import dataclass
from pathlib import Path

from fleet_rlm_jupyter.localdaytona.plan import ProcessLimits, SandboxPlan

_ROOT = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")
_WANTED = ("memory", "pids")
_TRIALS = {"memory": (("memory.limit_in_bytes", "memory.max"), str(1 << 30)), "pids": (("pids.max",), "512")}
_HEADROOM_MB = 64  # so that one process meets its own limit, an error it can catch, before the kernel kills
_REMOVE_SECONDS = 1.0


@dataclass(frozen=True)
class Delegation:
    """The folders below which groups may be made, and what limits there; none when nothing is delegated."""

    parents: tuple[tuple[str, str], ...] = ()  # what is limited there, and the folder
    limits: str = "per process: no control groups are delegated"

    def groups(self, base: str, identifier: str, kinds: set[str]) -> tuple[str, ...]:
        """The groups that limit `kinds` of one sandbox of the server whose temporary folder is `base`."""
        parents = {folder for kind, folder in self.parents if kind in kinds}
        return tuple(f"{parent}/{os.path.basename(base)}.{identifier}" for parent in sorted(parents))


def delegation(root: Path = _ROOT, own: Path = _OWN) -> Delegation:
    """What this process may do, tried out."""
    found: dict[str, str] = {}
    try:
        lines = [line.split(":", 2) for line in own.read_text().splitlines()]
    except OSError:  # not Linux
        return Delegation()
    for number, names, path in lines:
        for name in [name for name in names.split(",") if name in _WANTED]:
            found.update(_usable({name: _inside(root / name, path)}))
        if number == "0" and not found:
            top = root if (root / "cgroup.controllers").exists() else root / "unified"
            here = _inside(top, path)
            for parent in (here, here.parent):
                if parent.is_relative_to(top) and not found:
                    enabled = _read(parent / "cgroup.subtree_control").split()
                    found = _usable({name: parent for name in _WANTED if name in enabled})
    if not found:
        return Delegation()
    per_process = "" if "memory" in found else "; memory per process"
    return Delegation(tuple(sorted(found.items())), f"{' and '.join(sorted(found))} per sandbox{per_process}")


def enter(plan: SandboxPlan) -> None:
    """Make the groups of the sandbox with its limits, and become their first process. Raises OSError."""
    for group in plan.groups:
        os.makedirs(group, exist_ok=True)
        for name, value in _limits(plan.limits).items():
            path = f"{group}/{name}"
            if os.path.exists(path):
                _write(path, value)
        _write(f"{group}/cgroup.procs", "0")


def remove(groups: tuple[str, ...]) -> None:
    """Remove the groups of a sandbox whose processes have been killed; the kernel may still be at it."""
    for group in groups:
        deadline = time.monotonic() + _REMOVE_SECONDS
        while os.path.isdir(group):
            try:
                os.rmdir(group)
            except OSError as err:
                if err.errno != errno.EBUSY or time.monotonic() > deadline:
                    break
                time.sleep(0.01)


def sweep(parents: set[str], temporary: str, prefix: str) -> None:
    """Remove groups that servers left which were killed together with their fork servers."""
    for parent in parents:
        for name in os.listdir(parent):
            base = name.split(".", 1)[0]
            if name.startswith(prefix) and not os.path.exists(f"{temporary}/{base}"):
                with contextlib.suppress(OSError):
                    os.rmdir(f"{parent}/{name}")


def _limits(limits: ProcessLimits) -> dict[str, str]:
    """By the names of both versions; a file that is not there is not meant."""
    wanted = {"pids.max": str(limits.processes)}
    if limits.memory_mb:
        size = str((limits.memory_mb + _HEADROOM_MB) << 20)
        wanted |= {"memory.limit_in_bytes": size, "memory.memsw.limit_in_bytes": size}
        wanted |= {"memory.max": size, "memory.swap.max": "0", "memory.oom.group": "0"}
    return wanted


def _usable(parents: dict[str, Path]) -> dict[str, str]:
    """Those of `parents` in which a group can be made that limits something."""
    usable: dict[str, str] = {}
    for name, parent in parents.items():
        trial = parent / f"fleet-localdaytona-trial.{os.getpid()}"
        files, value = _TRIALS[name]
        with contextlib.suppress(OSError):
            trial.mkdir()
            try:
                limit = next((trial / file for file in files if (trial / file).exists()), None)
                if limit is not None:
                    _write(str(limit), value)
                    usable[name] = str(parent)
            finally:
                trial.rmdir()
    return usable


def _inside(top: Path, path: str) -> Path:
    """The folder of our own group; in a container the path may be one of the host's."""
    here = top / path.strip("/")
    return here if here.is_dir() else top


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)
