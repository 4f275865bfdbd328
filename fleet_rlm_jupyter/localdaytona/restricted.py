"""Level L2: the calling process gives up, by Landlock and a system call filter, all that a sandbox has no need of.

It needs no namespace and no privilege. The toolbox and the code it starts are held to nearly the same rules; only the
toolbox may open terminals, since /dev/pts also holds those of the user.
"""

import contextlib
import glob
import os
from collections.abc import Callable

from fleet_rlm_jupyter.localdaytona import landlock, linux, namespaces, seccomp
from fleet_rlm_jupyter.localdaytona.plan import SandboxPlan, linked_place
from fleet_rlm_jupyter.localdaytona.volumes import open_inside

_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix/store")
# A forbidden file is no missing file: programs that take their settings as optional end with an error.
# fmt: off
_ETC = (
    "ld.so.cache", "ld.so.conf", "ld.so.preload", "ld.so.conf.d", "localtime", "timezone", "mime.types", "httpd",
    "apache", "apache2/mime.types", "protocols", "services", "os-release", "alternatives", "ssl/certs",
    "ssl/openssl.cnf", "pki/tls/certs", "pki/ca-trust/extracted", "fonts", "passwd", "group", "hosts", "hostname",
    "nsswitch.conf", "host.conf", "bash.bashrc", "bashrc", "profile", "profile.d", "inputrc", "terminfo",
    "gitconfig", "gitattributes", "locale.alias", "magic", "debian_version", "lsb-release",
)
# fmt: on
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty")
_TERMINALS = ("/dev/ptmx", "/dev/pts")
_KERNEL = ("/proc", "/sys/devices/system/cpu", "/sys/devices/system/node", "/sys/kernel/mm/transparent_hugepage")


def enter(plan: SandboxPlan, become_owner: Callable[[], None]) -> Callable[[], None]:
    """Restrict this process; returns what each process that it starts must call before it runs any code.

    Raises OSError when the kernel refuses a step.
    """
    landlock.abi()  # a kernel without it is said before anything changes
    volumes = [open_inside(mount.root, mount.subpath, plan.owner) for mount in plan.mounts]
    become_owner()
    namespaces.set_limits(plan)
    linux.clear_capabilities()
    linux.forbid_new_privileges()
    allowed = _allowed(plan, volumes)
    rules = landlock.ruleset([*allowed, *((path, landlock.DEVICE) for path in _TERMINALS)], scoped=True)
    for_commands = landlock.ruleset(allowed, scoped=False)
    landlock.restrict(rules)
    os.close(rules)
    seccomp.install(strict=True)
    linux.set_dumpable(False)
    for fd, mount in zip(volumes, plan.mounts, strict=True):
        # Now that links lead nowhere else: home holds what earlier code wrote.
        link_volume(plan, mount.target, os.readlink(f"/proc/self/fd/{fd}"))
        os.close(fd)
    return lambda: landlock.restrict(for_commands)


def weakness(plan_owner: int | None) -> str:
    """What this level does not stop on this machine, in words for the user."""
    found = ["command lines of other processes, and whether a file exists, can be seen"]
    whose = "other sandboxes" if plan_owner is not None else "you"
    found.append(f"permissions and times of files of {whose}, not what is in them, can be changed")
    found.append(f"processes of {whose} can be made slower")
    with contextlib.suppress(OSError):
        if landlock.abi() < landlock.SIGNALS_ABI:
            found.append(f"signals to processes of {whose} are not stopped before Linux 6.12")
    return "; ".join(found)


def holds() -> bool:
    """Whether the promises of the level hold in this process; a probe asks this."""
    with contextlib.suppress(PermissionError):
        os.listdir("/")
        return False
    return seccomp.denies_sockets()


def link_volume(plan: SandboxPlan, target: str, source: str) -> None:
    """Show a volume as a link below the private home, since only a namespace could mount it elsewhere."""
    place = linked_place(plan, target)
    os.makedirs(os.path.dirname(place), exist_ok=True)
    if os.path.islink(place):
        os.unlink(place)
    os.symlink(source, place)


def _allowed(plan: SandboxPlan, volumes: list[int]) -> list[tuple[str | int, int]]:
    etc = [f"/etc/{name}" for name in _ETC] + glob.glob("/etc/python3*")
    allowed: list[tuple[str | int, int]] = [(path, landlock.RUN) for path in (*_SYSTEM, *plan.read_only, plan.shared)]
    allowed += [(path, landlock.READ) for path in (*etc, *_KERNEL)]
    allowed += [(path, landlock.DEVICE) for path in _DEVICES]
    allowed += [(path, landlock.WRITE) for path in (plan.home, plan.tmp, *volumes)]
    return allowed
