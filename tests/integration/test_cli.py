"""The command line as a user types it: what it prints, where, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from llmock.pytest_plugin import LLMock
from llmock.scenarios import Fail
from llmock.testing import LLMockServer

from fleet_rlm_jupyter import cli


@pytest.fixture
def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]):
    """Runs `fleet …` in an empty folder and a bare environment; returns (exit code, stdout, stderr)."""
    for name in list(os.environ):
        if name.startswith(("FLEET_", "DSPY_", "DAYTONA_")) or name.endswith("_API_KEY"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("FLEET_FIND_LOCAL_MODELS", "false")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.chdir(tmp_path)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["fleet", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        printed = capfd.readouterr()
        code = ended.value.code
        assert isinstance(code, int)
        assert "Traceback" not in printed.out + printed.err
        return code, printed.out, printed.err

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def log(tmp_path: Path) -> str:
    path = tmp_path / "some.log"
    path.write_text("".join(f"level={'error' if i % 3 == 0 else 'info'} service=s{i % 2}\n" for i in range(12)))
    return str(path)


BAD = [
    (["ask", " "], "the question is empty", "say what you want to know"),
    (["ask", "q", "--file", "nowhere.txt"], "there is no file or folder nowhere.txt", "check the path"),
    (["ask", "q", "--context", "http://127.0.0.1/x"], "127.0.0.1 is not on the public Internet", "pass the file"),
    (["ask", "q", "--context", "file:///etc/passwd"], "file is no scheme that is fetched", "http"),
    (["ask", "q", "--file", "{binary}"], "is a binary file", "convert it to text"),
    (["ask", "q", "--file", "{big}", "--set", "context.max_mb=1"], "larger than 1 MB", "raise context.max_mb"),
    (["ask", "q", "--model", "gpt5"], "names no provider that is known", "provider/model"),
    (["ask", "q", "--model", "nobody/nothing"], "names no provider that is known", "provider/model"),
    (["ask", "q", "--model", "openai/gpt-5"], "needs a key and there is none", "OPENAI_API_KEY"),
    (["ask", "q", "--calls", "0"], "budget.calls", "change it"),
    (["ask", "q", "--depth", "-1"], "budget.depth", "change it"),
    (["ask", "q", "--seconds", "0"], "budget.seconds", "change it"),
    (["ask", "q", "--set", "sandbox.memroy_mb=1"], "there is no setting sandbox.memroy_mb", "sandbox.memory_mb"),
    (["ask", "q", "--set", "novalue"], "--set takes NAME=VALUE", ""),
    (["ask"], "Missing argument 'QUESTION'", "see fleet ask --help"),
    (["ask", "q", "--colour"], "No such option", "see fleet ask --help"),
    (["ask", "q", "--mode", "quick"], "is not one of", "see fleet ask --help"),
    (["ask", "q", "--slot", "a=b"], "slots belong to a recipe", "--recipe"),
    (["ask", "q", "--recipe", "nothing"], "nothing", "recipe"),
    (["frobnicate"], "No such command", "see fleet --help"),
]


@pytest.mark.parametrize(("arguments", "text", "hint"), BAD, ids=[" ".join(row[0])[:60] for row in BAD])
def test_bad_input_is_one_sentence_and_the_next_step(fleet, tmp_path, arguments, text, hint):
    (tmp_path / "binary").write_bytes(b"\0\1\2")
    (tmp_path / "big").write_text("x" * 1_000_001)
    files = {name: str(tmp_path / name) for name in ("binary", "big")}
    code, out, err = fleet(*(argument.format(**files) for argument in arguments))
    assert code == 2
    said = " ".join(err.split())
    assert text in said
    assert hint in said
    assert said.startswith("error: ")
    assert " next: " in said
    assert out == ""


@pytest.mark.parametrize("variables", [{"DAYTONA_API_BASE_URL": "x"}, {"FLEET_MODLE": "x"}, {"DAYTONA_API_KEY": "k"}])
def test_a_half_configured_environment_is_said(fleet, monkeypatch, variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    code, _, err = fleet("ask", "q")
    assert code == 2
    assert next(iter(variables)) in err


def test_with_json_an_error_is_one_object_on_stdout(fleet):
    code, out, _ = fleet("ask", " ", "--json")
    assert code == 2
    said = json.loads(out)
    assert said["status"] == "failed"
    assert said["error"]["code"] == "bad_request"


@pytest.mark.parametrize(
    "arguments", [["ask", "q", "--colour"], ["ask"], ["ask", " "], ["ask", "q", "--file", "nowhere"]]
)
def test_with_json_stdout_holds_one_object_whatever_was_wrong(fleet, arguments):
    code, out, _ = fleet(*arguments, "--json")
    assert code == 2
    said = json.loads(out)
    assert said.keys() == {"answer", "status", "error", "usage", "run_id", "model", "sandbox"}
    assert said["error"]["text"]
    assert said["error"]["hint"]


def test_a_defect_of_ours_is_a_sentence_and_not_a_traceback(fleet, monkeypatch):
    def broken(overrides: object) -> None:
        raise RuntimeError("boom")

    monkeypatch.setattr("fleet_rlm_jupyter.settings.load", broken)
    code, out, err = fleet("ask", "q", "--json")
    assert code == 1
    assert json.loads(out)["error"]["text"] == "fleet itself failed: RuntimeError: boom"
    assert "run it again with --debug" in err


def test_what_goes_to_a_pipe_is_not_broken_into_lines(fleet, log):
    code, out, _ = fleet("ask", "Which service has the most errors?", "--file", log)
    assert code == 0
    assert len(out.splitlines()[0]) > 100


def test_a_refused_key_fails_with_exit_code_one(fleet, log):
    with LLMockServer() as server:
        LLMock(server).add(Fail(401, times=None))
        code, out, err = fleet(
            "ask", "q", "--file", log, "--model", "m", "--api-base", server.base_url(), "--mode", "direct", "--json"
        )
    assert code == 1
    assert json.loads(out)["error"]["code"] == "model_failed"
    assert "refused the key" in json.loads(out)["error"]["text"]
    assert "plain call" in err


def test_debug_shows_the_traceback(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["fleet", "ask", " ", "--debug"])
    with pytest.raises(SystemExit):
        cli.main()
    assert "Traceback" in capfd.readouterr().err


def test_help_names_every_command(fleet):
    code, out, _ = fleet("--help")
    assert code == 0
    for command in ("ask", "doctor", "smoke", "recipes", "localdaytona"):
        assert command in out


def test_the_doctor_says_what_is_configured_from_where_and_whether_it_works(fleet, monkeypatch, tmp_path):
    monkeypatch.setenv("FLEET_BUDGET__CALLS", "77")
    (tmp_path / ".env").write_text("FLEET_BUDGET__DEPTH=3\n")
    code, out, _ = fleet("doctor", "--json", "--set", "budget.seconds=60")
    assert code == 0
    said = json.loads(out)
    assert [(check["name"], check["ok"]) for check in said["checks"]] == [
        ("model", True),
        ("sandbox", True),
        ("store", True),
    ]
    assert "not a language model" in said["checks"][0]["text"]
    assert "no model, key or local server was found" in said["checks"][0]["text"]
    settings = {row["name"]: (row["value"], row["source"]) for row in said["settings"]}
    assert settings["budget.calls"] == ("77", "FLEET_BUDGET__CALLS")
    assert settings["budget.depth"][1].endswith(".env")
    assert settings["budget.seconds"] == ("60", "argument")
    assert settings["budget.sub_calls"] == ("50", "default")


def test_the_doctor_never_shows_a_key(fleet, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    monkeypatch.setenv("FLEET_API_KEY", "also-secret")
    code, out, err = fleet("doctor")
    assert code == 0
    assert "openai/" in out
    assert "secret" not in out + err


def test_the_doctor_fails_and_says_why_when_a_key_is_missing(fleet):
    code, out, _ = fleet("doctor", "--set", "model=openai/gpt-5")
    assert code == 1
    assert "OPENAI_API_KEY" in out


def test_a_question_that_no_recipe_understands_abstains_with_exit_code_four(fleet, log):
    code, out, _ = fleet("ask", "Why did everything go so wrong, and who is to blame?", "--file", log, "--json")
    assert code == 4
    said = json.loads(out)
    assert said["status"] == "abstained"
    assert said["answer"].startswith("not understood: pick a recipe")
    assert said["recipe"] == ""


def test_a_slot_can_be_corrected(fleet, log):
    code, out, _ = fleet(
        "ask", "Which are there?", "--file", log, "--recipe", "group_by", "--slot", "field=level", "--json"
    )
    assert code == 0
    said = json.loads(out)
    assert (said["recipe"], said["slots"]["field"]) == ("group_by", "level")
    assert "8" in said["answer"]
    assert "4" in said["answer"]


def test_the_answer_names_recipe_slots_evidence_tree_and_spend(fleet, log):
    code, out, err = fleet("ask", "Which service has the most errors?", "--file", log)
    assert code == 0
    for part in (
        "recipe top_k",
        "context:1: level=error",
        "RLM depth 1",
        "LM calls",
        "tokens unknown",
        "cost unknown",
        "s0",
    ):
        assert part in out, part
    assert "model from the default" in " ".join(err.split())


def test_no_isolation_and_none_allowed_is_refused_for_model_written_code(tmp_path):
    # In a user namespace that allows no further ones there is no level L3.
    model = ("--model", "m", "--api-base", "http://127.0.0.1:9/v1", "--mode", "rlm_only")
    done = without_namespaces(tmp_path, *model, "--set", "sandbox.level=L1")
    assert done.returncode == 2
    assert "no sandbox can be had here" in " ".join(done.stderr.split())
    assert "allow_unisolated" in done.stderr
    assert done.stdout == ""


def test_recipes_are_our_own_code_and_run_without_isolation_and_say_so(tmp_path):
    done = without_namespaces(tmp_path, "--model", "offline/recipes", "--json", "--set", "sandbox.level=L1")
    assert done.returncode == 0
    assert "NOT isolated" in json.loads(done.stdout)["sandbox"]


@pytest.mark.parametrize(
    ("size", "said", "hint"),
    [
        ("size=8m", "the sandbox's disk is full", "pass a smaller context"),
        ("size=24k,nr_inodes=9", "no sandbox can be had here: no space left", "free some space, or set TMPDIR"),
    ],
)
def test_a_full_disk_is_one_sentence_and_the_next_step(tmp_path, size, said, hint):
    log = tmp_path / "some.log"
    log.write_text("level=error service=a\n" * 500_000)
    with tempfile.TemporaryDirectory() as folder:  # of a short name, as the server needs for its sockets
        mount = f'mount -t tmpfs -o {size} tmpfs "{folder}" && export TMPDIR="{folder}" && exec "$@"'
        done = in_a_namespace(tmp_path, log, mount, "--mount", "--model", "offline/recipes", "--json")
    assert done.returncode == 1
    error = json.loads(done.stdout)["error"]
    assert said in error["text"]
    assert hint in error["hint"]
    assert "Traceback" not in done.stderr


def without_namespaces(tmp_path: Path, *more: str) -> subprocess.CompletedProcess[str]:
    log = tmp_path / "some.log"
    log.write_text("level=error service=a\nlevel=info service=b\n")
    shut = 'echo 0 > /proc/sys/user/max_user_namespaces && exec "$@"'
    return in_a_namespace(tmp_path, log, shut, "--user", *more)


def in_a_namespace(tmp_path: Path, log: Path, first: str, kind: str, *more: str) -> subprocess.CompletedProcess[str]:
    """`fleet ask` over `log` as the root of a user namespace, after the shell did what `first` says."""
    ask = [str(Path(sys.executable).parent / "fleet"), "ask", "Which service has the most errors?", "--file", str(log)]
    command = ["unshare", "--user", "--map-root-user", kind, "sh", "-c", first, "sh", *ask, *more]
    if subprocess.run([*command[:6], "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine allows no such namespaces to begin with")
    env = {name: value for name, value in os.environ.items() if not name.startswith(("FLEET_", "DAYTONA_"))}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path, env=env, check=False)


def test_a_file_without_permission_is_refused(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("tests/unit covers this without being root")
    secret = tmp_path / "secret.txt"
    secret.write_text("x")
    secret.chmod(0)
    tmp_path.chmod(0o755)
    script = (
        "import os, sys; os.setuid(65534)\n"
        "from fleet_rlm_jupyter.engine.contexts import read_context\n"
        "from fleet_rlm_jupyter.settings import ContextSettings\n"
        "try: read_context([sys.argv[1]], ContextSettings())\n"
        "except Exception as err: print(type(err).__name__, err)"
    )
    preload = "import fleet_rlm_jupyter.engine.contexts, fleet_rlm_jupyter.settings\n"
    done = subprocess.run(
        [sys.executable, "-c", preload + script, str(secret)], capture_output=True, text=True, check=True
    )
    assert "cannot be read" in done.stdout
    assert "permission" in done.stdout.lower()


def test_the_local_server_runs_in_the_foreground_for_any_client():
    process = subprocess.Popen(
        [Path(sys.executable).parent / "fleet", "localdaytona", "--port", "0", "--key", "a-key-of-mine"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        status = {}
        for key in ("a-key-of-mine", "another-key"):
            asked = urllib.request.Request(ready["url"] + "/sandbox", headers={"Authorization": f"Bearer {key}"})
            try:
                with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(asked, timeout=10) as reply:
                    status[key] = reply.status
            except urllib.error.HTTPError as err:
                status[key] = err.code
        assert status == {"a-key-of-mine": 200, "another-key": 401}
    finally:
        process.terminate()
        process.wait(10)


def test_a_port_in_use_is_one_sentence_and_exit_code_two(fleet):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, _, err = fleet("localdaytona", "--port", str(port), "--key", "a-key-of-mine")
    assert code == 2
    assert f"port {port} is in use" in err


def test_what_was_found_is_kept_when_the_budget_is_used_up(fleet, tmp_path):
    path = tmp_path / "long.log"
    path.write_text("".join(f"level={'error' if i % 7 == 0 else 'info'} service=s{i % 5}\n" for i in range(5_000)))
    asked = ["ask", "Which service has the most errors?", "--file", str(path), "--calls", "2"]
    code, out, err = fleet(*asked)
    assert code == 3
    assert "Found so far" in out
    assert "more than 2 LM calls" in " ".join(err.split())
    code, out, _ = fleet(*asked, "--json")
    said = json.loads(out)
    assert (code, said["status"], said["answer"]) == (3, "over_budget", None)
    assert said["found"]
