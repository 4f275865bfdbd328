"""Starts real local Daytona servers, and runs work on them with the real SDK; used by the contract tests."""

import asyncio
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from daytona import AsyncDaytona, Daytona, DaytonaConfig

os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1,localhost"

KEY = "test-key-0123456789abcdef"
SECONDS = 30
_MODULE = [sys.executable, "-m", "fleet_rlm_jupyter.localdaytona"]


@dataclass
class Server:
    process: "subprocess.Popen[bytes]"
    ready: dict[str, Any]
    data: Path

    @property
    def url(self) -> str:
        return self.ready["url"]

    @property
    def level(self) -> str:
        return self.ready["level"]

    def config(self, key: str = KEY) -> DaytonaConfig:
        return DaytonaConfig(api_key=key, api_url=self.url, target="local")

    def fault(self, name: str, **more: object) -> dict[str, Any]:
        """Make something go wrong from now on; see fleet_rlm_jupyter/localdaytona/faults.py."""
        return self.call("POST", "/api/faults", json.dumps({"fault": name, **more}).encode())[1]

    def clear_faults(self) -> None:
        self.call("DELETE", "/api/faults")

    def call(self, method: str, path: str, body: bytes = b"", key: str = KEY) -> tuple[int, dict[str, Any]]:
        """A request without the SDK, for what the SDK would never send."""
        url = self.url.removesuffix("/api") + path
        request = urllib.request.Request(url, body or None, method=method, headers={"Authorization": f"Bearer {key}"})
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=SECONDS) as answer:
                return answer.status, json.loads(answer.read() or b"{}")
        except urllib.error.HTTPError as err:
            return err.code, json.loads(err.read())

    def end(self) -> int:
        self.process.stdin.close()
        return self.process.wait(SECONDS)


def launch(*options: str, env: dict[str, str] | None = None) -> "subprocess.Popen[bytes]":
    """A server process that ends with us; its first line on stdout says how it went."""
    return subprocess.Popen(
        [*_MODULE, "--die-with-parent", *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "FLEET_LOCALDAYTONA_KEY": KEY, **(env or {})},
    )


def start(data: Path, level: str, *options: str, env: dict[str, str] | None = None) -> Server:
    process = launch("--level", level, "--allow-unisolated", "--data", str(data), *options, env=env)
    ready = json.loads(process.stdout.readline())
    if "error" in ready:
        pytest.skip(f"{level} is not offered here: {ready['error']['text']}")
    return Server(process, ready, data)


def until(true: Callable[[], object], seconds: float = SECONDS) -> None:
    """Return when `true()` holds; fail when it does not within `seconds`."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not become true in time"
        time.sleep(0.01)


def with_client(server: Server, work: Callable[[AsyncDaytona], Coroutine[Any, Any, Any]]) -> Any:
    """Run `work` with a real AsyncDaytona on a loop of its own."""

    async def main() -> Any:
        async with AsyncDaytona(server.config()) as client:
            return await asyncio.wait_for(work(client), 2 * SECONDS)

    return asyncio.run(main())


def live_sandboxes(server: Server) -> list[dict[str, str]]:
    """The labels of every sandbox of the server."""
    return [dict(one.labels) for one in Daytona(server.config()).list()]
