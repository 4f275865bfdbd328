"""The fault strict_volume: volumes behave like the object store behind Daytona's, which knows whole files only.

A call filter stops each call that might break the rules and asks a thread of the toolbox, which looks at the path. That
is for tests, not a wall: code that means harm could change the path between the question and the work.
"""

import ctypes
import errno
import fcntl
import os
import platform
import struct
import threading
from collections.abc import Sequence

from fleet_rlm_jupyter.localdaytona import bpf, linux

_SECCOMP = (317, 277)
_SET_MODE_FILTER, _NEW_LISTENER = 1, 8
_RECEIVE, _SEND = 0xC0502100, 0xC0182101
_GO_ON = 1
_AT_FDCWD = -100
_PATH_BYTES = 4096

# For each call: (x86_64, aarch64), where its path is (argument of the folder or None, argument of the path), the error.
_Place = tuple[int | None, int]
_PATHS: dict[str, tuple[tuple[int | None, int | None], tuple[_Place, ...], int]] = {
    "rename": ((82, None), ((None, 0), (None, 1)), errno.EINVAL),
    "renameat": ((264, 38), ((0, 1), (2, 3)), errno.EINVAL),
    "renameat2": ((316, 276), ((0, 1), (2, 3)), errno.EINVAL),
    "link": ((86, None), ((None, 0), (None, 1)), errno.ENOSYS),
    "linkat": ((265, 37), ((0, 1), (2, 3)), errno.ENOSYS),
    "symlink": ((88, None), ((None, 1),), errno.ENOSYS),
    "symlinkat": ((266, 36), ((1, 2),), errno.ENOSYS),
    "truncate": ((76, 45), ((None, 0),), errno.EPERM),
    "utimensat": ((280, 88), ((0, 1),), errno.EPERM),
}
_OPENS: dict[str, tuple[tuple[int | None, int | None], _Place, int]] = {
    "open": ((2, None), (None, 0), 1),
    "openat": ((257, 56), (0, 1), 2),
}
_HANDLES = {"flock": ((73, 32), errno.ENOSYS), "ftruncate": ((77, 46), errno.EPERM)}
_FCNTL = (72, 25)
_LOCKS = (fcntl.F_SETLK, fcntl.F_SETLKW, 37, 38)  # the last two: locks of open files


def hold(folders: Sequence[str]) -> None:
    """From now on this thread, and all it starts, can only write whole new files below `folders`, or delete them.

    Raises OSError where the kernel or this architecture does not offer it.
    """
    column, arch = bpf.ARCHITECTURES.get(platform.machine(), (-1, 0))
    if column < 0:
        raise OSError(errno.ENOSYS, f"strict_volume: no table for the architecture {platform.machine()}")
    judge = _Judge(column, [os.path.realpath(folder) for folder in folders])
    listener: list[int] = []
    is_there = threading.Event()
    # Started before the filter is: a thread that had to ask itself would wait for ever.
    threading.Thread(target=_answer_all, args=(judge, listener, is_there), daemon=True).start()
    code = _program(column, arch)
    listener.append(
        linux.call(
            "syscall",
            ctypes.c_long(_SECCOMP[column]),
            ctypes.c_uint(_SET_MODE_FILTER),
            ctypes.c_uint(_NEW_LISTENER),
            ctypes.byref(bpf.Filter(len(code) // 8, code)),
        )
    )
    os.set_inheritable(listener[0], False)
    is_there.set()


def _program(column: int, arch: int) -> bytes:
    ask = bpf.answer(bpf.NOTIFY)
    code = bpf.load(bpf.ARCH) + bpf.jump(bpf.EQUAL, arch, 1, 0) + bpf.answer(bpf.ALLOW) + bpf.load(bpf.NUMBER)
    for numbers in (*(row[0] for row in _PATHS.values()), *(row[0] for row in _HANDLES.values())):
        if (number := numbers[column]) is not None:
            code += bpf.when(number, ask)
    for numbers, _, flags in _OPENS.values():
        if (number := numbers[column]) is not None:
            writes = bpf.load_argument(flags) + bpf.jump(bpf.ANY_BIT, os.O_WRONLY | os.O_RDWR, 0, 1) + ask
            code += bpf.when(number, writes)
    locks = bpf.load_argument(1)
    for command in _LOCKS:
        locks += bpf.jump(bpf.EQUAL, command, 0, 1) + ask
    return code + bpf.when(_FCNTL[column], locks) + bpf.answer(bpf.ALLOW)


def _answer_all(judge: "_Judge", listener: list[int], is_there: threading.Event) -> None:
    is_there.wait()
    while True:
        question = bytearray(80)
        try:
            fcntl.ioctl(listener[0], _RECEIVE, question)
            number = judge.error_of(question)
            identifier = bytes(question[:8])
            fcntl.ioctl(listener[0], _SEND, identifier + struct.pack("qiI", 0, -number, 0 if number else _GO_ON))
        except OSError as err:
            if err.errno not in (errno.ENOENT, errno.EINTR):  # who asked is gone
                return


class _Judge:
    """Decides about one call, for one architecture."""

    def __init__(self, column: int, folders: list[str]) -> None:
        self._folders = tuple(f"{folder}/" for folder in folders)
        self._paths = {row[0][column]: row[1:] for row in _PATHS.values()}
        self._opens = {row[0][column]: row[1:] for row in _OPENS.values()}
        self._handles = {row[0][column]: row[1] for row in _HANDLES.values()} | {_FCNTL[column]: errno.ENOSYS}

    def error_of(self, question: bytes | bytearray) -> int:
        """The error number to answer with; 0 when the call may go on. What cannot be looked at may."""
        _, thread, _, number, _, _, *arguments = struct.unpack("QIIiIQ6Q", question)
        try:
            if number in self._handles:
                return self._handles[number] if self._holds(_link(thread, arguments[0])) else 0
            if number in self._opens:
                place, flags = self._opens[number]
                path = _path(thread, arguments, place)
                if arguments[flags] & os.O_TRUNC or not os.path.lexists(path):
                    return 0
                return errno.EPERM if self._holds(path) else 0
            places, error = self._paths[number]
            return error if any(self._holds(_path(thread, arguments, place)) for place in places) else 0
        except (OSError, ValueError):
            return 0

    def _holds(self, path: str) -> bool:
        folder, name = os.path.split(path)
        return os.path.join(os.path.realpath(folder), name).startswith(self._folders)


def _path(thread: int, arguments: Sequence[int], place: _Place) -> str:
    folder, path = place
    number = _AT_FDCWD if folder is None else ctypes.c_int(arguments[folder]).value
    if not arguments[path]:  # the descriptor itself is meant
        return _link(thread, number)
    text = os.fsdecode(_string(thread, arguments[path]))
    if text.startswith("/"):
        return text
    base = os.readlink(f"/proc/{thread}/cwd") if number == _AT_FDCWD else _link(thread, number)
    return os.path.join(base, text)


def _link(thread: int, descriptor: int) -> str:
    return os.readlink(f"/proc/{thread}/fd/{ctypes.c_int(descriptor).value}")


def _string(thread: int, address: int) -> bytes:
    if os.path.exists(f"/proc/self/task/{thread}"):  # our own memory: its file may belong to root
        return ctypes.string_at(address)
    with open(f"/proc/{thread}/mem", "rb", buffering=0) as memory:
        memory.seek(address)
        data = memory.read(_PATH_BYTES - address % _PATH_BYTES)
        if b"\0" not in data:
            data += memory.read(_PATH_BYTES)
    return data.split(b"\0", 1)[0]
