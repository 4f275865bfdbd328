"""The parts of Daytona's API that its SDK's users expect beside commands, files and terminals."""

import asyncio
import base64
import contextlib
import functools
import http.server
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from contract.localdaytona_server import SECONDS, Server, until, with_client
from daytona import (
    AsyncDaytona,
    AsyncSandbox,
    CodeRunParams,
    CreateSandboxFromSnapshotParams,
    CreateSnapshotParams,
    Daytona,
    Image,
    Resources,
    SessionExecuteRequest,
)
from daytona.common.errors import (
    DaytonaCommandAlreadyCompletedError,
    DaytonaConflictError,
    DaytonaError,
    DaytonaGitAuthFailedError,
    DaytonaGitBranchExistsError,
    DaytonaGitBranchNotFoundError,
    DaytonaGitRepoNotFoundError,
    DaytonaNotFoundError,
    DaytonaSessionEndedError,
    DaytonaTimeoutError,
    DaytonaValidationError,
)
from daytona_toolbox_api_client import ApiClient
from daytona_toolbox_api_client.exceptions import ApiException
from pydantic import ValidationError

pytest_plugins = ["contract.localdaytona_fixture"]


def run(sandbox: Any, session: str, command: str, **more: Any) -> Any:
    return sandbox.process.execute_session_command(session, SessionExecuteRequest(command=command, **more), SECONDS)


def test_code_gets_arguments_and_variables(sandbox: Any) -> None:
    code = "import os, sys; print(sys.argv[1:], os.environ['X'])"
    done = sandbox.process.code_run(code, CodeRunParams(argv=["a", "b c"], env={"X": "y"}), timeout=10)
    assert (done.exit_code, done.result) == (0, "['a', 'b c'] y\n")


def test_a_session_keeps_its_folder_and_variables(sandbox: Any) -> None:
    sandbox.process.create_session("s")
    assert run(sandbox, "s", "cd /tmp; export X=41").exit_code == 0
    done = run(sandbox, "s", "pwd; echo $((X+1)) >&2; (exit 3)")
    assert (done.exit_code, done.stdout, done.stderr) == (3, "/tmp\n", "42\n")
    assert run(sandbox, "s", "echo 'unbalanced").exit_code != 0
    assert run(sandbox, "s", "echo on").stdout == "on\n"
    session = sandbox.process.get_session("s")
    assert [one.exit_code for one in session.commands][:2] == [0, 3]
    assert "s" in {one.session_id for one in sandbox.process.list_sessions()}
    assert sandbox.process.get_session_command("s", done.cmd_id).exit_code == 3
    with pytest.raises(DaytonaConflictError):
        sandbox.process.create_session("s")
    sandbox.process.delete_session("s")
    with pytest.raises(DaytonaNotFoundError):
        sandbox.process.get_session("s")


def test_a_session_that_exits_says_so(sandbox: Any) -> None:
    sandbox.process.create_session("over")
    assert run(sandbox, "over", "echo last; exit 5").exit_code == 5
    with pytest.raises(DaytonaSessionEndedError):
        run(sandbox, "over", "true")
    sandbox.process.delete_session("over")


def test_a_command_in_the_background_takes_input_and_its_log_can_be_followed(server: Server) -> None:
    async def main(client: AsyncDaytona) -> None:
        sandbox = await client.create(timeout=SECONDS)
        process = sandbox.process
        await process.create_session("s")
        wanted = SessionExecuteRequest(
            command="echo ask; read X; echo got $X; echo oh >&2", run_async=True, suppress_input_echo=True
        )
        command = await process.execute_session_command("s", wanted)
        assert (await process.get_session_command("s", command.cmd_id)).exit_code is None
        out: list[str] = []
        err: list[str] = []
        follows = asyncio.create_task(
            process.get_session_command_logs_async("s", command.cmd_id, out.append, err.append)
        )
        await process.send_session_command_input("s", command.cmd_id, "ünïcode")
        await asyncio.wait_for(follows, SECONDS)
        assert ("".join(out), "".join(err)) == ("ask\ngot ünïcode\n", "oh\n")
        logs = await process.get_session_command_logs("s", command.cmd_id)
        assert (logs.stdout, logs.stderr) == ("ask\ngot ünïcode\n", "oh\n")
        with pytest.raises(DaytonaCommandAlreadyCompletedError):
            await process.send_session_command_input("s", command.cmd_id, "more")
        again: list[str] = []
        await process.get_session_command_logs_async("s", command.cmd_id, again.append, err.append)
        assert "".join(again) == "ask\ngot ünïcode\n"
        await sandbox.delete(SECONDS)

    with_client(server, main)


def test_an_ended_session_leaves_no_process(sandbox: Any) -> None:
    sandbox.process.create_session("s")
    run(sandbox, "s", "sleep 161803 & sleep 161803", run_async=True)
    sandbox.process.delete_session("s")
    assert sandbox.process.exec("ps -eo args | grep -c '[s]leep 161803'", timeout=5).result == "0\n"


def test_an_interpreter_keeps_its_variables(sandbox: Any) -> None:
    interpreter = sandbox.code_interpreter
    assert interpreter.run_code("x = 20").stdout == ""
    done = interpreter.run_code(
        "import os, sys\nprint('é' * 3)\nos.system('echo child')\nsys.stderr.write('e')\nx + 22"
    )
    assert (done.stdout, done.stderr, done.error) == ("ééé\nchild\n42\n", "e", None)
    failed = interpreter.run_code("1 / 0", envs={"Y": "1"})
    assert (failed.error.name, failed.error.value) == ("ZeroDivisionError", "division by zero")
    assert "Traceback" in failed.error.traceback
    assert interpreter.run_code("import os; print(os.environ.get('Y'), x)").stdout == "None 20\n"
    assert "SyntaxError" in interpreter.run_code("x = (").error.name


def test_contexts_of_an_interpreter_do_not_see_each_other(sandbox: Any) -> None:
    interpreter = sandbox.code_interpreter
    context = interpreter.create_context(cwd="/tmp")
    assert context.active
    assert interpreter.run_code("import os; y = 1; print(os.getcwd())", context=context).stdout == "/tmp\n"
    assert interpreter.run_code("y").error.name == "NameError"
    assert context.id in {one.id for one in interpreter.list_contexts()}
    interpreter.delete_context(context)
    assert context.id not in {one.id for one in interpreter.list_contexts()}
    with pytest.raises(DaytonaError):
        interpreter.run_code("1", context=context)


def test_code_past_its_time_is_interrupted_and_its_variables_stay(sandbox: Any) -> None:
    interpreter = sandbox.code_interpreter
    interpreter.run_code("z = 7")
    with pytest.raises(DaytonaTimeoutError):
        interpreter.run_code("while True: pass", timeout=1)
    assert interpreter.run_code("z").stdout == "7\n"


def test_a_large_print_and_a_killed_interpreter_have_an_end(sandbox: Any) -> None:
    interpreter = sandbox.code_interpreter
    assert len(interpreter.run_code("print('x' * 3_000_000)").stdout) == 3_000_001
    with pytest.raises(DaytonaError, match="killed"):
        interpreter.run_code("import os; os._exit(1)")
    assert interpreter.run_code("print(1)").stdout == "1\n"


def test_a_repository_is_made_changed_and_told(sandbox: Any) -> None:
    git, fs = sandbox.git, sandbox.fs
    git.init("repo", initial_branch="main")
    fs.upload_file(b"one\n", "repo/a b.txt", timeout=SECONDS)
    assert [(one.name, one.staging, one.worktree) for one in git.status("repo").file_status] == [
        ("a b.txt", "Untracked", "Untracked")
    ]
    git.add("repo", ["a b.txt"])
    first = git.commit("repo", "first\n\nwhy", "Ann", "ann@example.org").sha
    fs.upload_file(b"two\n", "repo/a b.txt", timeout=SECONDS)
    status = git.status("repo")
    assert status.current_branch == "main"
    assert [(one.staging, one.worktree) for one in status.file_status] == [("Unmodified", "Modified")]
    git.create_branch("repo", "feature/x")
    with pytest.raises(DaytonaGitBranchExistsError):
        git.create_branch("repo", "feature/x")
    git.checkout_branch("repo", "main")
    assert set(git.branches("repo").branches) == {"main", "feature/x"}
    with pytest.raises(DaytonaGitBranchNotFoundError):
        git.checkout_branch("repo", "absent")
    git.delete_branch("repo", "feature/x")
    git.reset("repo", mode="hard")
    assert git.status("repo").file_status == []
    git.remote_add("repo", "origin", "https://example.org/x.git")
    assert git.remote_get("repo", "origin") == "https://example.org/x.git"
    git.set_config("user.name", "Bob", scope="local", path="repo")
    assert git.get_config("user.name", scope="local", path="repo") == "Bob"
    git.clone("repo", "copy", commit_id=first)
    copied = git.status("copy")
    assert copied.detached
    assert fs.download_file("copy/a b.txt", 5) == b"one\n"
    fs.upload_file(b"three\n", "copy/new", timeout=SECONDS)
    git.checkout_branch("copy", "main")
    git.add("copy", ["."])
    git.commit("copy", "second", "Ann", "ann@example.org")
    assert git.status("copy").ahead == 1
    with pytest.raises(DaytonaGitRepoNotFoundError):
        git.status("deep")
    with pytest.raises(DaytonaValidationError):
        git.clone("--upload-pack=touch x", "bad")
    sandbox.fs.delete_file("repo", recursive=True)
    sandbox.fs.delete_file("copy", recursive=True)


def test_variables_of_a_sandbox_can_be_changed(client: Daytona) -> None:
    sandbox = client.create(timeout=SECONDS)
    sandbox.update_env({"NEW": "1"})
    assert sandbox.process.exec("echo $NEW", timeout=5).result == "1\n"
    sandbox.update_env({}, unset=["NEW"])
    assert sandbox.process.exec("echo =$NEW=", timeout=5).result == "==\n"
    sandbox.delete(SECONDS)


def test_a_machine_tells_its_figures(sandbox: Any) -> None:
    metrics = sandbox.get_metrics_latest()
    assert metrics.cpu_count >= 1
    assert metrics.mem_total > metrics.mem_used > 0


def test_what_is_not_offered_answers_501_with_the_reason(sandbox: Any) -> None:
    for attempt in (
        lambda: sandbox.create_lsp_server("python", "x").start(),
        lambda: sandbox.computer_use.start(),
        lambda: sandbox.create_ssh_access(),
        lambda: sandbox.create_snapshot("x"),
    ):
        with pytest.raises(DaytonaError) as caught:
            attempt()
        assert caught.value.status_code == 501
        assert "local" in str(caught.value)


def test_an_archived_sandbox_keeps_its_files_and_can_be_started(client: Daytona) -> None:
    sandbox = client.create(timeout=SECONDS)
    sandbox.fs.upload_file(b"kept", "note", timeout=SECONDS)
    with pytest.raises(DaytonaValidationError, match="not stopped"):
        sandbox.archive()
    sandbox.stop(SECONDS)
    sandbox.archive()
    until(lambda: client.get(sandbox.id).state == "archived")  # an event that comes late changes what the SDK shows
    sandbox.start(SECONDS)
    assert sandbox.fs.download_file("note", 5) == b"kept"
    sandbox.delete(SECONDS)


def test_a_stopped_sandbox_is_resized_from_its_next_start_on(client: Daytona) -> None:
    sandbox = client.create(timeout=SECONDS)
    with pytest.raises(DaytonaError, match="stop it first") as caught:
        sandbox.resize(Resources(memory=1))
    assert caught.value.status_code == 501
    sandbox.stop(SECONDS)
    for wrong in (Resources(), Resources(memory=0)):
        with pytest.raises((DaytonaError, ValueError)):
            sandbox.resize(wrong)
    sandbox.resize(Resources(cpu=2, memory=1, disk=3))
    assert (sandbox.cpu, sandbox.memory, sandbox.disk) == (2, 1, 3)
    with pytest.raises(DaytonaValidationError, match="cannot be decreased"):
        sandbox.resize(Resources(disk=2))
    sandbox.start(SECONDS)
    took = sandbox.process.exec("python3 -c 'bytearray(1500 << 20)'", timeout=SECONDS)
    assert "MemoryError" in took.result
    sandbox.delete(SECONDS)


def test_only_what_failed_in_a_way_that_can_be_mended_is_recovered_and_that_is_nothing_here(sandbox: Any) -> None:
    assert not sandbox.recoverable
    with pytest.raises(DaytonaValidationError, match="not in a recoverable error state"):
        sandbox.recover(SECONDS)


SERVE = "python3 -u -c \"import http.server as h; h.test(h.SimpleHTTPRequestHandler, port=8123, bind='127.0.0.1')\""


def test_a_preview_url_leads_to_a_port_in_the_sandbox_for_those_with_its_token(server: Server, sandbox: Any) -> None:
    link = sandbox.get_preview_link(8123)
    assert fetched(link.url, {}) == 401
    assert fetched(link.url, {"x-daytona-preview-token": "0" * 64}) == 401
    assert fetched(link.url.replace("8123", "8124"), {"x-daytona-preview-token": link.token}) == 401
    if server.level == "L2":  # there are no sockets at all
        assert fetched(link.url, {"x-daytona-preview-token": link.token}) == 502
        return
    sandbox.fs.upload_file(b"hello", "site/page.txt", timeout=SECONDS)
    sandbox.process.create_session("web")
    run(sandbox, "web", f"cd site && {SERVE}", run_async=True)
    until(lambda: fetched(link.url, {"x-daytona-preview-token": link.token}) == 200)
    assert fetched(f"{link.url}page.txt?DAYTONA_SANDBOX_AUTH_KEY={link.token}", {}) == 200
    assert fetched(f"{link.url}absent", {"x-daytona-preview-token": link.token}) == 404
    sandbox.process.delete_session("web")


def fetched(url: str, headers: dict[str, str]) -> int:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        return opener.open(urllib.request.Request(url, headers=headers), timeout=SECONDS).status
    except urllib.error.HTTPError as err:
        return err.code


def test_there_is_one_snapshot_and_its_name_is_that_of_every_sandbox(client: Daytona, sandbox: Any) -> None:
    listed = client.snapshot.list()
    assert [one.name for one in listed.items] == ["local"] == [client.snapshot.get("local").name]
    assert sandbox.snapshot == "local"
    with pytest.raises(DaytonaNotFoundError):
        client.snapshot.get("absent")
    with pytest.raises(DaytonaError) as caught:
        client.snapshot.create(CreateSnapshotParams(name="x", image=Image.base("python:3.12")))
    assert "makes no snapshots" in str(caught.value)
    assert caught.value.status_code == 501


def test_the_async_sdk_sees_the_same(server: Server) -> None:
    async def main(client: AsyncDaytona) -> None:
        sandbox: AsyncSandbox = await client.create(timeout=SECONDS)
        assert (await sandbox.code_interpreter.run_code("print(6 * 7)")).stdout == "42\n"
        await sandbox.git.init("r", initial_branch="main")
        assert (await sandbox.git.status("r")).current_branch == "main"
        assert (await sandbox.process.code_run("print(1)")).result == "1\n"
        await sandbox.delete(SECONDS)

    with_client(server, main)


@pytest.mark.parametrize(
    ("status", "body", "why"),
    [
        (201, b'{"exitCode": 0, "result": "x"}', "status 201"),
        (200, b'{"exitCode": 0}', "validation error"),
        (200, b'{"exitCode": 0, "result": "x", "more": 1}', "has no"),
        (500, b"oh", "not in Daytona's form"),
    ],
)
def test_an_answer_that_is_not_as_the_sdk_expects_is_found(answers: Any, status: int, body: bytes, why: str) -> None:
    response = SimpleNamespace(
        status=status, data=body, reason="", headers={}, getheaders=dict, getheader=lambda *_: None
    )
    with contextlib.suppress(ValidationError, ApiException):
        ApiClient().response_deserialize(response, {"200": "ExecuteResponse"})
    assert any(why in one for one in answers.wrong), answers.wrong
    answers.wrong.clear()


@pytest.fixture
def hosted(tmp_path: Path) -> Iterator[str]:
    """The address of a repository on a web server of this machine, for those who send a password."""
    work, bare = tmp_path / "work", tmp_path / "served" / "repo.git"
    git = ["git", "-c", "user.name=Ann", "-c", "user.email=ann@example.org", "-C", str(work)]
    for command in (
        ["git", "init", "--quiet", "--initial-branch=main", str(work)],
        [*git, "commit", "--quiet", "--allow-empty", "--message=one"],
        [*git, "checkout", "--quiet", "-b", "feature/slash"],
        [*git, "commit", "--quiet", "--allow-empty", "--message=two"],
        ["git", "clone", "--quiet", "--bare", str(work), str(bare)],
        ["git", "-C", str(bare), "update-server-info"],
    ):
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL)

    class Guarded(http.server.SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.headers.get("Authorization") != "Basic " + base64.b64encode(b"ann:s3cret-word").decode():
                self.send_response(401)
                self.send_header("WWW-Authenticate", "Basic")
                self.end_headers()
            else:
                super().do_GET()

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Guarded, directory=bare.parent)) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{served.server_address[1]}/repo.git"
        served.shutdown()


def test_a_repository_on_the_web_is_fetched_for_a_sandbox_without_network(client: Daytona, hosted: str) -> None:
    sandbox = client.create(timeout=SECONDS)
    before = sandbox.process.exec("ls $TMPDIR", timeout=10).result
    with pytest.raises(DaytonaGitAuthFailedError):
        sandbox.git.clone(hosted, "closed")
    sandbox.git.clone(hosted, "deep/copy", branch="feature/slash", username="ann", password="s3cret-word")
    assert sandbox.git.status("deep/copy").current_branch == "feature/slash"
    assert sandbox.git.remote_get("deep/copy", "origin") == hosted
    assert sandbox.process.exec("git -C deep/copy log --format=%s", timeout=10).result == "two\none\n"
    found = sandbox.process.exec("grep -rl s3cret-word ~ $TMPDIR 2>/dev/null; ls $TMPDIR", timeout=10).result
    assert found == before
    with pytest.raises(DaytonaError):
        sandbox.git.clone(hosted.replace("repo.git", "none.git"), "none", username="ann", password="s3cret-word")
    sandbox.delete(SECONDS)


def test_a_sandbox_that_is_to_have_no_network_gets_no_repository_either(
    server: Server, client: Daytona, hosted: str
) -> None:
    if server.level == "L1":
        pytest.skip("at L1 nothing keeps code from the network")
    sandbox = client.create(CreateSandboxFromSnapshotParams(network_block_all=True), timeout=SECONDS)
    with pytest.raises(DaytonaError):
        sandbox.git.clone(hosted, "copy", username="ann", password="s3cret-word")
    sandbox.delete(SECONDS)
