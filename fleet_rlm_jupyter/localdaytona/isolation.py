"""How a freshly forked process becomes a sandbox of each level of isolation."""

import os
import signal
import socket
import subprocess
import sys

from fleet_rlm_jupyter.localdaytona import linux, namespaces, toolbox
from fleet_rlm_jupyter.localdaytona.plan import INSIDE_UID, SandboxPlan

_PROBE_SECONDS = 20


def become(plan: SandboxPlan, listener: socket.socket, link: socket.socket) -> None:
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


def _become_unisolated(plan: SandboxPlan) -> None:
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


def _link_volume(plan: SandboxPlan, target: str, source: str) -> None:
    """Show a volume as a link below the private home, since only a namespace could mount it elsewhere."""
    inside = target.removeprefix("/home/daytona").strip("/")
    place = os.path.join(plan.home, inside)
    os.makedirs(source, exist_ok=True)
    os.makedirs(os.path.dirname(place), exist_ok=True)
    if os.path.islink(place):
        os.unlink(place)
    os.symlink(source, place)


def _works(plan: SandboxPlan) -> bool:
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
