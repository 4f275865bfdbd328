"""The instructions of system call filters, as bytes to put together."""

import ctypes
import struct

ALLOW = 0x7FFF0000
ERRNO = 0x00050000
KILL = 0x80000000
NOTIFY = 0x7FC00000

LOAD = 0x20  # BPF_LD | BPF_W | BPF_ABS
EQUAL = 0x15  # BPF_JMP | BPF_JEQ
AT_LEAST = 0x35  # BPF_JMP | BPF_JGE
ANY_BIT = 0x45  # BPF_JMP | BPF_JSET
RETURN = 0x06

NUMBER, ARCH = 0, 4
ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # the column of our tables, and the kernel's id


class Filter(ctypes.Structure):
    """`struct sock_fprog`: a program, and how many instructions it has."""

    _fields_ = [("length", ctypes.c_ushort), ("program", ctypes.c_char_p)]


def when(number: int, then: bytes) -> bytes:
    """`then`, and allow after it, if the loaded call number matches; else go on with the number loaded."""
    block = then + answer(ALLOW)
    return jump(EQUAL, number, 0, len(block) // 8) + block


def load(offset: int) -> bytes:
    return struct.pack("HBBI", LOAD, 0, 0, offset)


def load_argument(index: int) -> bytes:
    return load(16 + 8 * index)  # the low half: both architectures are little-endian


def jump(kind: int, value: int, if_true: int, if_false: int) -> bytes:
    return struct.pack("HBBI", kind, if_true, if_false, value)


def answer(action: int) -> bytes:
    return struct.pack("HBBI", RETURN, 0, 0, action)


def deny(number: int) -> bytes:
    return answer(ERRNO | number)
