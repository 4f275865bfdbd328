"""The command line as a user types it: what it prints, where, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import sys
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
    (["ask", "q", "--context", "https://example.org/x"], "there is no file or folder https:", "downloaded first"),
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
    (["ask", "q", "--colour"], "No such option", ""),
    (["ask", "q", "--mode", "quick"], "is not one of", ""),
    (["ask", "q", "--slot", "a=b"], "slots belong to a recipe", "--recipe"),
    (["ask", "q", "--recipe", "nothing"], "nothing", "recipe"),
    (["frobnicate"], "No such command", ""),
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
    for command in ("ask", "doctor", "recipes", "localdaytona"):
        assert command in out
