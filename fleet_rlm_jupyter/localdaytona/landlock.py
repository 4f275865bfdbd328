"""Landlock: rules, kept by the kernel, about what this process and all it starts may still open, reach and signal."""

import ctypes
import errno
import os
import stat
import struct
from collections.abc import Iterable

from fleet_rlm_jupyter.localdaytona import linux

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same numbers on every architecture
_VERSION_FLAG = 1
_PATH_BENEATH = 1

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_MAKE_CHAR, _MAKE_BLOCK = 1 << 6, 1 << 11
_TRUNCATE, _IOCTL_DEV = 1 << 14, 1 << 15
_ALL_FILES = {3: (1 << 15) - 1, 5: (1 << 16) - 1}  # what can be handled, from which ABI on
_FILE_ONLY = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
_TCP_BIND, _TCP_CONNECT = 1, 2
_SCOPE_ABSTRACT_SOCKETS, _SCOPE_SIGNALS = 1, 2

READ = _READ_FILE | _READ_DIR
RUN = READ | _EXECUTE
DEVICE = _READ_FILE | _WRITE_FILE | _IOCTL_DEV
WRITE = _ALL_FILES[5] & ~(_MAKE_CHAR | _MAKE_BLOCK | _IOCTL_DEV)

OLDEST_ABI = 3  # Linux 6.2; before, a file of the host could be cut to nothing
SIGNALS_ABI = 6  # Linux 6.12
_TCP_ABI = 4


def abi() -> int:
    """The version that the kernel offers; raises OSError where it has none, or refuses it."""
    return linux.call("syscall", ctypes.c_long(_CREATE_RULESET), None, ctypes.c_size_t(0), ctypes.c_uint(_VERSION_FLAG))


def ruleset(allowed: Iterable[tuple[str | int, int]], scoped: bool) -> int:
    """A descriptor of rules that deny all but `allowed`: pairs of a path or descriptor, and READ, RUN, WRITE or DEVICE.

    Paths that do not exist are left out. `scoped` also denies signals and abstract sockets to processes outside.
    Raises OSError where Landlock is missing or too old.
    """
    version = abi()
    if version < OLDEST_ABI:
        raise OSError(errno.ENOSYS, f"Landlock ABI {version} is too old, {OLDEST_ABI} (Linux 6.2) is needed")
    handled = _ALL_FILES[5 if version >= 5 else 3]
    network = _TCP_BIND | _TCP_CONNECT if version >= _TCP_ABI else 0
    scopes = _SCOPE_ABSTRACT_SOCKETS | _SCOPE_SIGNALS if scoped and version >= SIGNALS_ABI else 0
    size = 24 if version >= SIGNALS_ABI else 16 if version >= _TCP_ABI else 8
    attributes = struct.pack("QQQ", handled, network, scopes)[:size]
    rules = linux.call("syscall", ctypes.c_long(_CREATE_RULESET), attributes, ctypes.c_size_t(size), ctypes.c_uint(0))
    os.set_inheritable(rules, False)
    for where, rights in allowed:
        _allow(rules, where, rights & handled)
    return rules


def restrict(rules: int) -> None:
    """Hold this thread, and all it starts, to the rules for ever; needs no-new-privileges."""
    linux.call("syscall", ctypes.c_long(_RESTRICT_SELF), ctypes.c_int(rules), ctypes.c_uint(0))


def _allow(rules: int, where: str | int, rights: int) -> None:
    if isinstance(where, int):
        _add(rules, where, rights)
        return
    try:
        fd = os.open(where, os.O_PATH | os.O_CLOEXEC)
    except OSError:  # not there, or not for us
        return
    try:
        _add(rules, fd, rights)
    finally:
        os.close(fd)


def _add(rules: int, fd: int, rights: int) -> None:
    if not stat.S_ISDIR(os.fstat(fd).st_mode):
        rights &= _FILE_ONLY
    rule = struct.pack("=Qi", rights, fd)
    linux.call(
        "syscall",
        ctypes.c_long(_ADD_RULE),
        ctypes.c_int(rules),
        ctypes.c_int(_PATH_BENEATH),
        rule,
        ctypes.c_uint(0),
    )
