"""Who is let in, by which credential, from which origin, and as whom."""

from __future__ import annotations

import http.client
import json
import re
import select
import socket as sockets
from pathlib import Path
from types import SimpleNamespace

import pytest
import requests
import websocket
from jupyter_process import API, STUB, TOKEN, JupyterProcess
from jupyter_server.auth.identity import LegacyIdentityProvider, User
from jupyter_server.auth.login import LegacyLoginHandler
from jupyter_server.serverapp import ServerWebApplication
from tornado import web

from fleet_rlm_jupyter.server import handlers
from fleet_rlm_jupyter.server.passing import owner_of
from fleet_rlm_jupyter.server.routes import ROUTES

USERS = '''
from jupyter_server.auth import IdentityProvider, User
class Users(IdentityProvider):
    """Two people, known by a header of their own."""
    async def get_user(self, handler):
        name = handler.request.headers.get("X-Test-Person")
        return User(username=name) if name else None
    def is_token_authenticated(self, handler):
        return True
    auth_enabled = True
'''
NOBODY = '''
from jupyter_server.auth import Authorizer
class Nobody(Authorizer):
    """An async authorizer: whoever forgets to wait for it takes its coroutine for a yes."""
    async def is_authorized(self, handler, user, action, resource):
        return resource != "fleet"
'''
CREDENTIALS = [
    "none", "bad token", "token in query", "bad token in query", "token",
    "cookie", "forged cookie", "cookie without xsrf", "cookie with bad xsrf",
]  # fmt: skip


@pytest.fixture(scope="module", params=[True, False], ids=["unauthenticated allowed", "not allowed"])
def server(request, tmp_path_factory):
    """Both modes of allow_unauthenticated_access: the default, in which a handler is alone with its decorators."""
    folder = tmp_path_factory.mktemp("server")
    config = f"c = get_config()\nc.FleetApp.worker_command = {STUB!r}\n"
    config += "c.ServerApp.jpserver_extensions = {'router_dump': True}\n"
    config += f"c.ServerApp.allow_unauthenticated_access = {request.param}\n"
    dump = folder / "router.json"
    tests = str(Path(__file__).parents[2])
    process = JupyterProcess(folder, config, PYTHONPATH=tests, ROUTER_DUMP=str(dump))
    process.routes = routes(dump)
    yield process
    process.stop()


def routes(dump: Path) -> list[tuple[str, str]]:
    """Every method and path: what the live router has, with the worker's routes behind its open end."""
    found: set[tuple[str, str]] = set()
    for rule in json.loads(dump.read_text()):
        path = rule["pattern"].split(API, 1)[1].rstrip("$")
        if path == "/ws":
            continue
        for method in set(rule["methods"]) - {"OPTIONS"}:
            found.add((method, path.replace("(.*)", "anything")))
    assert ("GET", "/status") in found
    assert ("DELETE", "/anything") in found
    return sorted(found | {(route.method, re.sub(r"{\w+}", "x", route.path)) for route in ROUTES})


def knock(server: JupyterProcess, method: str, path: str, credential: str) -> requests.Response:
    who, more = requests.Session(), {"headers": {}, "params": {}}
    if "cookie" in credential:
        who = server.browser()
        if credential == "cookie":
            more["headers"] = {"X-XSRFToken": who.cookies["_xsrf"], "Origin": server.origin}
        if credential == "cookie with bad xsrf":
            more["headers"] = {"X-XSRFToken": "2|12345678|0|0", "Origin": server.origin}
        if credential == "forged cookie":
            xsrf = who.cookies["_xsrf"]
            name = next(name for name in dict(who.cookies) if name.startswith("username-"))
            value = who.cookies[name]
            who.cookies.clear()
            who.cookies.set(name, value[:-6] + "abcdef", path="/")
            who.cookies.set("_xsrf", xsrf, path="/")
            more["headers"] = {"X-XSRFToken": xsrf, "Origin": server.origin}
    if credential.endswith("token"):
        more["headers"] = {"Authorization": f"token {'wr0ng' if 'bad' in credential else TOKEN}"}
    if credential.endswith("in query"):
        more["params"] = {"token": "wr0ng" if "bad" in credential else TOKEN}
    return who.request(method, f"{server.url}{API}{path}", timeout=30, **more)


@pytest.mark.parametrize("credential", CREDENTIALS)
def test_every_route_opens_to_the_right_credential_and_to_no_other(server, credential):
    for method, path in server.routes:
        answer = knock(server, method, path, credential)
        # Reading with a cookie needs no XSRF token: it changes nothing, and other origins cannot see the answer.
        reads = method == "GET" and credential.startswith("cookie with")
        if reads or credential in ("token", "token in query", "cookie"):
            assert answer.status_code == 200, (method, path, answer.text)
            assert TOKEN not in answer.text
            assert "leak" not in answer.headers.get("Set-Cookie", "")
        else:
            assert answer.status_code == 403, (method, path, answer.text)
            assert answer.json().keys() == {"code", "message", "hint"}


@pytest.mark.parametrize("credential", CREDENTIALS)
def test_the_socket_opens_to_the_right_credential_and_to_no_other(server, credential):
    header, query = [f"Origin: {server.origin}"], ""
    if credential.startswith("cookie") or credential == "forged cookie":
        cookies = dict(server.browser().cookies)
        if credential == "forged cookie":
            cookies = {name: value[:-6] + "abcdef" for name, value in cookies.items()}
        header.append("Cookie: " + "; ".join(f"{name}={value}" for name, value in cookies.items()))
    word = "wr0ng" if "bad token" in credential else TOKEN
    if credential.endswith("token"):
        header.append(f"Authorization: token {word}")
    if credential.endswith("in query"):
        query = f"?token={word}"
    url = server.url.replace("http", "ws") + f"{API}/ws{query}"
    opens = credential in ("token", "token in query") or credential.startswith("cookie")
    if opens:
        connection = websocket.create_connection(url, header=header, suppress_origin=True, timeout=30)
        connection.send("headers")
        assert TOKEN not in connection.recv()
        connection.close()
    else:
        with pytest.raises(websocket.WebSocketBadStatusException) as refused:
            websocket.create_connection(url, header=header, suppress_origin=True, timeout=30)
        assert refused.value.status_code == 403


def test_no_page_of_another_origin_reaches_socket_or_routes_with_the_cookie_of_its_visitor(server):
    browser, host = server.browser(), f"127.0.0.1:{server.port}"
    foreign = [
        "http://evil.example", "https://evil.example", f"http://evil.example:{server.port}", f"http://{host}.evil.example",
        f"http://evil.example/{host}", f"http://{host}@evil.example", f"http://x@{host}x", f"https://127.0.0.1:{server.port}1",
        "http://127.0.0.1", "http://127.0.0.1:1", f"http://localhost:{server.port}", f"http://127.0.0.1.:{server.port}",
        f"http://[::1]:{server.port}", f"http://0.0.0.0:{server.port}", f"http://127.1:{server.port}", "null", "file://",
        f"http://2130706433:{server.port}", f"http://127.0.0.2:{server.port}", "chrome-extension://abc", "http://",
        f"http://{host}%00", f"http://{host}%2eevil.example", f"http://xn--{host}", f"http://\u0131{host}", "garbage",
    ]  # fmt: skip
    cookie = "; ".join(f"{name}={value}" for name, value in browser.cookies.items())
    url = server.url.replace("http", "ws") + f"{API}/ws"
    for origin in foreign:
        header = [f"Cookie: {cookie}", f"Origin: {origin}"]
        with pytest.raises(websocket.WebSocketBadStatusException) as refused:
            websocket.create_connection(url, header=header, suppress_origin=True, timeout=30)
        assert refused.value.status_code == 403, origin
        headers = {"Origin": origin.encode("utf-8"), "X-XSRFToken": browser.cookies["_xsrf"]}
        answer = browser.post(f"{server.url}{API}/runs", headers=headers, timeout=30)
        assert answer.status_code in (403, 404), origin
    # The control: the same cookie from our own origin is let in.
    header = [f"Cookie: {cookie}", f"Origin: {server.origin}"]
    websocket.create_connection(url, header=header, suppress_origin=True, timeout=30).close()


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "10.0.0.1", "attacker.test:8888"])
def test_a_foreign_host_name_that_leads_to_loopback_is_refused(server, host):
    assert server.ask("GET", "/status", headers={"Host": host}).status_code == 403
    assert server.ask("GET", "/ready", headers={"Host": host}).status_code == 403


def test_nobody_outside_names_the_user_or_the_key(server):
    forged = {"X-Fleet-User": "root", "X-Fleet-Key": "guess", "x-fleet-user": "admin", "Cookie": "a=b"}
    seen = server.ask("GET", "/anything?x=1&token=t0ken&y=%2F", headers=forged).json()
    assert seen["headers"]["X-Fleet-User"] == "local"
    assert seen["headers"]["X-Fleet-Key"] != "guess"
    assert seen["headers"].keys().isdisjoint({"Cookie", "Authorization"})
    assert seen["uri"] == f"{API}/anything?x=1&y=%2F"
    connection = server.socket(header=[f"{name}: {value}" for name, value in forged.items() if name != "Cookie"])
    connection.send("headers")
    assert json.loads(connection.recv())["headers"]["X-Fleet-User"] == "local"
    connection.close()


def test_a_body_of_somebody_unknown_does_not_reach_the_worker(server):
    """It would, were it only the decorator that refuses: a streamed body comes before the method is called."""
    with sockets.create_connection(("127.0.0.1", server.port), timeout=30) as line:
        path = f"{server.url.removeprefix(server.origin)}{API}/contexts/x"
        line.sendall(
            f"PUT {path} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nContent-Length: 100000000\r\n\r\n".encode()
        )
        line.sendall(b"x" * 1000)
        assert line.recv(100).startswith(b"HTTP/1.1 403 "), "refused before the body is complete"


def test_a_refusal_hears_a_small_body_out_so_that_whoever_sends_it_learns_why(server):
    """An answer before the body would end the connection, which a proxy in front takes for a broken server."""
    path = f"{server.url.removeprefix(server.origin)}{API}/sessions"
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nContent-Length: {{}}\r\n\r\n"
    for size in (1, 300_001):
        with sockets.create_connection(("127.0.0.1", server.port), timeout=30) as line:
            line.sendall(head.format(size).encode())
            for _ in range(size // 1000):
                line.sendall(b"x" * 1000)
            # The other way round the answer comes now, and what is sent after it is refused by the machine itself.
            assert select.select([line], [], [], 0.3)[0] == []
            line.sendall(b"x" * (size % 1000))
            with http.client.HTTPResponse(line) as answer:
                answer.begin()
                assert (answer.status, json.loads(answer.read())["code"]) == (403, "forbidden")
                assert answer.headers["Connection"] == "close"


def guarded(handler: type[web.RequestHandler]) -> list[str]:
    """What Jupyter itself finds missing on a handler."""
    return ServerWebApplication._check_handler_auth(ServerWebApplication, "x", handler)


METHODS = ("get", "post", "put", "patch", "delete")
OURS = [handlers.StatusHandler, handlers.IdentityHandler, handlers.ProxyHandler, handlers.SocketHandler]


@pytest.mark.parametrize("handler", OURS, ids=lambda handler: handler.__name__)
def test_no_method_lacks_its_decorator(handler):
    assert guarded(handler) == []


@pytest.mark.parametrize("handler", OURS, ids=lambda handler: handler.__name__)
def test_a_dropped_decorator_would_be_noticed(handler):
    methods = [name for name in METHODS if name in vars(handler)]
    assert methods
    for name in methods:
        mutant = type("Mutant", (handler,), {name: vars(handler)[name].__wrapped__})
        # `authorized` alone is no identity: what is inside `authenticated` does not pass for guarded.
        assert guarded(mutant), name


def test_a_socket_without_jupyters_identity_would_be_noticed():
    order = [kind.__name__ for kind in handlers.SocketHandler.__mro__]
    assert order.index("WebSocketMixin") < order.index("WebSocketHandler") < order.index("JupyterHandler")


@pytest.fixture(scope="module")
def two_users(tmp_path_factory):
    config = f"{USERS}\nc = get_config()\nc.FleetApp.worker_command = {STUB!r}\n"
    process = JupyterProcess(
        tmp_path_factory.mktemp("users"), config + "c.ServerApp.identity_provider_class = Users\n", probe="/login"
    )
    yield process
    process.stop()


def test_the_worker_is_told_who_asks_by_the_identity_provider(two_users):
    for name in ("ann", "bob", "Zoë/../admin", "a b"):
        person = {"X-Test-Person": name.encode()}
        answer = two_users.ask("GET", "/anything", token=None, headers=person)
        heard = answer.json()["headers"]["X-Fleet-User"]
        assert requests.utils.unquote(heard) == name.encode().decode("latin-1")
        assert two_users.ask("GET", "/identity", token=None, headers=person).json()["user"] == name.encode().decode(
            "latin-1"
        )
    assert two_users.ask("GET", "/anything", token=None).status_code == 403


class OldLogin(LegacyLoginHandler):
    """A login handler as they were before identity providers; JupyterHub has such a one for its older servers."""

    @classmethod
    def get_user(cls, handler):
        return handler.request.headers["X-Test-Person"]


@pytest.mark.parametrize(("login", "owner"), [(OldLogin, "ann"), (LegacyLoginHandler, "local")])
def test_an_old_login_handler_that_knows_people_names_the_owner_too(login, owner):
    provider = LegacyIdentityProvider(login_handler_class=login)
    assert owner_of(SimpleNamespace(identity_provider=provider, current_user=User("ann"))) == owner


def test_whom_an_async_authorizer_refuses_reaches_no_method_of_any_handler(tmp_path):
    """Jupyter itself looks for `authenticated` alone: without this, nobody would notice that `authorized` is gone."""
    every = [("GET", "/status"), ("GET", "/identity"), ("PUT", "/contexts/x")]
    every += [(method.upper(), "/anything") for method in vars(handlers.ProxyHandler) if method in METHODS]
    assert len(every) == 8
    config = (
        f"{NOBODY}\nc = get_config()\nc.FleetApp.worker_command = {STUB!r}\nc.ServerApp.authorizer_class = Nobody\n"
    )
    server = JupyterProcess(tmp_path, config)
    try:
        for method, path in every:
            answer = server.ask(method, path, data=b"x" if method != "GET" else None)
            assert answer.status_code == 403, (method, path)
        with pytest.raises(websocket.WebSocketBadStatusException) as refused:
            server.socket()
        assert refused.value.status_code == 403
    finally:
        server.stop()
