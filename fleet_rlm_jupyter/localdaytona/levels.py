"""The levels of isolation: their names, who runs the code, and what it may read of the host."""

import os
import sys

LABELS = {
    "L3": "Local — isolated (namespaces)",
    "L2": "Local — restricted (Landlock)",
    "L1": "Local — NOT isolated: code runs as you",
}
_OTHER_OWNER = 64917  # an id that no package or login is given; used when the server runs as root


class NotIsolated(Exception):
    """A level asked for that this machine does not offer, or that is not allowed; text and next step."""

    def __init__(self, text: str, hint: str) -> None:
        super().__init__(text)
        self.hint = hint


def owner() -> int | None:
    """The user id for sandboxes: another one if the server is root and may choose, else None (its own)."""
    if os.getuid() != 0:
        return None
    try:
        with open("/proc/self/uid_map") as file:
            spans = [[int(word) for word in line.split()] for line in file]
    except OSError:  # no user namespaces in this kernel, or not Linux
        return _OTHER_OWNER
    mapped = any(start <= _OTHER_OWNER < start + count for start, _, count in spans)
    return _OTHER_OWNER if mapped else None


def interpreter_paths(home: str) -> tuple[str, ...]:
    """What a sandbox must be able to read to run this very interpreter, outside of the system's folders."""
    executable = os.path.realpath(sys.executable)
    wanted = [sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix]
    wanted += [os.path.realpath(path) for path in wanted]
    wanted += [os.path.dirname(executable), os.path.dirname(sys.executable)]
    chosen: list[str] = []
    for path in sorted({os.path.abspath(path) for path in wanted}, key=len):
        covered = any(path == top or path.startswith(f"{top}/") for top in ("/usr", "/bin", *chosen))
        holds_home = f"{home}/".startswith(f"{path}/") or path == "/"
        if not covered and not holds_home:
            chosen.append(path)
    return tuple(chosen)
