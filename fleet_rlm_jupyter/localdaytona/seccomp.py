"""The system call filter of a sandbox: what code in it may not ask the kernel for."""

import ctypes
import errno
import platform
import socket

from fleet_rlm_jupyter.localdaytona import bpf, linux

_NEW_NAMESPACES = (
    linux.CLONE_NEWNS
    | linux.CLONE_NEWCGROUP
    | linux.CLONE_NEWUTS
    | linux.CLONE_NEWIPC
    | linux.CLONE_NEWUSER
    | linux.CLONE_NEWPID
    | linux.CLONE_NEWNET
)
_AF_UNIX, _AF_INET, _AF_INET6, _AF_NETLINK, _NETLINK_ROUTE = 1, 2, 10, 16, 0
_SOCK_DGRAM = 2
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C

# Denied outright: (x86_64, aarch64); None where the architecture has no such call.
_DENIED: dict[str, tuple[int | None, int | None]] = {
    "acct": (163, 89),
    "add_key": (248, 217),
    "adjtimex": (159, 171),
    "bpf": (321, 280),
    "chroot": (161, 51),
    "clock_adjtime": (305, 266),
    "clock_settime": (227, 112),
    "delete_module": (176, 106),
    "fanotify_init": (300, 262),
    "finit_module": (313, 273),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fsopen": (430, 430),
    "fspick": (433, 433),
    "init_module": (175, 105),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "io_uring_setup": (425, 425),
    "ioperm": (173, None),
    "iopl": (172, None),
    "kcmp": (312, 272),
    "kexec_file_load": (320, 294),
    "kexec_load": (246, 104),
    "keyctl": (250, 219),
    "lookup_dcookie": (212, 18),
    "modify_ldt": (154, None),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "name_to_handle_at": (303, 264),
    "nfsservctl": (180, 42),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "open_tree_attr": (467, 467),
    "perf_event_open": (298, 241),
    "pidfd_getfd": (438, 438),
    "pivot_root": (155, 41),
    "process_madvise": (440, 440),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "reboot": (169, 142),
    "request_key": (249, 218),
    "setdomainname": (171, 162),
    "sethostname": (170, 161),
    "setns": (308, 268),
    "settimeofday": (164, 170),
    "swapoff": (168, 225),
    "swapon": (167, 224),
    "syslog": (103, 116),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "uselib": (134, None),
    "userfaultfd": (323, 282),
    "vhangup": (153, 58),
}
# Denied as well where no namespace keeps these apart from those of the host.
_SHARED: dict[str, tuple[int | None, int | None]] = {
    "mq_open": (240, 180),
    "mq_unlink": (241, 181),
    "msgctl": (71, 187),
    "msgget": (68, 186),
    "msgrcv": (70, 188),
    "msgsnd": (69, 189),
    "semctl": (66, 191),
    "semget": (64, 190),
    "semop": (65, 193),
    "semtimedop": (220, 192),
    "shmat": (30, 196),
    "shmctl": (31, 195),
    "shmget": (29, 194),
}
_STRICTLY_CHECKED = {"prlimit64": (302, 261), "socketpair": (53, 199)}
_CHECKED = {"clone": (56, 220), "clone3": (435, 435), "ioctl": (16, 29), "socket": (41, 198)}
_X32_BIT = 0x40000000


def install(strict: bool = False) -> None:
    """Load the filter for this process and all it starts; needs no-new-privileges.

    `strict` leaves no sockets but connected pairs: the socket file of another program (a session bus, a container
    engine) is a way out that only a namespace closes, and the filter cannot see which path is meant.
    Raises OSError when the kernel has no filters or this architecture is unknown.
    """
    column, arch = bpf.ARCHITECTURES.get(platform.machine(), (-1, 0))
    if column < 0:
        raise OSError(errno.ENOSYS, f"seccomp: no table for the architecture {platform.machine()}")
    code = _program(column, arch, strict)
    linux.call(
        "prctl",
        ctypes.c_int(22),  # PR_SET_SECCOMP
        ctypes.c_ulong(2),  # SECCOMP_MODE_FILTER
        ctypes.byref(bpf.Filter(len(code) // 8, code)),
        ctypes.c_ulong(0),
        ctypes.c_ulong(0),
    )


def _program(column: int, arch: int, strict: bool = False) -> bytes:
    number = {name: numbers[column] for name, numbers in _CHECKED.items()}
    code = bpf.load(bpf.ARCH) + bpf.jump(bpf.EQUAL, arch, 1, 0) + bpf.answer(bpf.KILL) + bpf.load(bpf.NUMBER)
    if column == 0:
        code += bpf.jump(bpf.AT_LEAST, _X32_BIT, 0, 1) + bpf.deny(errno.ENOSYS)
    for denied in (row[column] for row in (_DENIED | (_SHARED if strict else {})).values()):
        if denied is None:
            continue
        code += bpf.when(denied, bpf.deny(errno.EPERM))
    code += bpf.when(number["clone3"], bpf.deny(errno.ENOSYS))  # its flags lie in memory; libc falls back to clone
    code += bpf.when(
        number["clone"], bpf.load_argument(0) + bpf.jump(bpf.ANY_BIT, _NEW_NAMESPACES, 0, 1) + bpf.deny(errno.EPERM)
    )
    commands = bpf.load_argument(1)
    for command in (_TIOCSTI, _TIOCLINUX):
        commands += bpf.jump(bpf.EQUAL, command, 0, 1) + bpf.deny(errno.EPERM)
    code += bpf.when(number["ioctl"], commands)
    if strict:
        return code + _without_sockets(column) + bpf.answer(bpf.ALLOW)
    families = bpf.load_argument(0)
    for family in (_AF_UNIX, _AF_INET, _AF_INET6):
        families += bpf.jump(bpf.EQUAL, family, 0, 1) + bpf.answer(bpf.ALLOW)
    families += bpf.jump(bpf.EQUAL, _AF_NETLINK, 1, 0) + bpf.deny(errno.EAFNOSUPPORT)
    families += bpf.load_argument(2) + bpf.jump(bpf.EQUAL, _NETLINK_ROUTE, 1, 0) + bpf.deny(errno.EAFNOSUPPORT)
    code += bpf.when(number["socket"], families)
    return code + bpf.answer(bpf.ALLOW)


def _without_sockets(column: int) -> bytes:
    number = {name: numbers[column] for name, numbers in (_CHECKED | _STRICTLY_CHECKED).items()}
    code = bpf.when(number["socket"], bpf.deny(errno.EAFNOSUPPORT))
    pair = bpf.load_argument(0) + bpf.jump(bpf.EQUAL, _AF_UNIX, 1, 0) + bpf.deny(errno.EAFNOSUPPORT)
    # Datagrams can be sent to any address, also over a connected pair. The types allowed, 1 and 5, lack this bit.
    pair += bpf.load_argument(1) + bpf.jump(bpf.ANY_BIT, _SOCK_DGRAM, 0, 1) + bpf.deny(errno.EAFNOSUPPORT)
    code += bpf.when(number["socketpair"], pair)
    own = bpf.load_argument(0) + bpf.jump(bpf.EQUAL, 0, 1, 0) + bpf.deny(errno.EPERM)  # limits of others would end them
    return code + bpf.when(number["prlimit64"], own)


def denies_sockets() -> bool:
    """Whether this process can make no socket of its own, as the strict filter promises."""
    for family in (socket.AF_UNIX, socket.AF_INET):
        try:
            socket.socket(family, socket.SOCK_DGRAM).close()
        except OSError as err:
            if err.errno != errno.EAFNOSUPPORT:
                return False
        else:
            return False
    return True
