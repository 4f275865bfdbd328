"""Starts the local Daytona server for this process, and ends it with this process, however that ends."""

from __future__ import annotations

import json
import secrets
import select
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

from fleet_rlm_jupyter.domain.errors import BadSettings, SandboxUnavailable
from fleet_rlm_jupyter.domain.ports import Isolation
from fleet_rlm_jupyter.sandbox.specs import NONE, refuse_impossible
from fleet_rlm_jupyter.settings import SandboxSettings, child_environment, data_folder

START_SECONDS = 30


@dataclass(slots=True)
class LocalServer:
    """A running server. `stop` ends it and its sandboxes; so does the end of our process (its stdin is our pipe)."""

    url: str
    key: str
    isolation: Isolation
    _process: subprocess.Popen[str]

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def stop(self) -> None:
        process = self._process
        if process.stdin is not None and not process.stdin.closed:
            process.stdin.close()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def start(settings: SandboxSettings, *, trusted_code: bool) -> LocalServer:
    """Start a server on a free loopback port with a random key.

    `trusted_code` allows level L1 for code that we wrote. Raises BadSettings when no isolation is to be had and none is
    allowed, SandboxUnavailable when the server cannot start.
    """
    refuse_impossible(settings, is_remote=False)
    key = secrets.token_hex(32)
    command = [sys.executable, "-m", "fleet_rlm_jupyter.localdaytona", "--die-with-parent", "--level", settings.level]
    command += ["--memory-mb", str(settings.memory_mb)]
    if settings.volume != NONE:
        command += ["--data", str(data_folder())]
    if trusted_code or settings.allow_unisolated:
        command.append("--allow-unisolated")
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=child_environment(FLEET_LOCALDAYTONA_KEY=key),
        start_new_session=True,  # a Ctrl-C in the terminal is ours to handle, not the server's
    )
    said = _first_line(process)
    if "error" in said:
        process.wait(10)
        raise _refused(said["error"])
    isolation = Isolation(said["level"], said["label"], said.get("reason", ""))
    return LocalServer(said["url"], key, isolation, process)


def _first_line(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], START_SECONDS)
    line = process.stdout.readline() if ready else ""
    try:
        return json.loads(line)
    except ValueError:
        process.kill()
        how = f"ended at once with code {process.wait()}" if ready else f"did not start within {START_SECONDS} seconds"
        raise SandboxUnavailable(
            f"the local sandbox server {how}", "run `fleet localdaytona --port 0 --key test-test-test-test` to see why"
        ) from None


def _refused(error: dict[str, str]) -> BadSettings | SandboxUnavailable:
    text = f"no sandbox can be had here: {error['text']}"
    if error["code"] == "not_isolated":
        return BadSettings(
            text, "set sandbox.allow_unisolated to let model-written code run as you, or set DAYTONA_API_KEY"
        )
    return SandboxUnavailable(text, error["hint"])
