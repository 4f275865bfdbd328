"""Reads the process table of Linux: who belongs to which parent and session."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class ProcessRow:
    pid: int
    state: str
    parent: int
    group: int
    session: int


def rows() -> Iterator[ProcessRow]:
    """Every process in sight; nothing where there is no /proc."""
    try:
        names = os.listdir("/proc")
    except OSError:
        return
    for name in names:
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                text = file.read()
        except OSError:  # it ended meanwhile
            continue
        fields = text[text.rindex(b")") + 2 :].split()
        yield ProcessRow(int(name), fields[0].decode(), *(int(field) for field in fields[1:4]))


def members(wanted: Callable[[ProcessRow], bool]) -> list[int]:
    return [row.pid for row in rows() if wanted(row)]
