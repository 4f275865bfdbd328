"""`%fleet sandboxes`: the user's sandboxes of this kernel and of its server."""

from __future__ import annotations

from collections.abc import Iterator

from fleet_rlm_jupyter.domain.errors import BadRequest, NoSuchSandbox
from fleet_rlm_jupyter.domain.lines import sandbox_line
from fleet_rlm_jupyter.kernel.handles import Notebook
from fleet_rlm_jupyter.remote_sandboxes import RemoteSandboxes
from fleet_rlm_jupyter.verbs.live_sandboxes import LiveSandboxes


def lines(book: Notebook, words: list[str]) -> Iterator[str]:
    """What `%fleet sandboxes WORDS` prints. Raises BadRequest, NoSuchSandbox, SandboxUnavailable."""
    match words:
        case [] | ["list"]:
            return _listed(book)
        case ["stop", sandbox_id]:
            return _stopped(book, sandbox_id)
        case ["prune"]:
            return _pruned(book)
        case _:
            raise BadRequest(f"there is no %fleet sandboxes {' '.join(words)}", "it is list, stop ID or prune")


def _listed(book: Notebook) -> Iterator[str]:
    seen: set[str] = set()
    for place, there in _places(book):
        for sandbox in there.list():
            if sandbox.id not in seen:
                seen.add(sandbox.id)
                yield sandbox_line(sandbox) + place
    if not seen:
        yield "no sandbox is there; the next question has one"


def _stopped(book: Notebook, sandbox_id: str) -> Iterator[str]:
    for _, there in _places(book):
        try:
            there.stop(sandbox_id)
        except NoSuchSandbox:
            continue
        yield f"{sandbox_id} is stopped; what is on its session's volume stays"
        return
    raise NoSuchSandbox(f"there is no sandbox {sandbox_id!r} of yours", "%fleet sandboxes lists them")


def _pruned(book: Notebook) -> Iterator[str]:
    count = sum(there.prune() for _, there in _places(book))
    yield f"{count} sandbox{'' if count == 1 else 'es'} that processes left behind: deleted"


def _places(book: Notebook) -> list[tuple[str, LiveSandboxes | RemoteSandboxes]]:
    """Whom there is to ask, and what that adds to a line."""
    server = book.place().server
    there = [(f" · on {server.url}", book.remote(server).live_sandboxes)] if server else []
    return [*there, *(("", bench.live_sandboxes) for bench in book.benches())]
