"""A real JupyterHub on loopback: its proxy, its sign-in, and a single-user server for whoever asks for one."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from hub_proxy import HUB_PROXY
from integration.jupyter_servers import JupyterAt, until
from jupyter_process import free_port

SECONDS = 60
CONFIG = """
c = get_config()
c.JupyterHub.bind_url = "http://127.0.0.1:{port}/"
c.JupyterHub.hub_port = {hub_port}
c.JupyterHub.db_url = "sqlite:///{home}/hub.sqlite"
c.JupyterHub.cookie_secret_file = "{home}/cookie_secret"
c.JupyterHub.authenticator_class = "dummy"
c.DummyAuthenticator.password = "{password}"
c.Authenticator.allow_all = True
c.JupyterHub.spawner_class = "simple"
c.SimpleLocalProcessSpawner.home_dir_template = "{home}/{{username}}"
c.Spawner.cmd = [{python!r}, "-P", "-m", "jupyterhub.singleuser", "--allow-root"]
c.Spawner.environment = {environ!r}

def carol_has_an_older_server(spawner):
    if spawner.user.name == "carol":
        spawner.environment = {{**spawner.environment, "JUPYTERHUB_SINGLEUSER_EXTENSION": "0"}}

c.Spawner.pre_spawn_hook = carol_has_an_older_server
c.ConfigurableHTTPProxy.command = [{proxy!r}]
c.ConfigurableHTTPProxy.api_url = "http://127.0.0.1:{proxy_port}"
c.ConfigurableHTTPProxy.pid_file = "{home}/proxy.pid"
c.JupyterHub.services = [{{"name": "test", "api_token": "{token}"}}]
c.JupyterHub.load_roles = [
    {{"name": "test", "services": ["test"], "scopes": ["admin:users", "admin:servers", "tokens"]}},
    {{"name": "guest", "users": ["bob"], "scopes": ["access:servers!server=alice/"]}},
]
"""


class Member(JupyterAt):
    """A server behind the Hub, with the token that the Hub gave to one of its users."""

    def __init__(self, hub: Hub, server_of: str, token: str) -> None:
        self.hub = hub
        self.url = f"{hub.url}user/{server_of}/"
        self.token = token


class Hub:
    """The Hub. All servers keep their runs in one store.

    Bob may use Alice's server, nobody else that of somebody else. Carol's is one of the older kind.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self.password, self.token = secrets.token_hex(8), secrets.token_hex(16)
        port, hub_port, proxy_port = free_port(), free_port(), free_port()
        self.origin = f"http://127.0.0.1:{port}"
        self.url = f"{self.origin}/"
        environ = {
            "FLEET_MODEL": "offline/recipes",
            "FLEET_STORE__URL": f"sqlite:///{home}/runs.sqlite",
            "FLEET_FIND_LOCAL_MODELS": "false",
        }
        config = CONFIG.format(
            home=home, port=port, hub_port=hub_port, proxy_port=proxy_port, password=self.password, token=self.token,
            python=sys.executable, proxy=HUB_PROXY, environ=environ,
        )  # fmt: skip
        (home / "jupyterhub_config.py").write_text(config, encoding="utf-8")
        self.log = home / "hub.log"
        command = [sys.executable, "-P", "-m", "jupyterhub", f"--config={home}/jupyterhub_config.py"]
        # What of Jupyter is set here is for the kernels of the other tests; a Hub gives its users folders of their own.
        own = {name: value for name, value in os.environ.items() if not name.startswith("JUPYTER")}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, cwd=home, env=own, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
            )

    def wait(self) -> None:
        def answers() -> bool:
            assert self.process.poll() is None, self.log.read_text()[-3000:]
            with contextlib.suppress(requests.ConnectionError):
                return requests.get(f"{self.url}hub/api/", timeout=5).ok
            return False

        until(answers, "the Hub does not answer")

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """The Hub's own API, as its administrator."""
        headers = {"Authorization": f"token {self.token}"}
        answer = requests.request(
            method, f"{self.url}hub/api/{path}", headers=headers, json=body or {}, timeout=SECONDS
        )
        assert answer.ok, answer.text
        return answer.json() if answer.content else None

    def start(self, user: str) -> None:
        """Ask for the user's server, and do not wait."""
        self.ask("POST", f"users/{user}/server")

    def member(self, user: str, server_of: str = "") -> Member:
        """The user at their own server or at somebody else's, once it answers."""
        owner = server_of or user
        until(lambda: (self.ask("GET", f"users/{owner}")["servers"].get("") or {}).get("ready"), "no server comes")
        return Member(self, owner, self.token_of(user))

    def token_of(self, user: str) -> str:
        return self.ask("POST", f"users/{user}/tokens")["token"]

    def browser(self, user: str) -> requests.Session:
        """A browser that has signed in at the Hub and opened the user's server: it has cookies and no token."""
        session = requests.Session()
        page = session.get(f"{self.url}hub/login", timeout=SECONDS).text
        found = re.search(r'name="_xsrf" value="([^"]+)"', page)
        assert found, page
        form = {"username": user, "password": self.password, "_xsrf": found[1]}
        assert (
            session.post(f"{self.url}hub/login", data=form, allow_redirects=False, timeout=SECONDS).status_code == 302
        )
        page = session.get(f"{self.url}user/{user}/lab", headers={"Sec-Fetch-Mode": "navigate"}, timeout=SECONDS)
        assert page.ok, page.text
        return session

    def end(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(20)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(15)


@pytest.fixture(scope="session")
def hub(tmp_path_factory) -> Iterator[Hub]:
    made = Hub(tmp_path_factory.mktemp("hub"))
    try:
        made.wait()
        for user in ("alice", "carol"):  # Bob is known by his role
            made.ask("POST", f"users/{user}")
        for user in ("alice", "bob"):
            made.start(user)
        yield made
    finally:
        made.end()


@pytest.fixture(scope="session")
def alice(hub) -> Member:
    return hub.member("alice")


@pytest.fixture(scope="session")
def bob(hub) -> Member:
    return hub.member("bob")


@pytest.fixture(scope="session")
def bob_at_alices(hub, alice) -> Member:
    """Bob at the server of Alice, which she shares with him."""
    return hub.member("bob", "alice")
