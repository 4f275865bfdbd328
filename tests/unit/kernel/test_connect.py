"""Which server a kernel finds, and what it says where it finds none; over small servers on loopback."""

import http.server
import json
import os
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import pytest

from fleet_rlm_jupyter.domain.api import API_VERSION
from fleet_rlm_jupyter.kernel.connect import PROBE_SECONDS, Surroundings, base_of, callable_url, find_server
from fleet_rlm_jupyter.settings import Settings

STATUS = json.dumps({"version": "1.0", "api": API_VERSION, "user": "u", "where": "extension"}).encode()
TOKEN = "a-token-of-this-server"
HERE = Surroundings(parent_pid=os.getpid())


class Answers(http.server.BaseHTTPRequestHandler):
    code, body, token, base, hold = 200, STATUS, TOKEN, "/", None

    def do_GET(self):
        self.server.asked.append((self.path, self.headers.get("Authorization")))
        if self.hold:
            self.hold.wait(10)
        code = self.code if self.headers.get("Authorization") == f"token {self.token}" else 403
        code = code if self.path == f"{self.base}fleet/api/v1/status" else 404
        self.send_response(code)
        self.end_headers()
        self.wfile.write(self.body if code == 200 else b"{}")

    def log_message(self, *words):
        pass


@contextmanager
def serving(**how):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Answers,), how))
    server.asked = []
    server.url = f"http://127.0.0.1:{server.server_port}{how.get('base', '/')}"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def runtime(tmp_path):
    def written(server_url, pid=HERE.parent_pid, **more):
        info = {"url": server_url, "token": TOKEN, "pid": pid, "hostname": "localhost", "sock": "", **more}
        (tmp_path / f"jpserver-{pid}.json").write_text(json.dumps(info))
        return tmp_path

    return written


def found_by(around, runtime, **settings):
    begun = time.monotonic()
    found = find_server(Settings(**settings), around, runtime)
    assert time.monotonic() - begun < PROBE_SECONDS + 0.2
    return found


def test_the_file_of_the_process_that_started_the_kernel_says_where(runtime):
    with serving() as server:
        found = found_by(HERE, runtime(server.url))
    assert (found.server.url, found.server.source) == (server.url, f"jpserver-{os.getpid()}.json")
    assert server.asked == [("/fleet/api/v1/status", f"token {TOKEN}")]
    assert TOKEN not in repr(found)


def test_the_parent_process_is_asked_where_jupyter_names_none(runtime):
    with serving(base="/a/b/") as server:
        found = found_by(Surroundings(), runtime(server.url, os.getppid()))
    assert found.server.url.endswith("/a/b/")


def test_a_server_that_somebody_named_wins_and_is_the_only_one_asked(runtime):
    with serving() as near, serving(token="other-token") as named:
        folder = runtime(near.url)
        found = found_by(HERE, folder, server_url=named.url, server_token="other-token")
        assert (found.server.url, found.server.source) == (named.url, "FLEET_SERVER_URL")
        wrong = found_by(HERE, folder, server_url=named.url)
    assert wrong.server is None
    assert "FLEET_SERVER_TOKEN" in wrong.reason
    assert near.asked == []


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", ""])
def test_under_a_hub_its_address_and_token_do(runtime, host):
    with serving(base="/user/u/") as server:
        url = server.url.replace("127.0.0.1", host)
        around = Surroundings(os.getpid(), url, TOKEN)
        found = found_by(around, runtime(url, token=""))
    assert (found.server.url, found.server.source) == (server.url, "the Hub")


def test_a_server_that_somebody_started_under_a_hub_is_the_nearer_one(runtime):
    with serving() as inner, serving(base="/user/u/", token="hub") as outer:
        around = Surroundings(os.getpid(), outer.url, "hub")
        assert found_by(around, runtime(inner.url)).server.url == inner.url
    assert outer.asked == []


@pytest.mark.parametrize("listens_on", ["0.0.0.0", "*", ""])
def test_a_server_on_all_addresses_is_called_on_loopback(runtime, listens_on):
    with serving() as server:
        url = f"http://name-that-does-not-resolve.invalid:{server.server_port}/"
        found = found_by(HERE, runtime(url, hostname=listens_on, port=server.server_port))
    assert found.server.url == server.url


def gone() -> int:
    """The id of a process that is no more."""
    done = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    return int(done.stdout)


def test_without_any_server_there_is_nothing_to_say(tmp_path):
    assert found_by(Surroundings(), tmp_path) == found_by(Surroundings(parent_pid=1), tmp_path)
    assert found_by(Surroundings(), tmp_path).reason == ""


def test_a_stale_file_is_called_stale_and_its_token_goes_nowhere(runtime):
    pid = gone()
    with serving() as stranger:
        found = found_by(Surroundings(parent_pid=pid), runtime(stranger.url, pid))
    assert found.server is None
    assert "stale" in found.reason
    assert stranger.asked == []


def test_a_dead_server_is_named(runtime):
    with serving() as server:
        pass
    found = found_by(HERE, runtime(server.url))
    assert (found.server, found.reason) == (None, f"the server at {server.url} does not answer")


def test_a_server_that_hangs_costs_a_moment_only(runtime):
    hold = threading.Event()
    with serving(hold=hold) as server:
        found = found_by(HERE, runtime(server.url))
        hold.set()
    assert "within 0.3 s" in found.reason


def test_a_server_without_the_extension_is_told_apart(runtime):
    with serving(base="/elsewhere/") as server:
        found = found_by(HERE, runtime(server.url.replace("/elsewhere", "")))
    assert "no fleet extension" in found.reason


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"body": json.dumps({"api": API_VERSION - 1}).encode()}, "an older API"),
        ({"body": json.dumps({"api": API_VERSION + 1}).encode()}, "a newer API"),
        ({"body": b"<html>"}, "none of ours"),
        ({"body": b"[]"}, "none of ours"),
        ({"body": b'{"api": "1"}'}, "none of ours"),
        ({"token": "another"}, "FLEET_SERVER_TOKEN"),
        ({"code": 302}, "FLEET_SERVER_TOKEN"),
        ({"code": 500}, "answers 500"),
    ],
)
def test_a_server_that_cannot_be_used_says_why_in_one_line(runtime, how, says):
    with serving(**how) as server:
        found = found_by(HERE, runtime(server.url))
    assert found.server is None
    assert says in found.reason
    assert server.url in found.reason
    assert "\n" not in found.reason


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"url": null}', '{"url": "http://h:x/"}', '{"url": "ftp://h/"}']
)
def test_a_broken_runtime_file_is_no_error(tmp_path, text):
    (tmp_path / f"jpserver-{os.getpid()}.json").write_text(text)
    found = found_by(HERE, tmp_path)
    assert found.server is None
    assert f"jpserver-{os.getpid()}.json" in found.reason


def test_a_server_on_a_unix_socket_is_left_alone(runtime):
    assert "UNIX socket" in found_by(HERE, runtime("http+unix://x", sock="/tmp/s")).reason


@pytest.mark.parametrize("url", ["nonsense", "ftp://host", "http://host:port/", "http://[::1/"])
def test_what_is_no_url_is_called_so(url):
    assert "is no URL" in find_server(Settings.model_construct(server_url=url, server_token=None)).reason


@pytest.mark.parametrize(
    "page", ["", "lab", "lab/tree/a/b.ipynb", "tree", "notebooks/x.ipynb", "doc/tree/x", "lab?x=1"]
)
def test_the_address_of_a_page_is_that_of_its_server(page):
    assert base_of(f"http://h:1/user/u/{page}") == "http://h:1/user/u/"


@pytest.mark.parametrize(
    ("url", "called"),
    [
        ("http://0.0.0.0:8888", "http://127.0.0.1:8888/"),
        ("http://:8888/user/u/", "http://127.0.0.1:8888/user/u/"),
        ("http://[::]:8888/x", "http://[::1]:8888/x/"),
        ("https://host/base?token=1#x", "https://host/base/"),
    ],
)
def test_an_address_to_listen_on_becomes_one_to_call(url, called):
    assert callable_url(url) == called


def test_only_whole_numbers_and_full_texts_come_from_the_environment():
    environ = {"JPY_PARENT_PID": "12", "JUPYTERHUB_SERVICE_URL": "http://h/", "JUPYTERHUB_API_TOKEN": "t-o-k-e-n"}
    around = Surroundings.of(environ)
    assert (around.parent_pid, around.hub_url) == (12, "http://h/")
    assert "t-o-k-e-n" not in repr(around)
    assert Surroundings.of({**dict.fromkeys(environ, ""), "JPY_PARENT_PID": "x"}) == Surroundings()
