"""Questions about repositories: fetched here, put into the session's sandbox, brought up to date; tokens stay here."""

from __future__ import annotations

import base64
import http.server
import os
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from jupyter_process import wait_until
from pydantic import ValidationError

from fleet_rlm_jupyter.domain.errors import BadRequest, BadSettings, BadUrl
from fleet_rlm_jupyter.domain.events import RunStarted, SandboxChanged
from fleet_rlm_jupyter.engine.repositories import Repositories, token_user_of
from fleet_rlm_jupyter.sandbox.daytona import DaytonaSandboxes
from fleet_rlm_jupyter.settings import Settings
from fleet_rlm_jupyter.testing import ScriptedEngine, code, scripted_models
from fleet_rlm_jupyter.workbench import Question, Workbench

TOKEN = "tok-6f1c8a52e0d94b7788"
PERSON = ("-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "init.defaultBranch=main")


class Upstream:
    """A repository with a work tree."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        self.git("init", "--quiet")

    @property
    def url(self) -> str:
        return f"file://{self.folder}"

    def git(self, *arguments: str) -> str:
        done = subprocess.run(["git", *PERSON, *arguments], cwd=self.folder, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    def commit(self, files: dict[str, str | None]) -> str:
        for path, text in files.items():
            full = self.folder / path
            if text is None:
                full.unlink()
            else:
                full.parent.mkdir(parents=True, exist_ok=True)
                full.write_text(text)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", "change")
        return self.git("rev-parse", "HEAD")


@pytest.fixture
def upstream(tmp_path):
    made = Upstream(tmp_path / "code" / "tool")
    made.first = made.commit({"a.txt": "one", "deep/b.txt": "two", ".gitattributes": "a.txt export-ignore\n"})
    made.git("tag", "-a", "v1", "-m", "first")
    made.git("checkout", "--quiet", "-b", "feature/with/slashes")
    made.second = made.commit({"a.txt": "ONE", "deep/b.txt": None, "c.txt": "three"})
    made.git("checkout", "--quiet", "main")
    return made


def settings_for(tmp_path, **more) -> Settings:
    return Settings.model_validate(
        {
            "store": {"url": f"sqlite:///{tmp_path}/data/fleet.db"},
            "sandbox": {"allow_unisolated": True},
            "workspace": {"roots": [str(tmp_path)], **more.pop("workspace", {})},
            **more,
        }
    )


@pytest.fixture
def ask(tmp_path) -> Iterator[object]:
    """Asks with one cell of code; gives what the cell printed, and the run."""
    benches = []

    def work(cell: str, question: Question, settings: Settings | None = None, session: str | None = None):
        chosen = settings or settings_for(tmp_path)
        if not benches:
            engine = ScriptedEngine(lambda prompt: code(benches[0][1]))
            benches.append([Workbench(chosen, DaytonaSandboxes(chosen), scripted_models(engine)), cell, engine])
        benches[0][1] = cell
        live = benches[0][0].ask(question)
        return live.result(60), [event.fact for event in live.trace.events], benches[0][2]

    yield work
    for bench, *_ in benches:
        bench.close()


LOOK = """
import os
found = {}
for here, _, names in os.walk("workspace/tool"):
    for name in names:
        path = os.path.join(here, name)
        found[os.path.relpath(path, "workspace/tool")] = open(path).read()
SUBMIT(answer=repr(sorted(found.items())))
"""


def place_of(facts):
    return next(fact.workspace for fact in facts if isinstance(fact, SandboxChanged) and fact.workspace)


def test_the_sandbox_holds_the_files_of_the_branch_and_the_run_says_where(ask, upstream):
    ended, facts, engine = ask(LOOK, Question("?", repo_url=upstream.url))
    assert ended.status == "done", ended.error
    assert "('a.txt', 'one')" in ended.answer
    assert "('deep/b.txt', 'two')" in ended.answer
    assert ".git/" not in ended.answer
    place = place_of(facts)
    assert (place.path, place.state, place.commit) == ("workspace/tool", "created", upstream.first)
    started = next(fact for fact in facts if isinstance(fact, RunStarted))
    assert f"HEAD at {upstream.first[:12]} in workspace/tool" in started.note
    assert "folder workspace/tool of the sandbox" in engine.prompts[0]


def test_the_same_again_sends_nothing_and_another_ref_is_brought_about_in_place(ask, upstream, monkeypatch):
    packed = []
    tree = Repositories.tree

    def counted(self, *given):
        found = tree(self, *given)
        pack = found.pack
        object.__setattr__(found, "pack", lambda path: (packed.append(path), pack(path)))
        return found

    monkeypatch.setattr(Repositories, "tree", counted)
    _, first, _ = ask(
        "open('workspace/tool/mine.txt', 'w').write('kept')\nSUBMIT(answer='x')", Question("?", repo_url=upstream.url)
    )
    _, again, _ = ask(LOOK, Question("?", repo_url=upstream.url))
    assert (place_of(first).state, place_of(again).state, len(packed)) == ("created", "reused", 1)
    ended, other, _ = ask(LOOK, Question("?", repo_url=upstream.url, repo_ref="feature/with/slashes"))
    assert (place_of(other).state, place_of(other).commit) == ("reconciled", upstream.second)
    assert "('a.txt', 'ONE')" in ended.answer
    assert "('c.txt', 'three')" in ended.answer
    assert "deep/b.txt" not in ended.answer
    assert "('mine.txt', 'kept')" in ended.answer


def test_a_link_that_code_put_in_the_way_is_not_written_through(ask, upstream):
    cell = """
import os
os.makedirs("elsewhere", exist_ok=True)
open("elsewhere/a.txt", "w").write("mine")
os.unlink("workspace/tool/a.txt"); os.symlink("../../elsewhere/a.txt", "workspace/tool/a.txt")
SUBMIT(answer="x")
"""
    ask(cell, Question("?", repo_url=upstream.url))
    ended, _, _ = ask(
        "SUBMIT(answer=open('elsewhere/a.txt').read() + open('workspace/tool/a.txt').read())",
        Question("?", repo_url=upstream.url, repo_ref="feature/with/slashes"),
    )
    assert ended.answer == "mineONE"


@pytest.mark.parametrize("kind", ["branch", "tag", "full", "short", "ref"])
def test_branches_with_slashes_tags_and_commit_ids_are_refs(tmp_path, upstream, kind):
    ref, commit = {
        "branch": ("feature/with/slashes", upstream.second),
        "tag": ("v1", upstream.first),
        "full": (upstream.second, upstream.second),
        "short": (upstream.second[:9], upstream.second),
        "ref": ("refs/heads/main", upstream.first),
    }[kind]
    found = Repositories(tmp_path / "kept").tree(upstream.url, ref, settings_for(tmp_path))
    assert (found.commit, found.name) == (commit, "tool")


def test_a_repository_called_context_has_another_folder_than_staged_files(tmp_path):
    other = Upstream(tmp_path / "code" / "context")
    other.commit({"a.txt": "one"})
    found = Repositories(tmp_path / "kept").tree(other.url, "", settings_for(tmp_path))
    assert found.path == "workspace/context-repository"


def test_a_branch_that_moved_is_asked_for_anew(tmp_path, upstream):
    repositories, settings = Repositories(tmp_path / "kept"), settings_for(tmp_path)
    first = repositories.tree(upstream.url, "main", settings)
    moved = upstream.commit({"new.txt": "new"})
    second = repositories.tree(upstream.url, "main", settings)
    assert second.commit == moved != first.commit
    assert first.digest != second.digest


def names_in(packed: Path) -> list[str]:
    with tarfile.open(packed) as file:
        return file.getnames()


def test_repositories_make_room_for_others_but_not_while_they_are_asked_about(tmp_path, upstream):
    other = Upstream(tmp_path / "code" / "other")
    other.commit({"b.txt": "b" * 1000})
    kept, settings = tmp_path / "kept", settings_for(tmp_path, workspace={"roots": [str(tmp_path)], "cache_mb": 0})

    def bare() -> int:
        return sum(path.is_dir() for path in kept.iterdir())

    first = Repositories(kept).tree(upstream.url, "", settings)
    second = Repositories(kept).tree(other.url, "", settings)
    assert bare() == 2
    for found in (first, second):
        found.pack(tmp_path / "packed")
        assert names_in(tmp_path / "packed")
    del first, found
    assert Repositories(kept).tree(other.url, "", settings).commit == second.commit
    assert bare() == 1
    del second
    again = Repositories(kept).tree(upstream.url, "v1", settings)
    assert (again.commit, bare()) == (upstream.first, 1)


def test_a_repository_may_go_when_the_run_that_asked_about_it_has_ended(ask, tmp_path, upstream):
    ask(LOOK, Question("?", repo_url=upstream.url))
    settings = settings_for(tmp_path, workspace={"roots": [str(tmp_path)], "cache_mb": 0})
    wait_until(lambda: Repositories(tmp_path / "data" / "repositories").prune(settings) == 1)


def test_with_a_retention_they_go_when_nobody_has_asked_for_so_long(tmp_path, upstream):
    kept, days = tmp_path / "kept", {"url": f"sqlite:///{tmp_path}/data/fleet.db", "retention_days": 1}
    Repositories(kept).tree(upstream.url, "", settings_for(tmp_path))
    settings = settings_for(tmp_path, store=days)
    assert Repositories(kept).prune(settings) == 0
    for use in kept.glob("*.use"):
        os.utime(use, (time.time() - 90_000,) * 2)
    assert Repositories(kept).prune(settings_for(tmp_path)) == 0
    assert Repositories(kept).prune(settings) == 1


def test_what_another_process_may_be_reading_is_replaced_and_not_written_anew(tmp_path, upstream):
    """An archive that is made while `export-ignore` is not yet overruled would lack files without a word."""
    settings, kept = settings_for(tmp_path), tmp_path / "kept"
    Repositories(kept).tree(upstream.url, "", settings)
    attributes = next(kept.glob("*/info/attributes"))
    whole = attributes.read_text()
    os.link(attributes, tmp_path / "being-read")
    attributes.write_text("older")
    Repositories(kept).tree(upstream.url, "", settings)
    assert (attributes.read_text(), (tmp_path / "being-read").read_text()) == (whole, "older")


ASKING = """
import sys, tarfile
from pathlib import Path
from fleet_rlm_jupyter.engine.repositories import Repositories
from fleet_rlm_jupyter.settings import Settings
kept, packed, rounds, *urls = sys.argv[1:]
repositories = Repositories(Path(kept))
for number in range(int(rounds)):
    for url in urls:
        found = repositories.tree(url, "", Settings(workspace={"cache_mb": 0}))
        found.pack(Path(packed))
        assert "a.txt" in tarfile.open(packed).getnames()
        del found
"""


def test_several_processes_fetch_read_and_remove_the_same_ones_at_once(tmp_path, upstream):
    other = Upstream(tmp_path / "code" / "other")
    other.commit({"a.txt": "one"})
    urls, kept = [upstream.url, other.url], tmp_path / "kept"
    processes = [
        subprocess.Popen(
            [
                sys.executable,
                "-c",
                ASKING,
                str(kept),
                str(tmp_path / f"packed-{number}"),
                "6",
                *urls[:: 1 - 2 * (number % 2)],
            ],
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(3)
    ]
    for process in processes:
        _, said = process.communicate(timeout=100)
        assert process.returncode == 0, said
    Repositories(kept).prune(settings_for(tmp_path, workspace={"cache_mb": 0}))
    assert not [path for path in kept.iterdir() if path.is_dir()]


@pytest.mark.parametrize(
    ("url", "ref", "says"),
    [
        (None, "main", "without repo_url"),
        ("file://{}", "nowhere", "no branch or tag nowhere"),
        ("file://{}", "a" * 40, "no commit"),
        ("file://{}", "--upload-pack=x", "no branch, tag or commit id"),
        ("https://user:word@example.org/x.git", None, "holds credentials"),
        ("https://word@example.org/x.git", None, "holds credentials"),
        ("git@example.org:x/y.git", None, "begins with"),
        ("ext::sh -c true", None, "begins with"),
        ("ssh://-oProxyCommand=x/y", None, "names no host"),
        ("file:///", None, "none of the folders"),
        ("https://example.org/x.git?token=1", None, "ends with its path"),
    ],
)
def test_what_cannot_be_fetched_is_refused_before_any_work(ask, upstream, url, ref, says):
    with pytest.raises(BadRequest, match=says):
        ask("1", Question("?", repo_url=url and url.format(upstream.folder), repo_ref=ref))


def test_a_link_out_of_the_roots_is_refused(ask, tmp_path, tmp_path_factory):
    outside = Upstream(tmp_path_factory.mktemp("outside") / "tool")
    (tmp_path / "link").symlink_to(outside.folder)
    with pytest.raises(BadRequest, match="none of the folders"):
        ask("1", Question("?", repo_url=f"file://{tmp_path}/link"))


def test_without_git_it_is_said(tmp_path, upstream, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BadRequest, match="git is not installed"):
        Repositories(tmp_path / "kept").tree(upstream.url, "", settings_for(tmp_path))


@pytest.mark.parametrize(("limit", "says"), [({"max_files": 2}, "3 files"), ({"max_mb": 1}, "MB")])
def test_a_repository_larger_than_a_context_may_be_is_refused(tmp_path, upstream, limit, says):
    if "max_mb" in limit:
        upstream.commit({"large.txt": "x" * 1_100_000})
    with pytest.raises(BadRequest, match=says):
        Repositories(tmp_path / "kept").tree(upstream.url, "", settings_for(tmp_path, context=limit))


def test_offline_recipes_and_plain_calls_have_no_repository(ask, upstream, tmp_path):
    with pytest.raises(BadRequest, match="no sandbox"):
        ask("1", Question("?", repo_url=upstream.url, mode="direct"))
    offline = Workbench(settings_for(tmp_path, model="offline/recipes"))
    try:
        with pytest.raises(BadRequest, match="no repository"):
            offline.ask(Question("?", repo_url=upstream.url))
    finally:
        offline.close()


# --- private ones ------------------------------------------------------------------------------------------------


class _GitServer(http.server.BaseHTTPRequestHandler):
    """git over HTTP for who knows the token; `git http-backend` does the work."""

    protocol_version = "HTTP/1.0"

    def do_GET(self) -> None:
        self.server.seen.append(self.headers.get("Authorization", ""))
        wanted = "Basic " + base64.b64encode(f"{self.server.user}:{TOKEN}".encode()).decode()
        if self.headers.get("Authorization") != wanted:
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="code"')
            self.end_headers()
            return
        parts = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        variables = {
            "PATH": os.environ["PATH"],
            "GIT_PROJECT_ROOT": str(self.server.root),
            "GIT_HTTP_EXPORT_ALL": "1",
            "PATH_INFO": parts.path,
            "QUERY_STRING": parts.query,
            "REQUEST_METHOD": self.command,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
        }
        done = subprocess.run(["git", "http-backend"], input=body, env=variables, capture_output=True, check=True)
        self.server.commands |= running_commands()
        head, _, rest = done.stdout.partition(b"\r\n\r\n")
        fields = dict(line.split(": ", 1) for line in head.decode().splitlines())
        self.send_response(int(fields.pop("Status", "200").split()[0]))
        for name, value in fields.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(rest)

    do_POST = do_GET

    def log_message(self, format: str, *args: object) -> None:
        pass


def running_commands() -> set[str]:
    """The arguments of every process that may be looked at."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            found.add((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace"))
        except OSError:
            continue
    return found


@pytest.fixture
def private(upstream):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _GitServer)
    server.root, server.seen, server.commands = upstream.folder.parent, [], set()
    server.user = "x-access-token"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    server.host = f"127.0.0.1:{server.server_port}"
    server.url = f"http://{server.host}/tool/.git"
    yield server
    server.shutdown()
    server.server_close()


def private_settings(tmp_path, host: str, **more) -> Settings:
    return settings_for(
        tmp_path,
        context={"allow_private_urls": True},
        workspace={"token": TOKEN, "token_host": host, **more},
    )


SEARCH = """
import os, subprocess
found = [dict(os.environ)]
for here, _, names in os.walk("."):
    for name in names:
        path = os.path.join(here, name)
        if os.path.isfile(path):
            data = open(path, "rb").read()
            found.append(path if b"tok-6f1c" + b"8a52e0d94b7788" in data else "")
SUBMIT(answer=str([one for one in found[1:] if one]) + str("tok-6f1c" + "8a52e0d94b7788" in str(found[0])))
"""


def test_a_token_reaches_its_host_and_nothing_else(ask, private, tmp_path, caplog):
    private.url = f"http://{private.host}/tool"
    ended, facts, engine = ask(SEARCH, Question("?", repo_url=private.url), private_settings(tmp_path, private.host))
    assert ended.status == "done", ended.error
    assert ended.answer == "[]False"
    assert any(private.seen), "the server was shown no token"
    assert any("git" in command for command in private.commands), "no process was looked at"
    assert not any(TOKEN in command for command in private.commands)
    assert TOKEN not in caplog.text
    assert not any(TOKEN in fact.model_dump_json() for fact in facts)
    assert not any(TOKEN in prompt for prompt in engine.prompts)
    kept = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any("repositories" in path.parts for path in kept)
    assert not [path for path in kept if TOKEN.encode() in path.read_bytes()]


@pytest.mark.parametrize("host", ["127.0.0.1", "example.org"])
def test_another_host_or_port_is_not_sent_the_token(private, tmp_path, host):
    settings = private_settings(tmp_path, host)
    with pytest.raises(BadRequest, match="cannot be read") as refused:
        Repositories(tmp_path / "kept").tree(f"http://{private.host}/tool", "", settings)
    assert "workspace.token_host" in refused.value.hint
    assert set(private.seen) == {""}


def test_the_user_name_sent_with_the_token_is_a_setting(private, tmp_path, upstream):
    private.user = "deploy-token-7"
    url, repositories = f"http://{private.host}/tool", Repositories(tmp_path / "kept")
    with pytest.raises(BadRequest, match="cannot be read"):
        repositories.tree(url, "", private_settings(tmp_path, private.host))
    settings = private_settings(tmp_path, private.host, token_user="deploy-token-7")
    assert repositories.tree(url, "", settings).commit == upstream.first


@pytest.mark.parametrize(
    ("host", "user"),
    [
        ("github.com", "x-access-token"),
        ("git.example.org", "x-access-token"),
        ("GitLab.com", "oauth2"),
        ("my-gitlab.example.org", "oauth2"),
        ("bitbucket.org", "x-token-auth"),
    ],
)
def test_by_default_it_is_what_the_host_takes(host, user):
    assert token_user_of(host) == user


@pytest.mark.parametrize("user", ["a\nhost=elsewhere", "a:b", ""])
def test_a_user_name_cannot_say_more_than_itself(tmp_path, user):
    with pytest.raises(ValidationError):
        private_settings(tmp_path, "example.org", token_user=user)


def test_a_token_without_its_host_is_a_bad_setting(private, tmp_path):
    settings = settings_for(tmp_path, context={"allow_private_urls": True}, workspace={"token": TOKEN})
    with pytest.raises(BadSettings, match="token_host"):
        Repositories(tmp_path / "kept").tree(f"http://{private.host}/tool", "", settings)


def test_the_token_is_masked_wherever_settings_are_shown(tmp_path):
    settings = private_settings(tmp_path, "example.org")
    assert TOKEN not in settings.model_dump_json()
    assert TOKEN not in repr(settings)


def test_a_host_that_is_not_public_is_refused_unless_it_is_allowed(private, tmp_path):
    with pytest.raises(BadUrl, match="not on the public Internet"):
        Repositories(tmp_path / "kept").tree(f"http://{private.host}/tool", "", settings_for(tmp_path))
    assert not private.seen
