"""`%fleet resume`: the notebook's questions go on with a session of before."""

from __future__ import annotations

from fleet_rlm_jupyter.domain.errors import BadRequest, NoSuchSession
from fleet_rlm_jupyter.domain.lines import resumed_lines
from fleet_rlm_jupyter.kernel.handles import Notebook
from fleet_rlm_jupyter.remote import RemoteWorkbench
from fleet_rlm_jupyter.workbench import Workbench


def lines(book: Notebook, words: list[str]) -> list[str]:
    """What `%fleet resume WORDS` prints. Raises BadRequest, NoSuchSession, StoreFailed, ServerUnavailable."""
    if words == ["off"]:
        book.session_id = None
        return ["questions go into a session of this kernel's own again"]
    if len(words) > 1:
        raise BadRequest("one session is resumed at a time", "%fleet resume [ID | off]")
    server = book.place().server
    bench = book.remote(server) if server else book.bench()
    found = bench.resume(named(bench, words[0]) if words else _last(bench))
    book.session_id = found.session.session_id
    return [*resumed_lines(found), "questions of this notebook go on with it; %fleet resume off ends that"]


def named(bench: Workbench | RemoteWorkbench, prefix: str) -> str:
    """The one that begins so among those last used; else it is a whole id, which a volume may know."""
    found = [one.session_id for one in bench.sessions.list(limit=200)[0] if one.session_id.startswith(prefix)]
    if len(found) > 1:
        raise BadRequest(f"more than one session begins with {prefix}", "give more of its id")
    return found[0] if found else prefix


def _last(bench: Workbench | RemoteWorkbench) -> str:
    current = bench.session().session_id
    found = [one.session_id for one in bench.sessions.list(limit=2)[0] if one.session_id != current]
    if not found:
        raise NoSuchSession("there is no session of before", "name one: %fleet resume ID")
    return found[0]
