"""How a freshly forked process becomes a sandbox of each level of isolation."""

import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable

from fleet_rlm_jupyter.localdaytona import cgroups, linux, namespaces, restricted, toolbox
from fleet_rlm_jupyter.localdaytona.plan import INSIDE_UID, SandboxPlan

_PROBE_SECONDS = 20


def become(plan: SandboxPlan, listener: socket.socket, link: socket.socket) -> None:
    """Turn this freshly forked process into the sandbox of `plan`, and serve it until `link` is closed.

    Raises OSError when a step is refused; nothing of the sandbox's code has run then.
    """
    confine: Callable[[], None] | None = None
    if sys.platform == "linux":
        cgroups.enter(plan)
        linux.die_first()
    if plan.level == "L3":
        namespaces.begin(plan)
        parent = os.pidfd_open(os.getpid())
        pid = os.fork()
        if pid:
            link.send(b'{"pid": %d}\n' % pid)
            os._exit(0)
        # The signal that `finish` asks for is to be the new parent's. Not until a pipe ends, which a process that is
        # about to end closes while it is still the parent.
        select.select([parent], [], [])
        os.close(parent)
        namespaces.finish(plan)
    else:
        if plan.level == "L2":
            confine = _become_restricted(plan)
        else:
            _become_unisolated(plan)
        link.send(b'{"pid": %d}\n' % os.getpid())
    if plan.probe:
        link.send(b'{"ready": true, "python": %s}\n' % (b"true" if _works(plan) else b"false"))
    else:
        toolbox.run(plan, listener, link, confine)


def _become_unisolated(plan: SandboxPlan) -> None:
    _begin_session()
    _become_owner(plan)
    namespaces.set_limits(plan)
    if sys.platform == "linux":
        linux.forbid_new_privileges()
    for mount in plan.mounts:
        source = os.path.join(mount.root, mount.subpath)
        os.makedirs(source, exist_ok=True)
        restricted.link_volume(plan, mount.target, source)
    os.chdir(plan.home)


def _become_restricted(plan: SandboxPlan) -> Callable[[], None]:
    _begin_session()
    confine = restricted.enter(plan, lambda: _become_owner(plan))
    os.chdir(plan.home)
    return confine


def _begin_session() -> None:
    os.setsid()
    os.umask(0o022)
    if sys.platform == "linux":
        linux.adopt_orphans()


def _become_owner(plan: SandboxPlan) -> None:
    if plan.owner is not None:
        os.setgroups([])
        os.setgid(plan.owner)
        os.setuid(plan.owner)


def _works(plan: SandboxPlan) -> bool:
    """Whether the interpreter starts here; at L3 or L2 also that the promises of the level hold."""
    if plan.level == "L3":
        if os.getuid() != INSIDE_UID or os.path.exists("/.old"):
            raise OSError("the sandbox would not be isolated")
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if plan.level == "L2" and not restricted.holds():
        raise OSError("the sandbox would not be restricted")
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
