"""A real `jupyter server` on loopback, in folders of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import requests
import websocket

API = "/fleet/api/v1"
TOKEN = "t0ken"
LEFT_OUT = ("jupyterlab", "jupyter_lsp", "notebook", "notebook_shim", "jupyter_server_terminals")
# Our package first: the grammar that it defers (deferred.py) is then not compiled by the server, which takes a second.
START = "import fleet_rlm_jupyter, jupyter_server.serverapp as serverapp; serverapp.main()"
STUB = [sys.executable, "-P", str(Path(__file__).with_name("stub_worker.py"))]


class JupyterProcess:
    """`url` has the base URL, without a slash at its end. `stop` ends it as Ctrl-C Ctrl-C or a Hub would."""

    def __init__(
        self,
        folder: Path,
        config: str = "",
        base: str = "/a%40b/",
        probe: str = "/api/status",
        python: str = sys.executable,
        **environ: str,
    ) -> None:
        self.folder = folder
        self.root = folder / "root"
        self.root.mkdir(parents=True, exist_ok=True)
        (folder / "config").mkdir(exist_ok=True)
        (folder / "config" / "jupyter_server_config.py").write_text(config, encoding="utf-8")
        self.port = free_port()
        self.origin = f"http://127.0.0.1:{self.port}"
        self.url = self.origin + base.rstrip("/")
        self.log = folder / "log.txt"
        self.environ = {
            **os.environ,
            **lean(folder),
            "JUPYTER_CONFIG_DIR": str(folder / "config"),
            "JUPYTER_DATA_DIR": str(folder / "data"),
            "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
            "FLEET_FIND_LOCAL_MODELS": "false",
            **environ,
        }
        command = [python, "-c", START, f"--port={self.port}", "--no-browser", "--ip=127.0.0.1"]
        command += [
            "--allow-root",
            f"--ServerApp.root_dir={self.root}",
            f"--ServerApp.base_url={base}",
            "--ServerApp.port_retries=0",
        ]
        command += [f"--IdentityProvider.token={TOKEN}"]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, env=self.environ, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
            )
        self.routes: list[tuple[str, str]] = []
        self._wait(probe)

    def _wait(self, probe: str) -> None:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            with contextlib.suppress(requests.ConnectionError):
                if requests.get(f"{self.url}{probe}", headers={"Authorization": f"token {TOKEN}"}, timeout=5).ok:
                    return
            assert self.process.poll() is None, self.log.read_text()[-3000:]
            time.sleep(0.05)
        self.process.kill()
        raise AssertionError(self.log.read_text()[-3000:])

    def ask(self, method: str, path: str, token: str | None = TOKEN, **more: Any) -> requests.Response:
        headers = more.pop("headers", {})
        if token is not None:
            headers = {"Authorization": f"token {token}", **headers}
        return requests.request(method, f"{self.url}{API}{path}", headers=headers, timeout=60, **more)

    def socket(self, token: str | None = TOKEN, timeout: float = 30, **more: Any) -> websocket.WebSocket:
        headers = [f"Authorization: token {token}"] if token is not None else []
        headers += more.pop("header", [])
        url = self.url.replace("http://", "ws://") + f"{API}/ws"
        return websocket.create_connection(url, header=headers, timeout=timeout, **more)

    def browser(self) -> requests.Session:
        """A browser that has logged in: it has the cookie and the XSRF token, but no token."""
        session = requests.Session()
        assert session.get(f"{self.url}/login", params={"token": TOKEN}, timeout=30).ok
        session.get(f"{self.url}/api/status", timeout=30)
        assert "_xsrf" in session.cookies
        return session

    def family(self) -> list[int]:
        """The server and every process below it."""
        return [self.process.pid, *below(self.process.pid)]

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def lean(folder: Path) -> dict[str, str]:
    """The environment of a server without the extensions that most tests have no use for; they take two seconds."""
    config = folder / "lean" / "jupyter_server_config.d"
    config.mkdir(parents=True, exist_ok=True)
    left_out = {"ServerApp": {"jpserver_extensions": dict.fromkeys(LEFT_OUT, False)}}
    (config / "left_out.json").write_text(json.dumps(left_out))
    return {"JUPYTER_CONFIG_PATH": str(folder / "lean")}  # before that of the venv, which turns them on


def below(pid: int) -> list[int]:
    found: list[int] = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = status.read_text().rsplit(") ", 1)[1].split()
            if int(fields[1]) == pid:
                child = int(status.parent.name)
                found += [child, *below(child)]
    return found


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1][0] != "Z"
    except OSError:
        return False


def wait_until(holds: Any, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.05)


def frames(connection: websocket.WebSocket) -> Iterator[dict[str, Any]]:
    while True:
        yield json.loads(connection.recv())


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
