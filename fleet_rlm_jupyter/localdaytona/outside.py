"""Clones a repository for a sandbox that has no network: the server fetches it, git inside takes it from there.

Only who holds the server's key can ask for that, never code in a sandbox. Nothing of the repository is checked out or
run outside, and a password stays outside.
"""

import asyncio
import contextlib
import os
import shutil
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Mapping

from fleet_rlm_jupyter.localdaytona.folders import SYSTEM_PATH
from fleet_rlm_jupyter.localdaytona.repositories import git_problem, login
from fleet_rlm_jupyter.localdaytona.wire import ApiError

_FETCH_SECONDS = 600
_PIECE = 256 * 1024


class OutsideGit:
    """Works in the temporary folder of the server, as the user that code in sandboxes is, if that is another one."""

    def __init__(self, base: str, owner: int | None) -> None:
        self._base = base
        self._owner = owner

    def is_for(self, wanted: Mapping[str, object]) -> bool:
        return str(wanted.get("url")).startswith(("http://", "https://"))

    @contextlib.asynccontextmanager
    async def fetched(self, wanted: Mapping[str, object]) -> AsyncGenerator[AsyncIterator[bytes], None]:
        """A tar of the bare repository; raises ApiError in the words of Daytona's daemon."""
        folder = tempfile.mkdtemp(prefix="fetch-", dir=self._base)
        try:
            if self._owner is not None:
                os.chown(folder, self._owner, self._owner)
            depth, commit = wanted.get("depth"), wanted.get("commit_id")
            options = [f"--depth={depth:d}", "--no-single-branch"] if isinstance(depth, int) and not commit else []
            env = {
                "PATH": SYSTEM_PATH,
                "HOME": folder,
                "LC_ALL": "C.UTF-8",
                "GIT_CONFIG_NOSYSTEM": "1",
                "GIT_TERMINAL_PROMPT": "0",
                "GIT_ALLOW_PROTOCOL": "http:https",
                **login(wanted),
                **({"GIT_SSL_NO_VERIFY": "1"} if wanted.get("insecure_skip_tls") else {}),
            }
            url = str(wanted["url"])
            argv = ["git", "clone", "--quiet", "--bare", *options, "--", url, f"{folder}/fetched.git"]
            git = await self._start(argv, folder, env)
            said = await _to_end(git)
            if git.returncode:
                raise git_problem("clone", said)
            tar = await self._start(["tar", "-c", "-C", folder, "fetched.git"], folder, {"PATH": SYSTEM_PATH})
            try:
                yield _pieces(tar)
            finally:
                await _stop(tar)
        finally:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    async def _start(self, argv: list[str], cwd: str, env: Mapping[str, str]) -> asyncio.subprocess.Process:
        pipe, null = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
        errors = asyncio.subprocess.STDOUT if argv[0] == "git" else null
        return await asyncio.create_subprocess_exec(
            *argv,
            cwd=cwd,
            env=env,
            stdin=null,
            stdout=pipe,
            stderr=errors,
            start_new_session=True,
            user=self._owner,
            group=self._owner,
            extra_groups=[] if self._owner is not None else None,
        )


async def _to_end(process: asyncio.subprocess.Process) -> str:
    try:
        said, _ = await asyncio.wait_for(process.communicate(), _FETCH_SECONDS)
    except TimeoutError as err:
        raise ApiError(408, "GIT_TRANSPORT_FAILED", f"git clone took more than {_FETCH_SECONDS} s") from err
    finally:
        await _stop(process)
    return said.decode("utf-8", "replace")


async def _pieces(process: asyncio.subprocess.Process) -> AsyncIterator[bytes]:
    assert process.stdout is not None
    while piece := await process.stdout.read(_PIECE):
        yield piece


async def _stop(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        if process.returncode is None:
            os.killpg(process.pid, 9)
    await process.wait()
