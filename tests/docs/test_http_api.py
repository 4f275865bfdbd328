"""The pages about the API say what its code says. `python tests/docs/test_http_api.py` writes them anew."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest
from pydantic import BaseModel

from fleet_rlm_jupyter.domain.api import API
from fleet_rlm_jupyter.server import openapi
from fleet_rlm_jupyter.server.frames import OPS
from fleet_rlm_jupyter.server.routes import ROUTES
from fleet_rlm_jupyter.server.schema import FRAME_CODES
from fleet_rlm_jupyter.server.web import status_of

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"

INTRODUCTION = f"""# HTTP API

Written from the code by `python tests/docs/test_http_api.py`; do not edit.

What a Jupyter server with this package serves under `{API}`, below its base URL. Fields, types and limits are in
[openapi.json](openapi.json), which the server also serves itself.

**Access** is Jupyter's: `Authorization: token …`, or the cookie of somebody who has logged in, then with `X-XSRFToken`
for everything but GET. Who asks sees their own sessions and runs; those of others are not found. On a server that knows
one person, by a token or a password, everybody is the user `local`.

**Errors** are problem documents `{{"code": …, "message": …, "hint": …}}` of type `application/problem+json`. The code
is stable, the message says what is wrong, the hint what to do. Where it was in a sandbox's life, `phase` says in which
part of it. Codes beside those below, and the phases, are on [Errors](errors.md).
Every answer carries `X-Request-ID`, the one that was sent or a new one; the log names it where something failed.

**The worker.** All but `status` and `identity` is answered by a worker process that starts on first use (some seconds)
and anew after a crash: what was under way then fails with 503 `worker_restarted`, and open runs are marked failed.
"""

SOCKET = """## The socket

`GET /ws`. Frames are JSON objects in text. An op may carry an `id`, which comes back with its reply; ops are worked on
side by side, so replies may come in another order.
"""

FRAMES = """### What comes out

- `{"type": "accepted", "id", "op": "ask", "run_id", "session_id"}`: the run that works on it; its events follow.
- `{"type": "ok", "id", "op", "run_id"}`: done.
- `{"type": "error", "id", "op", "code", "message", "hint"}`, and `phase`: that one op failed; the socket stays usable.
- `{"type": "events", "events": […]}`: [events](events.md) of one or more runs, each once and in order. At most 20 such
  frames a second while runs go on; as fast as they are read while catching up.
- `{"type": "resync", "run_id", "since"}`: this reader was too slow to keep up; what follows comes from the store.
  Nothing is missing.
- `{"type": "heartbeat", "at"}`: every 15 s when nothing else comes.

A socket that breaks loses nothing: open another one and `follow` with the `seq` after the last event that came. What
was asked with a `key` may be asked again.

A socket is closed with 1008 after a hundred bad frames in a row, or when its replies are not read, and with 1012, after
an error frame `worker_restarted`, when the worker has died. More than 50 ops a second are slowed down, not refused.
"""


def http_api() -> str:
    lines = [INTRODUCTION, "## Routes", "", "| method | path | what it does |", "|---|---|---|"]
    lines += [f"| {route.method} | `{route.path}` | {route.summary} |" for route in ROUTES]
    for method, text in (("GET", "How much of a context is here."), ("PUT", "Upload a context, or the rest of one.")):
        lines.append(f"| {method} | `/contexts/{{sha256}}` | {text} |")
    lines += ["| GET | `/ws` | The socket, see below. |", "", "### Status of an error", ""]
    lines += [f"- {status}: {', '.join(f'`{code}`' for code in codes)}" for status, codes in status_of().items()]
    lines += ["", SOCKET, "### Ops", ""]
    for kind in OPS:
        lines += [f"#### `{name_of(kind)}`", "", " ".join((kind.__doc__ or "").split()), ""]
        lines += [f"- `{name}`{_said(field)}" for name, field in kind.model_fields.items() if name not in ("op", "id")]
        lines.append("")
    lines += [FRAMES, "### Codes of bad frames", ""]
    lines += [f"- `{code}`: {meaning}" for code, meaning in FRAME_CODES.items()]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).rstrip() + "\n"


@cache
def description() -> str:
    return openapi.text(ROUTES)


def name_of(kind: type[BaseModel]) -> str:
    return kind.model_json_schema()["properties"]["op"]["const"]


def _said(field) -> str:
    needed = " (needed)" if field.is_required() else ""
    return f"{needed}: {field.description}" if field.description else needed


def test_the_page_is_what_the_code_says():
    assert (REFERENCE / "http-api.md").read_text(encoding="utf-8") == http_api(), "python tests/docs/test_http_api.py"


def test_the_committed_description_is_what_the_code_says():
    found = (REFERENCE / "openapi.json").read_text(encoding="utf-8")
    assert found == description(), "python tests/docs/test_http_api.py"


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_every_route_has_a_sentence_that_says_what_it_does(route):
    assert route.summary.endswith((".", ": …}."))
    assert route.call.__name__ in description()


if __name__ == "__main__":
    (REFERENCE / "http-api.md").write_text(http_api(), encoding="utf-8")
    (REFERENCE / "openapi.json").write_text(description(), encoding="utf-8")
