"""`%fleet sandboxes`: the user's sandboxes of this kernel and of its server."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from fleet_rlm_jupyter.domain.errors import BadRequest, NoSuchSandbox
from fleet_rlm_jupyter.domain.lines import sandbox_line
from fleet_rlm_jupyter.kernel.handles import Notebook
from fleet_rlm_jupyter.remote_sandboxes import RemoteSandboxes
from fleet_rlm_jupyter.verbs.live_sandboxes import LiveSandboxes

_There = LiveSandboxes | RemoteSandboxes
_SIZES = {"cpu": "cpu", "memory": "memory_gb", "disk": "disk_gb"}
_WORDS = ("list", "stop ID", "archive ID", "start ID", "resize ID cpu=N memory=N disk=N", "prune")


def lines(book: Notebook, words: list[str]) -> Iterator[str]:
    """What `%fleet sandboxes WORDS` prints. Raises BadRequest, NoSuchSandbox, SandboxUnavailable."""
    match words:
        case [] | ["list"]:
            return _listed(book)
        case ["stop", sandbox_id]:
            said = f"{sandbox_id} is stopped; what is on its session's volume stays"
            return _done(book, sandbox_id, lambda there: there.stop(sandbox_id), said)
        case ["archive", sandbox_id]:
            said = f"{sandbox_id} is archived; its session's next turn restores it"
            return _done(book, sandbox_id, lambda there: there.archive(sandbox_id), said)
        case ["start", sandbox_id]:
            said = f"{sandbox_id} is started; it stops again when it is idle"
            return _done(book, sandbox_id, lambda there: there.start(sandbox_id), said)
        case ["resize", sandbox_id, *sizes]:
            given = dict(map(_size, sizes))
            said = f"{sandbox_id} is resized, and stopped; its session's next turn starts it"
            return _done(book, sandbox_id, lambda there: there.resize(sandbox_id, **given), said)
        case ["prune"]:
            return _pruned(book)
        case _:
            raise BadRequest(f"there is no %fleet sandboxes {' '.join(words)}", f"it is one of {', '.join(_WORDS)}")


def _listed(book: Notebook) -> Iterator[str]:
    seen: set[str] = set()
    for place, there in _places(book):
        for sandbox in there.list():
            if sandbox.id not in seen:
                seen.add(sandbox.id)
                yield sandbox_line(sandbox) + place
    if not seen:
        yield "no sandbox is there; the next question has one"


def _done(book: Notebook, sandbox_id: str, act: Callable[[_There], None], said: str) -> Iterator[str]:
    for _, there in _places(book):
        try:
            act(there)
        except NoSuchSandbox:
            continue
        yield said
        return
    raise NoSuchSandbox(f"there is no sandbox {sandbox_id!r} of yours", "%fleet sandboxes lists them")


def _pruned(book: Notebook) -> Iterator[str]:
    count = sum(there.prune() for _, there in _places(book))
    yield f"{count} sandbox{'' if count == 1 else 'es'} that processes left behind: deleted"


def _size(word: str) -> tuple[str, int]:
    name, _, number = word.partition("=")
    if name not in _SIZES or not number.isdecimal():
        raise BadRequest(f"{word!r} is no size", "say cpu=2, memory=4 or disk=10: cores, GB, GB")
    return _SIZES[name], int(number)


def _places(book: Notebook) -> list[tuple[str, _There]]:
    """Whom there is to ask, and what that adds to a line."""
    server = book.place().server
    there = [(f" · on {server.url}", book.remote(server).live_sandboxes)] if server else []
    return [*there, *(("", bench.live_sandboxes) for bench in book.benches())]
