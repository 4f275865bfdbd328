"""`%fleet export`: a session with its turns and their runs, written beside the notebook."""

from __future__ import annotations

from pathlib import Path

from fleet_rlm_jupyter.domain.errors import BadPath, BadRequest
from fleet_rlm_jupyter.kernel.handles import Notebook
from fleet_rlm_jupyter.kernel.resume import named

SUFFIX = ".json"


def lines(book: Notebook, words: list[str]) -> list[str]:
    """What `%fleet export WORDS` prints. Raises BadRequest, BadPath, NoSuchSession, StoreFailed, ServerUnavailable."""
    paths = [word for word in words if word.endswith(SUFFIX)]
    prefixes = [word for word in words if not word.endswith(SUFFIX)]
    if len(paths) > 1 or len(prefixes) > 1:
        raise BadRequest("one session is exported into one file", f"%fleet export [SESSION] [PATH{SUFFIX}]")
    server = book.place().server
    bench = book.remote(server) if server else book.bench()
    session_id = named(bench, prefixes[0]) if prefixes else book.session_id or bench.session().session_id
    path = Path(paths[0] if paths else session_id + SUFFIX)
    text = bench.sessions.export(session_id)
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as err:
        raise BadPath(f"{path} cannot be written: {err.strerror}", "name another file") from err
    return [f"session {session_id} is in {path}; fleet sessions import {path} keeps it anew"]
