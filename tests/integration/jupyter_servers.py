"""Real Jupyter servers on loopback, and kernels that they start, driven over HTTP and the kernels' own channel.

Nothing turns the extension on: that the package is installed must be enough.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import websocket
from jupyter_process import START, lean

SECONDS = 60
APPS = {
    "jupyter server": ("-c", START),
    "JupyterLab": ("-m", "jupyterlab", "--LabApp.news_url=None"),
    "Notebook 7": ("-m", "notebook"),
}  # fmt: skip

RECIPES = {"FLEET_MODEL": "offline/recipes"}
WHERE = """
from fleet_rlm_jupyter.kernel.placement import choose
from fleet_rlm_jupyter.settings import load
placed = choose("auto", load().settings)
print("asks:", placed.line, placed.server and f"({placed.server.source})" or "")
"""
"""Code that prints where a question of its kernel would run."""

Outputs = list[dict[str, Any]]


class JupyterAt:
    """A Jupyter server at `url`, which ends with a slash, spoken to with `token`."""

    url: str
    token: str

    def call(self, method: str, path: str, body: object = None) -> Any:
        """The JSON answer of a request with the server's token."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, method=method)
        request.add_header("Authorization", f"token {self.token}")
        request.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(request, timeout=SECONDS) as response:
            text = response.read()
        return json.loads(text) if text else None

    @contextmanager
    def kernel(self) -> Iterator[ServedKernel]:
        """A kernel that this server starts for a notebook in its root folder, as its own pages would."""
        name = f"{secrets.token_hex(4)}.ipynb"
        body = {"path": name, "name": name, "type": "notebook", "kernel": {"name": "python3"}}
        session = self.call("POST", "api/sessions", body)
        kernel = ServedKernel(self, session["kernel"]["id"])
        try:
            yield kernel
        finally:
            kernel.close()
            self.call("DELETE", f"api/sessions/{session['id']}")


class JupyterServer(JupyterAt):
    """One that is started here. What it was told to write lies in `home`; its root folder is `home/root`."""

    def __init__(
        self, app: str | list[str], home: Path, environ: dict[str, str], *arguments: str, has_fleet: bool = True
    ) -> None:
        """`app` is one of APPS, or a command."""
        self.root = home / "root"
        self.root.mkdir(parents=True, exist_ok=True)
        self.token = secrets.token_hex(16)
        self.runtime = home / "runtime"
        places = {
            "JUPYTER_RUNTIME_DIR": str(self.runtime),
            "JUPYTER_CONFIG_DIR": str(home / "config"),
            "JUPYTER_DATA_DIR": str(home / "data"),
            "IPYTHONDIR": str(home / "ipython"),
            **(lean(home) if app == "jupyter server" else {}),
        }
        self.log = home / "server.log"
        command = [
            *([sys.executable, *APPS[app]] if isinstance(app, str) else app),
            "--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1",
            "--ServerApp.port=0", f"--ServerApp.root_dir={self.root}", f"--IdentityProvider.token={self.token}",
            *([] if has_fleet else ["--ServerApp.jpserver_extensions={'fleet_rlm_jupyter': False}"]), *arguments,
        ]  # fmt: skip
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, cwd=self.root, env={**os.environ, **places, **environ}, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        self.file = self.runtime / f"jpserver-{self.process.pid}.json"
        try:
            self.url = self._wait_for_url()
        except BaseException:
            self.end()
            raise

    def _wait_for_url(self) -> str:
        def answers() -> str:
            with contextlib.suppress(OSError, ValueError):
                self.url = json.loads(self.file.read_text())["url"]
                self.call("GET", "api/status")
                return self.url
            assert self.process.poll() is None, self.log.read_text()[-3000:]
            return ""

        return until(answers, "the server does not answer")

    def end(self, number: int = signal.SIGTERM) -> None:
        """End it, and whatever of its group is left; twice is harmless."""
        if self.process.poll() is None:
            self.process.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(15)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(15)

    def __enter__(self) -> JupyterServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()


class ServedKernel:
    """A kernel behind a server, spoken to over the server's WebSocket."""

    def __init__(self, server: JupyterAt, kernel_id: str) -> None:
        self._server = server
        self.id = kernel_id
        url = f"{server.url.replace('http', 'ws', 1)}api/kernels/{kernel_id}/channels?session_id={uuid.uuid4().hex}"
        self._socket = websocket.create_connection(
            url, timeout=SECONDS, header=[f"Authorization: token {server.token}"]
        )

    def begin(self, code: str) -> str:
        """Have `code` executed; the id of the request."""
        content = {"code": code, "silent": False, "store_history": True, "allow_stdin": False, "stop_on_error": True}
        header = {
            "msg_id": uuid.uuid4().hex, "msg_type": "execute_request", "username": "", "session": uuid.uuid4().hex,
            "version": "5.3", "date": "",
        }  # fmt: skip
        message = {"header": header, "parent_header": {}, "metadata": {}, "content": content, "channel": "shell"}
        self._socket.send(json.dumps({**message, "buffers": []}))
        return header["msg_id"]

    def run(self, code: str, see: Callable[[dict[str, Any]], None] | None = None) -> Outputs:
        """The outputs of a cell, updates of a display applied; `see` is called with each output as it comes."""
        return self.finish(self.begin(code), see)

    def finish(self, asked: str, see: Callable[[dict[str, Any]], None] | None = None) -> Outputs:
        outputs: Outputs = []
        is_replied = is_idle = False
        while not (is_replied and is_idle):
            message = json.loads(self._socket.recv())
            if message["parent_header"].get("msg_id") != asked:
                continue
            kind, content = message["header"]["msg_type"], message["content"]
            is_replied = is_replied or kind == "execute_reply"
            is_idle = is_idle or (kind == "status" and content["execution_state"] == "idle")
            if kind == "update_display_data":
                known = content["transient"]["display_id"]
                for output in outputs:
                    if output.get("transient", {}).get("display_id") == known:
                        output.update(content)
            elif kind in ("stream", "display_data", "execute_result", "error"):
                outputs.append({"kind": kind, **content})
            if see is not None and kind in ("stream", "display_data", "update_display_data"):
                see({"kind": kind, **content})
        return outputs

    def echo(self) -> float:
        """The seconds from a small request to the kernel's first word on it."""
        begun, heard = time.monotonic(), list[float]()
        asked, left = self.begin("0"), {"execute_reply", "idle"}
        while left:
            message = json.loads(self._socket.recv())
            if message["parent_header"].get("msg_id") == asked:
                heard.append(time.monotonic() - begun)
                left -= {message["header"]["msg_type"], message["content"].get("execution_state")}
        return heard[0]

    def interrupt(self) -> None:
        self._server.call("POST", f"api/kernels/{self.id}/interrupt", {})

    def close(self) -> None:
        self._socket.close()


def text_of(outputs: Outputs) -> str:
    """What was printed and what was raised."""
    return "".join(output.get("text", "") or "\n".join(output.get("traceback", [])) for output in outputs)


def until(look: Callable[[], Any], why: str, seconds: float = SECONDS) -> Any:
    """What `look` gives once it is something."""
    end = time.monotonic() + seconds
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < end, why
        time.sleep(0.05)


def asks(text: str) -> str:
    """Where it is said to run, of what WHERE has printed."""
    assert text.startswith("asks: "), text
    return text.removeprefix("asks:").strip()
