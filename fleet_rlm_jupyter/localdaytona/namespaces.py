"""Level L3: moves the calling process into namespaces of its own and gives up every privilege there."""

import os
import resource
import signal
import stat

from fleet_rlm_jupyter.localdaytona import linux, seccomp
from fleet_rlm_jupyter.localdaytona.folders import etc_folders
from fleet_rlm_jupyter.localdaytona.plan import BIN, HOME, INSIDE_UID, MOST_PROCESSES, SandboxPlan
from fleet_rlm_jupyter.localdaytona.volumes import open_inside

_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix/store")
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_DEVICE_LINKS = {"fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2", "ptmx": "pts/ptmx"}
_OLD, _STAGE = "/.old", "/.stage"
_OTHERS = linux.CLONE_NEWNS | linux.CLONE_NEWPID | linux.CLONE_NEWNET | linux.CLONE_NEWIPC | linux.CLONE_NEWUTS


def begin(plan: SandboxPlan) -> None:
    """First half, in the process that then forks the sandbox's first process.

    The second half must run in a child, because only children are born into the new process namespace.
    """
    os.setsid()
    if plan.owner is not None:
        linux.unshare(_OTHERS)
    else:
        own = (os.getuid(), os.getgid())
        linux.unshare(linux.CLONE_NEWUSER | _OTHERS)
        _map_user("/proc/self", *own)


def finish(plan: SandboxPlan) -> None:
    """Second half, as process 1: build the root, leave the host's, become nobody special."""
    volumes = [open_inside(mount.root, mount.subpath, plan.owner) for mount in plan.mounts]
    self_dir = os.open("/proc/self", os.O_PATH | os.O_DIRECTORY)
    linux.set_host_name("sandbox")
    linux.bring_loopback_up()
    _enter_new_root(plan)
    staged = _stage(plan, volumes)
    _make_devices()
    _make_proc()
    linux.unmount(_OLD)  # from here on no path can lead to the host
    os.rmdir(_OLD)
    for number, target in enumerate(staged):
        _make_target(target, os.path.isdir(f"{_STAGE}/{number}"))
        linux.mount(f"{_STAGE}/{number}", target, None, linux.MS_MOVE)
    for number in range(len(staged)):
        _remove_any(f"{_STAGE}/{number}")
    os.rmdir(_STAGE)
    linux.restrict_mount("/", linux.MS_RDONLY, recursive=False)
    for fd in volumes:
        os.close(fd)
    _give_up_privileges(plan, self_dir)
    os.chdir(HOME)


def _map_user(proc_self: str | int, uid: int, gid: int) -> None:
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{INSIDE_UID} {uid} 1"),
        ("gid_map", f"{INSIDE_UID} {gid} 1"),
    ):
        if isinstance(proc_self, int):
            fd = os.open(name, os.O_WRONLY, dir_fd=proc_self)
        else:
            fd = os.open(f"{proc_self}/{name}", os.O_WRONLY)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)


def _enter_new_root(plan: SandboxPlan) -> None:
    linux.mount("none", "/", None, linux.MS_REC | linux.MS_PRIVATE)
    root = f"{plan.folder}/root"
    linux.mount("tmpfs", root, "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, "mode=755,size=4m,nr_inodes=8192")
    os.mkdir(root + _OLD)
    os.chdir(root)
    linux.pivot_root(".", "." + _OLD)
    os.chdir("/")
    os.umask(0o022)
    os.mkdir(_STAGE)


def _stage(plan: SandboxPlan, volumes: list[int]) -> list[str]:
    """Bind every source below /.stage while the host is still in reach; return where each belongs.

    Targets are only resolved after the host's root is gone: home and volumes hold files that code in
    an earlier sandbox wrote, so a link among them may point anywhere.
    """
    staged: list[str] = []

    def bind(source: str, target: str, read_only: bool) -> None:
        place = f"{_STAGE}/{len(staged)}"
        _make_target(place, os.path.isdir(source))
        linux.mount(source, place, None, linux.MS_BIND | linux.MS_REC)
        flags = linux.MS_NOSUID | linux.MS_NODEV | (linux.MS_RDONLY if read_only else 0)
        linux.restrict_mount(place, flags)
        staged.append(target)

    bind(f"{_OLD}{plan.folder}/home", HOME, read_only=False)
    bind(f"{_OLD}{plan.folder}/tmp", "/tmp", read_only=False)
    etc = f"{_OLD}{plan.shared}/etc"
    bind(etc, "/etc", read_only=True)
    for name in etc_folders(_OLD):
        if os.path.isdir(f"{etc}/{name}"):  # one that came after the server's start has no place
            bind(f"{_OLD}/etc/{name}", f"/etc/{name}", read_only=True)
    bind(f"{_OLD}{plan.shared}/bin", BIN, read_only=True)
    for path in _SYSTEM:
        old = _OLD + path
        if os.path.islink(old):
            os.symlink(os.readlink(old), path)
        elif os.path.isdir(old):
            bind(old, path, read_only=True)
    for path in sorted(plan.read_only, key=len):
        bind(_OLD + os.path.realpath(path), path, read_only=True)
    for fd, mount in zip(volumes, plan.mounts, strict=True):
        bind(f"{_OLD}/proc/self/fd/{fd}", mount.target, read_only=False)
    return staged


def _make_devices() -> None:
    os.mkdir("/dev")
    linux.mount("tmpfs", "/dev", "tmpfs", linux.MS_NOSUID | linux.MS_NOEXEC, "mode=755,size=64k")
    for name in _DEVICES:
        _make_target(f"/dev/{name}", is_folder=False)
        linux.mount(f"{_OLD}/dev/{name}", f"/dev/{name}", None, linux.MS_BIND)
    for name, target in _DEVICE_LINKS.items():
        os.symlink(target, f"/dev/{name}")
    os.mkdir("/dev/pts")
    safe = linux.MS_NOSUID | linux.MS_NOEXEC
    linux.mount("devpts", "/dev/pts", "devpts", safe, "newinstance,ptmxmode=0666,mode=620")
    os.mkdir("/dev/shm")
    linux.mount("tmpfs", "/dev/shm", "tmpfs", safe | linux.MS_NODEV, "mode=1777,size=64m")
    linux.restrict_mount("/dev", linux.MS_RDONLY, recursive=False)


def _make_proc() -> None:
    os.mkdir("/proc")
    safe = linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC
    try:
        linux.mount("proc", "/proc", "proc", safe)
    except PermissionError:  # a container that masks parts of its own /proc may not mount a new one
        linux.mount("tmpfs", "/proc", "tmpfs", safe | linux.MS_RDONLY, "size=4k")


def _make_target(path: str, is_folder: bool) -> None:
    parent = path if is_folder else os.path.dirname(path)
    os.makedirs(parent, mode=0o755, exist_ok=True)
    if not is_folder and not os.path.exists(path):
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o444))


def _remove_any(path: str) -> None:
    if stat.S_ISDIR(os.lstat(path).st_mode):
        os.rmdir(path)
    else:
        os.unlink(path)


def _give_up_privileges(plan: SandboxPlan, self_dir: int) -> None:
    if plan.owner is not None:
        os.setgroups([])
        os.setresgid(plan.owner, plan.owner, plan.owner)
        os.setresuid(plan.owner, plan.owner, plan.owner)
        linux.unshare(linux.CLONE_NEWUSER)
        linux.set_dumpable(True)  # else /proc/self belongs to root, and the map cannot be written
        _map_user(self_dir, plan.owner, plan.owner)
    os.close(self_dir)
    set_limits(plan)
    linux.drop_capabilities()
    linux.forbid_new_privileges()
    seccomp.install()
    linux.set_dumpable(False)
    linux.die_with_parent(signal.SIGKILL)


def set_limits(plan: SandboxPlan) -> None:
    """ProcessLimits of every process of the sandbox. Memory is set per command, so that the toolbox lives on."""
    megabyte = 1 << 20
    for kind, value in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, plan.limits.open_files),
        (resource.RLIMIT_FSIZE, plan.limits.file_mb * megabyte),
    ):
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))
    if plan.level == "L3":
        resource.setrlimit(resource.RLIMIT_NPROC, (plan.limits.processes, plan.limits.processes))
    elif plan.level == "L2" and plan.owner is not None:
        # The kernel counts all processes of the user: here those of every sandbox, elsewhere yours too.
        resource.setrlimit(resource.RLIMIT_NPROC, (MOST_PROCESSES, MOST_PROCESSES))
