"""Repositories are fetched on this side, by git, so that no sandbox needs a network or sees a token."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from fleet_rlm_jupyter.domain.errors import BadRequest, BadSettings, BadUrl
from fleet_rlm_jupyter.domain.ports import Workspace
from fleet_rlm_jupyter.domain.staging import FOLDER
from fleet_rlm_jupyter.engine.fetch import PORTS, addresses, is_public, shown
from fleet_rlm_jupyter.engine.shelf import Shelf, Taken
from fleet_rlm_jupyter.settings import Settings, child_environment

STAGED = FOLDER.rpartition("/")[2]
"""The name beside those of repositories that staged files have."""

DAY_SECONDS = 24 * 3600

ABOUT = "see docs/how-to/repositories.md"
_SCHEMES = ("https", "http", "ssh", "file")
_PORTS = {**PORTS, "ssh": 22}
_SHA = re.compile(r"[0-9a-f]{7,64}\Z")
_HOST = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]*\Z|[0-9a-fA-F:]+\Z")
_BAD_IN_REF = re.compile(r"[\s~^:?*\[\\\x00-\x1f\x7f]|\A-|\.\.|@\{")
_NO_ACCESS = (
    "could not read Username",
    "could not read Password",
    "Authentication failed",
    "Permission denied",
    " 403",
)
_HELPER = '!f() { test "$1" = get && printf "username=%s\\npassword=%s\\n" "$FLEET_GIT_USER" "$FLEET_GIT_TOKEN"; }; f'
"""A credential helper that reads the token from git's environment: neither its text nor any file has the token."""
_USERS = {"gitlab": "oauth2", "bitbucket": "x-token-auth"}
_GITHUB_USER = "x-access-token"
_AS_COMMITTED = "* -export-ignore -export-subst -filter -ident -text\n"


class Repositories:
    """Bare repositories below `folder`, one for each URL, that only grow by what was asked for.

    Several threads and processes may share the folder. What a Workspace is made of stays until that is released.
    """

    def __init__(self, folder: Path) -> None:
        self._shelf = Shelf(folder)

    def prune(self, settings: Settings) -> int:
        """Forget what is too old or too much (`store.retention_days`, `workspace.cache_mb`); returns how many."""
        days = settings.store.retention_days
        before = 0 if days is None else time.time() - days * DAY_SECONDS
        return self._shelf.prune(settings.workspace.cache_mb * 1_000_000, before)

    def tree(self, url: str, ref: str, settings: Settings) -> Workspace:
        """The files of `url` at `ref`: a branch, tag or commit id; the default branch where empty.

        Raises BadRequest for a URL or ref that cannot be, is not there or may not be read, and for a tree larger than
        `context` allows; BadUrl for a host that is not public; BadSettings for a token without its host.
        """
        address = _checked(url)
        if ref and _BAD_IN_REF.search(ref):
            raise BadRequest(f"{ref!r} is no branch, tag or commit id", "name one as `git ls-remote` shows it")
        git = _Git(url, address, settings)
        self.prune(settings)  # before: one that is asked for all the time grows too, and then begins anew
        taken = self._shelf.take(hashlib.sha256(url.encode()).hexdigest()[:24])
        try:
            return self._workspace(git, taken, ref)
        except BaseException:
            taken.release()
            raise

    def _workspace(self, git: _Git, taken: Taken, ref: str) -> Workspace:
        bare, url = taken.folder, git.url
        with taken.alone():
            if not (bare / "HEAD").exists():
                bare.mkdir(parents=True, exist_ok=True, mode=0o700)
                git.run("init", "--quiet", "--bare", "--template=", str(bare))
                (bare / "info").mkdir(exist_ok=True)
            attributes = bare / "info" / "attributes"
            new = attributes.with_suffix(".new")
            new.write_text(_AS_COMMITTED, encoding="utf-8")
            new.replace(attributes)  # in one step: an archive that is made meanwhile would lack what it does not say
            commit = _fetched(git, bare, ref)
        self.prune(git.settings)
        files = _counted(git, bare, commit, git.settings)

        def pack(path: Path) -> None:
            git.run(
                "archive", "--format=tar.gz", "-1", "-o", str(path), commit, folder=taken.folder
            )  # and so `taken` lives

        digest = hashlib.sha256(f"{url}\0{commit}".encode()).hexdigest()
        return Workspace(_name_of(git.address), shown(url), ref, commit, digest, files, pack, taken.release)


@dataclass(frozen=True, slots=True)
class _Git:
    """git for one URL, with none of the user's own configuration, which may hold credentials."""

    url: str
    address: SplitResult
    settings: Settings

    def run(self, *arguments: str, folder: Path | None = None, remote: bool = False) -> str:
        """What it prints. Raises BadRequest, in git's last words."""
        where = [] if folder is None else [f"--git-dir={folder}"]
        try:
            process = subprocess.Popen(
                ["git", *where, *arguments],
                env=_environment(self._config() if remote else {}, self._secret() if remote else {}),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as err:
            raise BadRequest(f"git cannot be run: {err.strerror}", "check the installation of git") from err
        seconds = self.settings.workspace.clone_seconds
        try:
            out, said = process.communicate(timeout=seconds)
        except BaseException as err:
            # Its helpers are processes of their own.
            with contextlib.suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            if isinstance(err, subprocess.TimeoutExpired):
                text = f"{shown(self.url)} took more than {seconds:g} seconds"
                raise BadRequest(text, "raise workspace.clone_seconds") from None
            raise
        if process.returncode != 0:
            raise self._refused(said.decode("utf-8", "replace"))
        return out.decode("utf-8", "replace")

    def _config(self) -> dict[str, str]:
        """What git is told beside its arguments."""
        found = {"http.followRedirects": "false", "http.lowSpeedLimit": "1000", "http.lowSpeedTime": "60"}
        if self.address.scheme != "file" and not self.settings.context.allow_private_urls:
            found |= self._pinned()
        if self._token() is not None:
            found["credential.helper"] = _HELPER
        return found

    def _pinned(self) -> dict[str, str]:
        host, port = self.address.hostname or "", self.address.port or _PORTS[self.address.scheme]
        try:
            at = list(dict.fromkeys(addresses(host, port)))
        except (OSError, UnicodeError):
            raise BadUrl(f"the host {host} is not known", "check the URL and the connection") from None
        if not all(is_public(one) for one in at):
            raise BadUrl(
                f"{host} is not on the public Internet: {', '.join(at)[:200]}",
                "context.allow_private_urls allows such hosts",
            )
        # Else the name could mean another address when git asks.
        return {"http.curloptResolve": f"{host}:{port}:{','.join(at)}"} if self.address.scheme != "ssh" else {}

    def _token(self) -> str | None:
        """The token if it is meant for this host, and the way there is not open to others."""
        given, host = self.settings.workspace.token, self.settings.workspace.token_host
        if given is None:
            return None
        if not host:
            raise BadSettings(
                "workspace.token is set but workspace.token_host is not", "name the one host that may see it"
            )
        port = f":{self.address.port}" if self.address.port else ""
        is_meant = f"{self.address.hostname}{port}".lower() == host.lower()
        is_closed = self.address.scheme == "https" or self.address.hostname in ("127.0.0.1", "localhost", "::1")
        return given.get_secret_value() if is_meant and is_closed and self.address.scheme != "ssh" else None

    def _secret(self) -> dict[str, str]:
        """What the credential helper reads."""
        token = self._token()
        if token is None:
            return {}
        user = self.settings.workspace.token_user or token_user_of(self.address.hostname or "")
        return {"FLEET_GIT_TOKEN": token, "FLEET_GIT_USER": user}

    def _refused(self, said: str) -> BadRequest:
        lines = [line for line in said.splitlines() if line.strip()] or ["git gave no reason"]
        last = next((line for line in lines if line.startswith(("fatal:", "error:", "remote:"))), lines[-1])
        text = f"{shown(self.url)} cannot be read: {last.partition(': ')[2] or last}"[:400]
        if any(mark in said for mark in _NO_ACCESS):
            return BadRequest(text, f"a private one needs workspace.token and workspace.token_host; {ABOUT}")
        return BadRequest(text, "check the URL, also that it leads on to no other one")


def token_user_of(host: str) -> str:
    """The user name that goes with a token: GitLab's and Bitbucket's where the host's name says so, else GitHub's."""
    parts = host.lower().split(".")
    return next((user for name, user in _USERS.items() if any(name in part for part in parts)), _GITHUB_USER)


def _environment(config: Mapping[str, str], secret: Mapping[str, str]) -> dict[str, str]:
    """This process's for git: without secrets, prompts and configuration, but `config` and what reads the token."""
    more = {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull, "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
    more |= {"GIT_ALLOW_PROTOCOL": "https:http:ssh:file", "GIT_SSH_COMMAND": "ssh -oBatchMode=yes"}
    for number, (name, value) in enumerate(config.items()):
        more |= {f"GIT_CONFIG_KEY_{number}": name, f"GIT_CONFIG_VALUE_{number}": value}
    more |= {"GIT_CONFIG_COUNT": str(len(config)), **secret}
    kept = {name: value for name, value in child_environment().items() if not name.startswith(("GIT_", "SSH_ASKPASS"))}
    return {**kept, **more}


def _checked(url: str) -> SplitResult:
    """Raises BadRequest for what is no URL of a repository that we fetch."""
    try:
        address = urlsplit(url)
        _ = address.port
    except ValueError as err:
        raise BadRequest(f"the URL of the repository cannot be read: {err}", ABOUT) from None
    if address.scheme not in _SCHEMES:
        raise BadRequest(
            "the URL of a repository begins with https://, http://, ssh:// or file://",
            "for user@host:path write ssh://user@host/path",
        )
    if address.password or (address.username and address.scheme != "ssh"):
        raise BadRequest(
            "the URL of the repository holds credentials",
            "take them out; a token goes into workspace.token, and its host into workspace.token_host",
        )
    if address.query or address.fragment or any(ord(letter) <= 32 for letter in url):
        raise BadRequest("the URL of a repository ends with its path", "leave out what follows it")
    if address.scheme != "file" and not _HOST.match(address.hostname or ""):
        raise BadRequest("the URL of the repository names no host", ABOUT)
    if address.scheme == "file" and address.netloc not in ("", "localhost"):
        raise BadRequest("a file:// URL names no host", "write file:///folder")
    if shutil.which("git") is None:
        raise BadRequest("git is not installed here", "install it, or pass the files with --context")
    return address


def refuse_outside(url: str, roots: tuple[Path, ...]) -> None:
    """Raise BadRequest for a file:// URL that does not lie in one of `roots`, links followed."""
    address = urlsplit(url)
    if address.scheme != "file":
        return
    found = Path(unquote(address.path)).resolve()
    if not any(found.is_relative_to(root) for root in roots):
        raise BadRequest(
            f"{shown(url)} is in none of the folders that repositories may be read from",
            "add its folder to workspace.roots",
        )


def _fetched(git: _Git, bare: Path, ref: str) -> str:
    """The id of the commit that `ref` stands for at the remote by now; its files are in `bare`."""
    refs = {name: sha for sha, _, name in (line.partition("\t") for line in _listed(git))}
    names = ("HEAD",) if not ref else (f"refs/heads/{ref}", f"refs/tags/{ref}", ref if ref.startswith("refs/") else "")
    wanted = next((refs[name] for name in names if name in refs), None)
    if wanted is None and not _SHA.match(ref.lower()):
        near = ", ".join(sorted(name.split("/", 2)[2] for name in refs if name.startswith("refs/heads/"))[:10])
        known = f"its branches are {near}" if near else "it is empty"
        raise BadRequest(f"{shown(git.url)} has no branch or tag {ref or 'at all'}", known)
    sha = wanted or ref.lower()
    if (commit := _commit(git, bare, sha)) is not None and (wanted or len(sha) >= 40):
        return commit
    if wanted or len(sha) >= 40:
        # Refused for a commit that no branch begins with, and where a server is only files.
        with contextlib.suppress(BadRequest):
            _fetch(git, bare, "--depth=1", f"+{sha}:refs/fleet/{sha}")
            if (commit := _commit(git, bare, sha)) is not None:
                return commit
    is_shallow = git.run("rev-parse", "--is-shallow-repository", folder=bare).strip() == "true"
    _fetch(
        git, bare, *(["--unshallow"] if is_shallow else []), "+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*"
    )
    commit = _commit(git, bare, sha)
    if commit is None:
        raise BadRequest(
            f"{shown(git.url)} has no commit {ref}", "its branches and tags do not lead to it, or to more than one"
        )
    return commit


def _listed(git: _Git) -> list[str]:
    return git.run("ls-remote", "--quiet", git.url, remote=True).splitlines()


def _fetch(git: _Git, bare: Path, *how: str) -> None:
    options, refs = [one for one in how if one.startswith("--")], [one for one in how if not one.startswith("--")]
    quiet = ("--quiet", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules", "--no-auto-maintenance")
    git.run("fetch", *quiet, *options, git.url, *refs, folder=bare, remote=True)


def _commit(git: _Git, bare: Path, sha: str) -> str | None:
    try:
        return git.run("rev-parse", "--verify", "--quiet", f"{sha}^{{commit}}", folder=bare).strip()
    except BadRequest:
        return None


def _counted(git: _Git, bare: Path, commit: str, settings: Settings) -> int:
    """How many files the tree has. Raises BadRequest for more or larger ones than `settings` allow."""
    files = size = 0
    for entry in filter(None, git.run("ls-tree", "-r", "-l", "-z", commit, folder=bare).split("\0")):
        _, kind, _, length = entry.partition("\t")[0].split()
        if kind == "blob":
            files, size = files + 1, size + int(length)
    limits = settings.context
    if files > limits.max_files:
        raise BadRequest(f"the repository has {files:,} files", "raise context.max_files")
    if size > limits.max_mb * 1_000_000:
        raise BadRequest(f"the repository has {size / 1e6:,.0f} MB", "raise context.max_mb")
    return files


def _name_of(address: SplitResult) -> str:
    last = unquote(address.path).rstrip("/").rpartition("/")[2].removesuffix(".git")
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", last).strip(".-")[:60] or "repository"
    return f"{name}-repository" if name == STAGED else name
