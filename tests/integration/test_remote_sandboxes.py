"""Sandboxes of another server's: what takes the service long is waited for."""

from __future__ import annotations

import http.server
import threading
import time

import pytest

from fleet_rlm_jupyter import connection
from fleet_rlm_jupyter.connection import Connection
from fleet_rlm_jupyter.domain.errors import ServerUnavailable
from fleet_rlm_jupyter.remote_sandboxes import WORK_SECONDS, RemoteSandboxes
from fleet_rlm_jupyter.sandbox.client import CALL_SECONDS
from fleet_rlm_jupyter.sandbox.states import RESTORE_SECONDS, START_SECONDS


class Late(http.server.BaseHTTPRequestHandler):
    """A server that works for a while before it answers."""

    def do_POST(self) -> None:
        time.sleep(0.3)
        body = b"null"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_DELETE = do_POST

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def late():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Late)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield RemoteSandboxes(Connection(f"http://127.0.0.1:{server.server_port}"))
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_sandbox_that_comes_back_from_cold_storage_outlasts_the_wait_of_other_requests(late, monkeypatch):
    monkeypatch.setattr(connection, "ANSWER_SECONDS", 0.1)
    for act in (late.start, late.archive, lambda sandbox_id: late.resize(sandbox_id, cpu=2)):
        act("sb-1")
    with pytest.raises(ServerUnavailable):
        late.stop("sb-1")


def test_the_wait_is_longer_than_what_the_service_is_given():
    assert WORK_SECONDS > RESTORE_SECONDS + START_SECONDS + 2 * CALL_SECONDS
