"""The Linux system calls that Python lacks, as functions that raise OSError with the call's name."""

import ctypes
import errno
import fcntl
import os
import socket
import struct

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_BIND = 4096
MS_MOVE = 8192
MS_REC = 16384
MS_PRIVATE = 1 << 18
MNT_DETACH = 2

_MOUNT_SETATTR = 442  # the same number on every architecture
_AT_RECURSIVE = 0x8000
_AT_FDCWD = -100

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_CAPBSET_DROP = 24
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38
_CAPABILITY_VERSION_3 = 0x20080522
_SIOCGIFFLAGS = 0x8913
_SIOCSIFFLAGS = 0x8914

_libc = ctypes.CDLL(None, use_errno=True)


def call(name: str, *args: object) -> int:
    result = getattr(_libc, name)(*args)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), name)
    return result


def unshare(flags: int) -> None:
    call("unshare", ctypes.c_int(flags))


def mount(source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    try:
        call(
            "mount",
            source.encode(),
            target.encode(),
            kind.encode() if kind else None,
            ctypes.c_ulong(flags),
            data.encode() if data else None,
        )
    except OSError as err:
        raise OSError(err.errno, f"mount {source} on {target}: {err.strerror}") from err


def unmount(target: str) -> None:
    call("umount2", target.encode(), ctypes.c_int(MNT_DETACH))


def pivot_root(new_root: str, old_root: str) -> None:
    call("pivot_root", new_root.encode(), old_root.encode())


def restrict_mount(path: str, flags: int, recursive: bool = True) -> None:
    """Add MS_RDONLY, MS_NOSUID, MS_NODEV or MS_NOEXEC to a mount and those below it (Linux 5.12)."""
    attributes = struct.pack("QQQQ", flags & 15, 0, 0, 0)  # the four lowest bits are the same as MS_*
    call(
        "syscall",
        ctypes.c_long(_MOUNT_SETATTR),
        ctypes.c_int(_AT_FDCWD),
        path.encode(),
        ctypes.c_uint(_AT_RECURSIVE if recursive else 0),
        attributes,
        ctypes.c_size_t(len(attributes)),
    )


def prctl(option: int, argument: int) -> None:
    zero = ctypes.c_ulong(0)
    call("prctl", ctypes.c_int(option), ctypes.c_ulong(argument), zero, zero, zero)


def die_with_parent(signal_number: int) -> None:
    """Ask for a signal when the parent thread ends. A later change of user clears it: call it last."""
    prctl(_PR_SET_PDEATHSIG, signal_number)


def set_dumpable(allowed: bool) -> None:
    """When false, other processes of this user cannot read this one's memory or environment."""
    prctl(_PR_SET_DUMPABLE, int(allowed))


def die_first() -> None:
    """When the machine runs out of memory, let the kernel take this process, and what it starts, before others."""
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")


def adopt_orphans() -> None:
    prctl(_PR_SET_CHILD_SUBREAPER, 1)


def forbid_new_privileges() -> None:
    prctl(_PR_SET_NO_NEW_PRIVS, 1)


def drop_capabilities() -> None:
    """Empty every capability set of this thread, the bounding set included."""
    for capability in range(64):
        try:
            prctl(_PR_CAPBSET_DROP, capability)
        except OSError as err:
            if err.errno == errno.EINVAL:  # past the last capability this kernel knows
                break
            raise
    clear_capabilities()


def clear_capabilities() -> None:
    """Give up what this thread may do; with no-new-privileges nothing brings it back."""
    header = struct.pack("Ii", _CAPABILITY_VERSION_3, 0)
    call("capset", header, bytes(24))


def bring_loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        request = struct.pack("16sh22x", b"lo", 0)
        flags = struct.unpack("16sh22x", fcntl.ioctl(sock, _SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", flags | 1))


def set_host_name(name: str) -> None:
    call("sethostname", name.encode(), ctypes.c_size_t(len(name)))
