"""Behind a real JupyterHub: the extension, the socket, who is who, and the way from a kernel to its server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import requests
import websocket
from integration.jupyter_servers import text_of, until
from jupyter_process import API, frames

from fleet_rlm_jupyter.remote import RemoteWorkbench

LOG = "".join(f"level={('INFO', 'ERROR')[n % 7 == 0]} n={n}\n" for n in range(200))
QUESTION = {"question": "How many lines contain ERROR?", "paths": ["log.txt"]}


@pytest.fixture(scope="session", autouse=True)
def files(hub):
    for user in ("alice", "bob", "carol"):
        (hub.home / user).mkdir(exist_ok=True)
        (hub.home / user / "log.txt").write_text(LOG, encoding="utf-8")


def asked(member, method: str, path: str, token: str | None = None, **more) -> requests.Response:
    headers = {"Authorization": f"token {member.token if token is None else token}"} if token != "" else {}
    return requests.request(method, f"{member.url[:-1]}{API}{path}", headers=headers, timeout=60, **more)


def socket_of(member, **more) -> websocket.WebSocket:
    return websocket.create_connection(f"{member.url.replace('http', 'ws', 1)[:-1]}{API}/ws", timeout=60, **more)


def to_the_end(socket: websocket.WebSocket) -> list[dict]:
    """The events of a run that is asked or followed on this socket, to its last."""
    events: list[dict] = []
    for frame in frames(socket):
        events += frame.get("events", [])
        if events and events[-1]["type"] == "run.ended":
            return events
    raise AssertionError("the socket ended before the run")


def test_the_extension_is_on_and_knows_the_hubs_user(hub, alice, bob):
    for member, name in ((alice, "alice"), (bob, "bob")):
        found = asked(member, "GET", "/status").json()
        assert (found["user"], found["where"]) == (name, "jupyter-server")
        known = asked(member, "GET", "/identity").json()
        assert (known["user"], known["provider"]) == (name, "JupyterHubIdentityProvider")
    assert hub.log.read_text().count("fleet_rlm_jupyter | extension was successfully loaded.") >= 2


def test_only_whom_the_hub_lets_in_gets_in(hub, alice, bob, bob_at_alices):
    assert asked(bob_at_alices, "GET", "/status").json()["user"] == "bob"
    carol = hub.token_of("carol")
    for token in ("", "wr0ng", carol):
        for path in ("/status", "/sessions", "/openapi.json"):
            assert asked(alice, "GET", path, token).status_code == 403, (token, path)
        assert asked(alice, "POST", "/sessions", token, json={"title": "no"}).status_code == 403
        with pytest.raises(websocket.WebSocketBadStatusException) as refused:
            socket_of(alice, header=[f"Authorization: token {token}"] if token else [])
        assert refused.value.status_code == 403
    assert asked(bob, "GET", "/status", alice.token).status_code == 403, "Bob shares nothing with Alice"


def test_a_question_over_the_socket_comes_back_without_gaps_and_is_followed_again(alice):
    socket = socket_of(alice, header=[f"Authorization: token {alice.token}"])
    socket.send(json.dumps({"op": "ask", **QUESTION}))
    events = to_the_end(socket)
    assert [event["seq"] for event in events] == list(range(len(events)))
    assert events[-1]["data"]["status"] == "done"
    socket.send(json.dumps({"op": "nonsense"}))
    assert json.loads(socket.recv())["type"] == "error"
    socket.send(json.dumps({"op": "follow", "run_id": events[0]["run_id"], "since": 3}))
    assert to_the_end(socket) == events[3:]
    socket.close()


def test_a_browser_that_signed_in_at_the_hub_is_held_to_origin_and_xsrf_token(hub, alice):
    browser = hub.browser("alice")
    url = f"{alice.url[:-1]}{API}"
    assert browser.get(f"{url}/status", timeout=30).json()["user"] == "alice"
    xsrf = next(cookie.value for cookie in browser.cookies if (cookie.name, cookie.path) == ("_xsrf", "/user/alice/"))
    for headers in ({}, {"X-XSRFToken": "guess"}, {"X-XSRFToken": xsrf, "Origin": "http://evil.example"}):
        refused = browser.post(f"{url}/sessions", json={"title": "forged"}, headers=headers, timeout=30)
        assert refused.status_code == (404 if "Origin" in headers else 403), headers  # 404 is Jupyter's own for this
    made = browser.post(f"{url}/sessions", json={"title": "mine"}, headers={"X-XSRFToken": xsrf}, timeout=60)
    assert made.status_code == 201, made.text
    titles = [session["title"] for session in asked(alice, "GET", "/sessions").json()["sessions"]]
    assert "mine" in titles
    assert "forged" not in titles
    cookie = "; ".join(f"{cookie.name}={cookie.value}" for cookie in browser.cookies)
    with pytest.raises(websocket.WebSocketBadStatusException) as refused:
        socket_of(alice, cookie=cookie, origin="http://evil.example")
    assert refused.value.status_code == 403
    socket = socket_of(alice, cookie=cookie, origin=hub.origin)
    socket.send(json.dumps({"op": "ask", **QUESTION}))
    assert to_the_end(socket)[-1]["data"]["status"] == "done"
    socket.close()


def test_two_users_see_only_their_own_also_on_one_server(alice, bob, bob_at_alices):
    """All their servers keep runs in one store, so what divides them is the name alone."""
    mine = asked(alice, "POST", "/sessions", json={"title": "of Alice"}).json()["session_id"]
    his = asked(bob_at_alices, "POST", "/sessions", json={"title": "of Bob"}).json()["session_id"]
    for member, sees, does_not in ((alice, mine, his), (bob_at_alices, his, mine), (bob, his, mine)):
        ids = [session["session_id"] for session in asked(member, "GET", "/sessions").json()["sessions"]]
        assert sees in ids
        assert does_not not in ids
        assert asked(member, "GET", f"/sessions/{does_not}").status_code == 404
        assert asked(member, "PATCH", f"/sessions/{does_not}", json={"title": "taken"}).status_code == 404
        assert asked(member, "DELETE", f"/sessions/{does_not}").status_code == 404
    run_id = asked(alice, "POST", "/runs", json=QUESTION).json()["run_id"]
    assert [event.fact.type for event in RemoteWorkbench(alice.url, alice.token).follow(run_id)][-1] == "run.ended"
    assert asked(bob_at_alices, "GET", f"/runs/{run_id}").status_code == 404
    socket = socket_of(bob_at_alices, header=[f"Authorization: token {bob_at_alices.token}"])
    socket.send(json.dumps({"op": "follow", "run_id": run_id}))
    assert json.loads(socket.recv())["type"] == "error"
    socket.close()


FIND = """
from fleet_rlm_jupyter.kernel.connect import find_server
from fleet_rlm_jupyter.settings import load
print(find_server(load().settings).server)
"""


def test_a_kernel_finds_the_server_by_what_the_hub_tells_it_and_asks_there(alice):
    with alice.kernel() as kernel:
        assert "/user/alice/', source='jpserver-" in text_of(kernel.run(FIND)), "the nearest, as without a Hub"
        # Where its file cannot be read, as in a container of its own, there is what the Hub tells.
        kernel.run("import os; os.environ['JUPYTER_RUNTIME_DIR'] = '/nowhere'\n%load_ext fleet_rlm_jupyter")
        text = text_of(kernel.run("%fleet status"))
        assert "/user/alice/ (the Hub)" in text
        kernel.run("log = open('log.txt').read()")
        outputs = kernel.run("%%fleet --var log -o result\nHow many lines contain ERROR?")
        assert "on the server at http://127.0.0.1:" in outputs[-1]["data"]["text/plain"]
        status, run_id = text_of(kernel.run("print(result.status, result.run_id)")).split()
        token = text_of(kernel.run("print(os.environ['JUPYTERHUB_API_TOKEN'])")).strip()
    assert status == "done"
    assert token not in text + str(outputs)
    found = RemoteWorkbench(alice.url, alice.token).runs.list()
    assert run_id in [run.run_id for run in found]


def test_an_older_single_user_server_knows_its_user_too_and_leaves_no_worker_when_the_hub_stops_it(hub):
    hub.start("carol")
    carol = hub.member("carol")
    known = asked(carol, "GET", "/identity").json()
    assert (known["user"], known["provider"]) == ("carol", "LegacyIdentityProvider")
    assert asked(carol, "GET", "/ready").ok
    assert asked(carol, "GET", "/sessions", hub.token_of("bob")).status_code == 403
    home = f"HOME={hub.home}/carol".encode()

    def processes() -> list[int]:
        found = []
        for place in Path("/proc").glob("[0-9]*"):
            try:
                if home in (place / "environ").read_bytes().split(b"\0"):
                    found.append(int(place.name))
            except OSError:
                continue
        return found

    assert len(processes()) >= 2, "the server and its worker"
    hub.ask("DELETE", "users/carol/server")
    until(lambda: not processes(), "something of Carol's is left", 10)
