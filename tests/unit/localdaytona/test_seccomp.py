"""The system call filter, checked against the kernel's own table and by running its program on paper."""

import re
import struct
from pathlib import Path

import pytest

from fleet_rlm_jupyter.localdaytona import seccomp

HEADERS = [Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"), Path("/usr/include/asm/unistd_64.h")]
ALLOW, DENY_EPERM = 0x7FFF0000, 0x00050001
X86 = 0xC000003E


def decide(code: bytes, number: int, arguments: tuple[int, ...] = (), arch: int = X86) -> int:
    """What the filter answers to one call; a tiny interpreter of the instructions we use."""
    data = struct.pack("IIQ6Q", number, arch, 0, *arguments, *([0] * (6 - len(arguments))))
    steps = list(struct.iter_unpack("HBBI", code))
    at = loaded = 0
    while True:
        kind, if_true, if_false, value = steps[at]
        at += 1
        if kind == 0x20:
            (loaded,) = struct.unpack_from("I", data, value)
        elif kind == 0x06:
            return value
        else:
            holds = {0x15: loaded == value, 0x35: loaded >= value, 0x45: bool(loaded & value)}[kind]
            at += if_true if holds else if_false


@pytest.fixture(scope="module")
def code() -> bytes:
    return seccomp._program(0, X86)


def test_the_numbers_are_those_of_the_kernels_header() -> None:
    header = next((path for path in HEADERS if path.exists()), None)
    if header is None:
        pytest.skip("no kernel headers here")
    known = {name: int(number) for name, number in re.findall(r"#define __NR_(\w+) (\d+)", header.read_text())}
    ours = {name: numbers[0] for name, numbers in {**seccomp._DENIED, **seccomp._CHECKED}.items()}
    assert {name: known[name] for name in ours if name in known} == {
        name: number for name, number in ours.items() if name in known
    }
    assert len(ours.keys() & known.keys()) > 45


def test_every_denied_call_is_denied_and_the_rest_allowed(code: bytes) -> None:
    denied = {numbers[0] for numbers in seccomp._DENIED.values()}
    checked = {numbers[0] for numbers in seccomp._CHECKED.values()}
    for number in range(500):
        if number not in checked:
            assert decide(code, number) == (DENY_EPERM if number in denied else ALLOW), number


def test_only_a_clone_without_namespaces_is_allowed(code: bytes) -> None:
    assert decide(code, 56, (0x01200011,)) == ALLOW  # fork
    assert decide(code, 56, (0x003D0F00,)) == ALLOW  # pthread_create
    for bit in (0x20000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000):
        assert decide(code, 56, (bit | 17,)) == DENY_EPERM
    assert decide(code, 435) == 0x00050026


def test_only_plain_sockets_are_allowed(code: bytes) -> None:
    for family in (1, 2, 10):
        assert decide(code, 41, (family, 1, 0)) == ALLOW
    assert decide(code, 41, (16, 3, 0)) == ALLOW
    for arguments in ((16, 3, 12), (17, 3, 0), (38, 5, 0), (40, 1, 0)):
        assert decide(code, 41, arguments) == 0x00050061


def test_a_call_of_another_architecture_ends_the_process(code: bytes) -> None:
    assert decide(code, 1, arch=0x40000003) == 0x80000000
    assert decide(code, 0x40000000 | 165) == 0x00050026
