"""The levels of isolation: their names, and how a forked process becomes a sandbox of each."""

import os
import signal
import socket
import subprocess
import sys

from fleet_rlm_jupyter.localdaytona import linux, namespaces, toolbox
from fleet_rlm_jupyter.localdaytona.plan import INSIDE_UID, Plan

LABELS = {
    "L3": "Local — isolated (namespaces)",
    "L2": "Local — restricted (Landlock)",
    "L1": "Local — NOT isolated: code runs as you",
}
_OTHER_OWNER = 64917  # an id that no package or login is given; used when the server runs as root
_PROBE_SECONDS = 20


class NotIsolated(Exception):
    """A level asked for that this machine does not offer, or that is not allowed; text and next step."""

    def __init__(self, text: str, hint: str) -> None:
        super().__init__(text)
        self.hint = hint


def owner() -> int | None:
    """The user id for sandboxes: another one if the server is root and may choose, else None (its own)."""
    if os.getuid() != 0:
        return None
    try:
        with open("/proc/self/uid_map") as file:
            spans = [[int(word) for word in line.split()] for line in file]
    except OSError:  # no user namespaces in this kernel, or not Linux
        return _OTHER_OWNER
    mapped = any(start <= _OTHER_OWNER < start + count for start, _, count in spans)
    return _OTHER_OWNER if mapped else None


def interpreter_paths(home: str) -> tuple[str, ...]:
    """What a sandbox must be able to read to run this very interpreter, outside of the system's folders."""
    executable = os.path.realpath(sys.executable)
    wanted = [sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix]
    wanted += [os.path.realpath(path) for path in wanted]
    wanted += [os.path.dirname(executable), os.path.dirname(sys.executable)]
    chosen: list[str] = []
    for path in sorted({os.path.abspath(path) for path in wanted}, key=len):
        covered = any(path == top or path.startswith(f"{top}/") for top in ("/usr", "/bin", *chosen))
        holds_home = f"{home}/".startswith(f"{path}/") or path == "/"
        if not covered and not holds_home:
            chosen.append(path)
    return tuple(chosen)


def become(plan: Plan, listener: socket.socket, link: socket.socket) -> None:
    """Turn this freshly forked process into the sandbox of `plan`, and serve it until `link` is closed.

    Raises OSError when a step is refused; nothing of the sandbox's code has run then.
    """
    if plan.level == "L3":
        namespaces.begin(plan)
        reader, writer = os.pipe()
        pid = os.fork()
        if pid:
            link.send(b'{"pid": %d}\n' % pid)
            os._exit(0)
        os.close(writer)
        os.read(reader, 1)  # until the parent is gone: the signal asked for below is the new parent's
        os.close(reader)
        namespaces.finish(plan)
    else:
        _become_unisolated(plan)
        link.send(b'{"pid": %d}\n' % os.getpid())
    if plan.probe:
        link.send(b'{"ready": true, "python": %s}\n' % (b"true" if _works(plan) else b"false"))
    else:
        toolbox.run(plan, listener, link)


def _become_unisolated(plan: Plan) -> None:
    os.setsid()
    os.umask(0o022)
    if sys.platform == "linux":
        linux.adopt_orphans()
    if plan.owner is not None:
        os.setgroups([])
        os.setgid(plan.owner)
        os.setuid(plan.owner)
    namespaces.set_limits(plan)
    if sys.platform == "linux":
        linux.forbid_new_privileges()
    for mount in plan.mounts:
        _link_volume(plan, mount.target, os.path.join(mount.root, mount.subpath))
    os.chdir(plan.home)


def _link_volume(plan: Plan, target: str, source: str) -> None:
    """Show a volume as a link below the private home, since only a namespace could mount it elsewhere."""
    inside = target.removeprefix("/home/daytona").strip("/")
    place = os.path.join(plan.home, inside)
    os.makedirs(source, exist_ok=True)
    os.makedirs(os.path.dirname(place), exist_ok=True)
    if os.path.islink(place):
        os.unlink(place)
    os.symlink(source, place)


def _works(plan: Plan) -> bool:
    """Whether the interpreter starts here; at L3 also that the promises of the level hold."""
    if plan.level == "L3":
        if os.getuid() != INSIDE_UID or os.path.exists("/.old"):
            raise OSError("the sandbox would not be isolated")
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        done = subprocess.run(
            [plan.probe, "-I", "-c", "import json, socket"],
            env={"PATH": plan.path},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_PROBE_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0
