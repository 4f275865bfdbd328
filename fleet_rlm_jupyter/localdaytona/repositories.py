"""The routes below /git: the `git` of the sandbox, in Daytona's words."""

import os
import shutil
import tempfile
from collections.abc import Mapping

from aiohttp import web

from fleet_rlm_jupyter.localdaytona.commands import run_to_end
from fleet_rlm_jupyter.localdaytona.processes import SandboxProcesses
from fleet_rlm_jupyter.localdaytona.wire import DAEMON, ApiError, parse_object

_GIT_SECONDS = 600
_FORMAT = "--format=%H%n%an%n%ae%n%aI%n%B"
_STATES = {
    ".": "Unmodified",
    "?": "Untracked",
    "M": "Modified",
    "T": "Modified",
    "A": "Added",
    "D": "Deleted",
    "R": "Renamed",
    "C": "Copied",
    "U": "Updated but unmerged",
}
# What git says, and how Daytona's daemon answers then; the first that fits.
_PROBLEMS = (
    ("authentication failed", 401, "GIT_AUTH_FAILED"),
    ("could not read username", 401, "GIT_AUTH_FAILED"),
    ("does not appear to be a git repository", 404, "GIT_REPO_NOT_FOUND"),
    ("not a git repository", 404, "GIT_REPO_NOT_FOUND"),
    ("repository not found", 404, "GIT_REPO_NOT_FOUND"),
    ("does not exist", 404, "GIT_REPO_NOT_FOUND"),
    ("remote branch", 404, "GIT_BRANCH_NOT_FOUND"),
    ("did not match any file", 404, "GIT_BRANCH_NOT_FOUND"),
    ("invalid reference", 404, "GIT_BRANCH_NOT_FOUND"),
    ("not found", 404, "GIT_BRANCH_NOT_FOUND"),
    ("already exists", 409, "GIT_BRANCH_EXISTS"),
    ("would be overwritten", 409, "GIT_DIRTY_WORKTREE"),
    ("conflict", 409, "GIT_MERGE_CONFLICT"),
    ("[remote rejected]", 403, "GIT_REMOTE_REJECTED"),
    ("[rejected]", 409, "GIT_PUSH_REJECTED"),
    ("unable to access", 500, "GIT_TRANSPORT_FAILED"),
    ("could not resolve", 500, "GIT_TRANSPORT_FAILED"),
)


class GitRoutes:
    """Paths are of the sandbox. A password goes to git by its environment, and is kept nowhere."""

    def __init__(self, processes: SandboxProcesses) -> None:
        self._processes = processes

    def add_routes(self, app: web.Application) -> None:
        for name, work in (
            ("init", self._init),
            ("clone", self._clone),
            ("clone-fetched", self._clone_fetched),
            ("add", self._add),
            ("commit", self._commit),
            ("checkout", self._checkout),
            ("branches", self._make_branch),
            ("remotes", self._add_remote),
            ("pull", self._pull),
            ("push", self._push),
            ("reset", self._reset),
            ("restore", self._restore),
            ("config", self._set_config),
            ("config/user", self._set_user),
        ):
            app.router.add_post(f"/git/{name}", work)
        app.router.add_delete("/git/branches", self._delete_branch)
        app.router.add_get("/git/branches", self._branches)
        app.router.add_get("/git/remotes", self._remotes)
        app.router.add_get("/git/status", self._status)
        app.router.add_get("/git/history", self._history)
        app.router.add_get("/git/config", self._get_config)

    async def _init(self, request: web.Request) -> web.Response:
        body = parse_object(await request.read())
        path = self._folder(body)
        options = ["--bare"] if body.get("bare") else []
        options += [f"--initial-branch={_text(body, 'initial_branch')}"] if body.get("initial_branch") else []
        os.makedirs(path, exist_ok=True)
        await self._git(path, "init", *options)
        return web.Response(status=201)

    async def _clone(self, request: web.Request) -> web.Response:
        await self._clone_from(parse_object(await request.read()))
        return web.Response()

    async def _clone_fetched(self, request: web.Request) -> web.Response:
        """The inner half of `outside`: the body is a tar of the bare repository, `wanted` what was asked for."""
        wanted = parse_object(request.query.get("wanted", "").encode())
        folder = tempfile.mkdtemp(prefix="clone-", dir=self._processes.tmp)
        try:
            with open(f"{folder}/tar", "wb", buffering=0) as file:
                async for piece in request.content.iter_any():
                    file.write(piece)
            code, said = await run_to_end(self._processes, ["tar", "-xf", "tar"], folder, {}, _GIT_SECONDS)
            if code:
                raise ApiError(500, "GIT_TRANSPORT_FAILED", f"what was fetched cannot be unpacked: {said}")
            url = _text(wanted, "url")
            await self._clone_from({**wanted, "url": f"file://{folder}/fetched.git"})
            await self._git(self._folder(wanted), "remote", "set-url", "origin", url)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return web.Response()

    async def _clone_from(self, body: Mapping[str, object]) -> None:
        path, url = self._folder(body), _text(body, "url")
        parent = os.path.dirname(path)
        try:
            os.makedirs(parent, exist_ok=True)
        except OSError as err:
            raise ApiError(400, "INVALID_FILE_PATH", f"{parent}: {err.strerror}") from err
        options = [f"--branch={_text(body, 'branch')}"] if body.get("branch") else []
        commit, depth = body.get("commit_id"), body.get("depth")
        options += [f"--depth={depth:d}"] if isinstance(depth, int) and depth > 0 and not commit else []
        envs = {"GIT_SSL_NO_VERIFY": "1"} if body.get("insecure_skip_tls") else {}
        await self._git(parent, "clone", *options, "--", url, path, secret=body, envs=envs)
        if commit:
            await self._git(path, "checkout", "--detach", _text(body, "commit_id"), "--")

    async def _add(self, request: web.Request) -> web.Response:
        body = parse_object(await request.read())
        await self._git(self._folder(body), "add", "--", *_texts(body, "files"))
        return web.Response()

    async def _commit(self, request: web.Request) -> web.Response:
        body = parse_object(await request.read())
        path, name, email = self._folder(body), _text(body, "author"), _text(body, "email")
        who = {
            f"GIT_{role}_{kind}": value
            for role in ("AUTHOR", "COMMITTER")
            for kind, value in (("NAME", name), ("EMAIL", email))
        }
        options = ["--allow-empty"] if body.get("allow_empty") else []
        await self._git(path, "commit", *options, f"--message={_text(body, 'message')}", envs=who)
        return web.json_response({"hash": (await self._git(path, "rev-parse", "HEAD")).strip()})

    async def _checkout(self, request: web.Request) -> web.Response:
        body = parse_object(await request.read())
        await self._git(self._folder(body), "checkout", _text(body, "branch"), "--")
        return web.Response()

    async def _make_branch(self, request: web.Request) -> web.Response:
        body = parse_object(await request.read())
        await self._git(self._folder(body), "checkout", "-b", _text(body, "name"), "--")
        return web.Response(status=201)

    async def _delete_branch(self, request: web.Request) -> web.Response:
        body = parse_object(await request.read())
        await self._git(self._folder(body), "branch", "-D", "--", _text(body, "name"))
        return web.Response(status=204)

    async def _branches(self, request: web.Request) -> web.Response:
        path = self._folder(request.query)
        listed = await self._git(path, "for-each-ref", "--format=%(refname:short)", "refs/heads")
        current = await self._git(path, "branch", "--show-current")
        return web.json_response({"branches": listed.split("\n")[:-1], "current": current.strip()})

    async def _add_remote(self, request: web.Request) -> web.Response:
        body = parse_object(await request.read())
        path, name, url = self._folder(body), _text(body, "name"), _text(body, "url")
        known = (await self._git(path, "remote")).split()
        change = "set-url" if body.get("overwrite") and name in known else "add"
        await self._git(path, "remote", change, "--", name, url)
        if body.get("fetch"):
            await self._git(path, "fetch", "--", name)
        return web.Response(status=201)

    async def _remotes(self, request: web.Request) -> web.Response:
        path = self._folder(request.query)
        names = (await self._git(path, "remote")).split()
        found = [{"name": one, "url": (await self._git(path, "remote", "get-url", "--", one)).strip()} for one in names]
        return web.json_response({"remotes": found})

    async def _pull(self, request: web.Request) -> web.Response:
        body = parse_object(await request.read())
        which = [str(body.get("remote") or "origin"), _text(body, "branch")] if body.get("branch") else []
        await self._git(self._folder(body), "pull", "--", *which, secret=body)
        return web.Response()

    async def _push(self, request: web.Request) -> web.Response:
        body = parse_object(await request.read())
        remote = str(body.get("remote") or "origin")
        branch = _text(body, "branch") if body.get("branch") else "HEAD"
        options = ["--set-upstream"] if body.get("set_upstream") else []
        await self._git(self._folder(body), "push", *options, "--", remote, branch, secret=body)
        return web.Response()

    async def _reset(self, request: web.Request) -> web.Response:
        body = parse_object(await request.read())
        mode, target = str(body.get("mode") or "mixed"), str(body.get("target") or "HEAD")
        if mode not in ("soft", "mixed", "hard", "merge", "keep"):
            raise ApiError(400, "BAD_REQUEST", f"there is no mode {mode} of reset")
        if files := _texts(body, "files"):
            await self._git(self._folder(body), "reset", _revision(target), "--", *files)
        else:
            await self._git(self._folder(body), "reset", f"--{mode}", _revision(target), "--")
        return web.Response()

    async def _restore(self, request: web.Request) -> web.Response:
        body = parse_object(await request.read())
        options = [f"--{name}" for name in ("staged", "worktree") if body.get(name)]
        options += [f"--source={_text(body, 'source')}"] if body.get("source") else []
        await self._git(self._folder(body), "restore", *options, "--", *_texts(body, "files"))
        return web.Response()

    async def _set_config(self, request: web.Request) -> web.Response:
        body = parse_object(await request.read())
        path, scope = self._scope(body)
        await self._git(path, "config", scope, _text(body, "key"), _text(body, "value"))
        return web.Response()

    async def _set_user(self, request: web.Request) -> web.Response:
        body = parse_object(await request.read())
        path, scope = self._scope(body)
        for key in ("name", "email"):
            if body.get(key):
                await self._git(path, "config", scope, f"user.{key}", _text(body, key))
        return web.Response()

    async def _get_config(self, request: web.Request) -> web.Response:
        path, scope = self._scope(request.query)
        code, said = await self._try(path, ["config", scope, "--get", _text(request.query, "key")], {})
        return web.json_response({"value": None if code else said.rstrip("\n")})

    async def _status(self, request: web.Request) -> web.Response:
        said = await self._git(self._folder(request.query), "status", "--porcelain=v2", "--branch", "-z")
        return web.json_response(status_of(said))

    async def _history(self, request: web.Request) -> web.Response:
        said = await self._git(self._folder(request.query), "log", "-z", _FORMAT, "--max-count=1000")
        found: list[dict[str, str]] = []
        for entry in filter(None, said.split("\0")):
            commit, name, email, moment, message = entry.split("\n", 4)
            found.append({"hash": commit, "author": name, "email": email, "timestamp": moment, "message": message})
        return web.json_response(found)

    def _folder(self, given: Mapping[str, object]) -> str:
        return self._processes.resolve(_text(given, "path"))

    def _scope(self, given: Mapping[str, object]) -> tuple[str, str]:
        scope = str(given.get("scope") or "global")
        if scope not in ("global", "local"):
            raise ApiError(400, "BAD_REQUEST", f"the scope {scope} cannot be changed in a sandbox")
        return (self._folder(given) if scope == "local" else self._processes.home), f"--{scope}"

    async def _git(
        self,
        cwd: str,
        *arguments: str,
        secret: Mapping[str, object] | None = None,
        envs: Mapping[str, str] | None = None,
    ) -> str:
        """What git prints; raises ApiError in Daytona's words when it fails."""
        code, said = await self._try(cwd, list(arguments), {**(envs or {}), **login(secret or {})})
        if code == 0:
            return said
        if code == -1:
            raise ApiError(404, "GIT_REPO_NOT_FOUND", f"git {arguments[0]}: {said.strip()}")
        raise git_problem(arguments[0], said)

    async def _try(self, cwd: str, arguments: list[str], envs: Mapping[str, str]) -> tuple[int, str]:
        quiet = {"GIT_TERMINAL_PROMPT": "0", "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C.UTF-8"}
        return await run_to_end(self._processes, ["git", *arguments], cwd, {**quiet, **envs}, _GIT_SECONDS)


def git_problem(verb: str, said: str) -> ApiError:
    """What Daytona's daemon answers where git says this."""
    low = said.lower()
    status, name = next(((status, name) for text, status, name in _PROBLEMS if text in low), (400, "BAD_REQUEST"))
    return ApiError(status, name, f"git {verb}: {said.strip()[-2000:]}", source=DAEMON)


def status_of(said: str) -> dict[str, object]:
    """Daytona's `GitStatus` from what `git status --porcelain=v2 --branch -z` says."""
    branch, upstream, ahead, behind, is_published = "", "", 0, 0, False
    files: list[dict[str, str]] = []
    fields = iter(said.split("\0"))
    for field in fields:
        kind, _, rest = field.partition(" ")
        match kind:
            case "#":
                name, _, value = rest.partition(" ")
                if name == "branch.head":
                    branch = value
                elif name == "branch.upstream":
                    upstream = value
                elif name == "branch.ab":
                    is_published = True
                    ahead, behind = (abs(int(one)) for one in value.split())
            case "?":
                files.append(_file(rest, "?", "?"))
            case "1":
                files.append(_file(rest.split(" ", 7)[7], rest[0], rest[1]))
            case "2":
                files.append(_file(rest.split(" ", 8)[8], rest[0], rest[1], next(fields)))
            case "u":
                files.append(_file(rest.split(" ", 9)[9], "U", "U"))
            case _:
                pass
    is_detached = branch == "(detached)"
    return {
        "currentBranch": "" if is_detached else branch,
        "detached": is_detached,
        "upstream": upstream,
        "branchPublished": is_published,
        "ahead": ahead,
        "behind": behind,
        "fileStatus": files,
    }


def _file(name: str, staging: str, worktree: str, extra: str = "") -> dict[str, str]:
    return {"name": name, "staging": _STATES[staging], "worktree": _STATES[worktree], "extra": extra}


def login(given: Mapping[str, object]) -> dict[str, str]:
    """Variables by which git asks no file and no terminal for a password, and writes it nowhere."""
    name, password = given.get("username"), given.get("password")
    if not isinstance(password, str) or not password:
        return {}
    return {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "credential.helper",
        "GIT_CONFIG_VALUE_0": '!f() { echo "username=$GIT_LOGIN_NAME"; echo "password=$GIT_LOGIN_WORD"; }; f',
        "GIT_LOGIN_NAME": name if isinstance(name, str) and name else "git",
        "GIT_LOGIN_WORD": password,
    }


def _text(given: Mapping[str, object], name: str) -> str:
    value = given.get(name)
    if not isinstance(value, str) or not value or "\0" in value:
        raise ApiError(400, "BAD_REQUEST", f"{name} must be a text")
    if name != "message" and value.startswith("-"):
        raise ApiError(400, "BAD_REQUEST", f"{name} must not begin with a dash")
    return value


def _revision(text: str) -> str:
    return _text({"target": text}, "target")


def _texts(given: Mapping[str, object], name: str) -> list[str]:
    values = given.get(name) or []
    if not isinstance(values, list) or not all(isinstance(one, str) and "\0" not in one for one in values):
        raise ApiError(400, "BAD_REQUEST", f"{name} must be a list of texts")
    return values
