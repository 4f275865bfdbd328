"""Real HTTP against a local OpenAI-compatible server, over both engines: answers, refusals, failures."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import dspy
import pytest
from dspy.clients.backend_selection import select_backend
from jupyter_client.manager import start_new_kernel
from llmock.pytest_plugin import LLMock
from llmock.scenarios import Fail
from llmock.testing import LLMockServer

from fleet_rlm_jupyter.domain.session import Run
from fleet_rlm_jupyter.settings import load
from fleet_rlm_jupyter.testing import UnisolatedSandboxes, code
from fleet_rlm_jupyter.workbench import Question, Workbench


@pytest.fixture(scope="module")
def server():
    with LLMockServer() as running:
        yield running


@pytest.fixture(params=["native", "LiteLLM"])
def provider(server, request):
    """The mock, reached by DSPy's own engine or through LiteLLM."""
    mock = LLMock(server)
    mock.route = request.param
    yield mock
    mock.reset()


def answer(text: str) -> str:
    return f"[[ ## answer ## ]]\n{text}\n\n[[ ## completed ## ]]"


def bench_for(provider: LLMock, **settings) -> Workbench:
    native = {"model": "gpt-test", "api_base": provider.base_url()}
    through = {"model": "together_ai/gpt-test", "api_base": provider.base_url("together")}
    given = {**(native if provider.route == "native" else through), "model_retries": 0, **settings}
    bench = Workbench(load(given, environ={}), UnisolatedSandboxes())
    assert select_backend(bench.models().planner).native == (provider.route == "native")
    return bench


def ask(provider: LLMock, mode: str = "direct", **settings) -> Run:
    bench = bench_for(provider, **settings)
    return bench.ask(Question("how many?", context="there are 42", mode=mode)).result(90)


def test_an_answer_comes_back_with_the_tokens_the_server_counted(provider):
    provider.reply(answer("42"))
    run = ask(provider)
    assert (run.status, run.answer) == ("done", "42")
    assert run.usage.calls == 1
    assert run.usage.tokens_in
    assert run.usage.cost is None, "a server of one's own has no price list"
    assert run.model.endswith("gpt-test")


def test_a_recursive_run_goes_over_http_too(provider):
    provider.reply(code("print(llm_query(prompt='what?'))"))
    provider.reply("forty-two")
    provider.reply(code("SUBMIT(answer='forty-two')"))
    run = ask(provider, mode="rlm_only")
    assert (run.status, run.answer) == ("done", "forty-two")
    assert run.usage.calls == 3


def test_the_answer_is_seen_as_it_arrives_and_on_the_call_that_gives_it(provider):
    provider.pace(30)
    text = answer("forty-two, and here are some more words so that it takes a while")
    provider.reply(text)
    live = bench_for(provider).ask(Question("how many?", context="there are 42", mode="direct"))
    assert live.result(90).status == "done"
    events = live.trace.events
    pieces = [event for event in events if event.fact.type == "call.text" and event.fact.channel == "answer"]
    ended = next(event.seq for event in events if event.fact.type == "call.ended")
    assert len(pieces) >= 2, "it comes in more than one piece"
    assert all(piece.seq < ended for piece in pieces)
    (call,) = live.tree().calls.values()
    assert call.texts["answer"] == text


ADD = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}, "required": ["a", "b"]}
TOOL = {"type": "function", "function": {"name": "add", "description": "Add two numbers.", "parameters": ADD}}


class Chooser(dspy.Module):
    """Lets the model choose a tool, by the provider's own tool calls."""

    def forward(self, question: str) -> dspy.Prediction:
        (reply,) = dspy.settings.lm(messages=[{"role": "user", "content": question}], tools=[TOOL])
        (call,) = reply["tool_calls"]
        chosen = call["function"] if isinstance(call, dict) else call.function.model_dump()
        return dspy.Prediction(answer=f"{chosen['name']} {chosen['arguments']}")


def test_a_tool_call_of_the_model_comes_back_with_its_arguments(provider):
    provider.call_tool("add", {"a": 40, "b": 2})
    run = bench_for(provider).run(Chooser(), {"question": "how many?"}).result(90)
    assert run.status == "done", run.error
    assert run.answer == 'add {"a": 40, "b": 2}'
    assert provider.requests[0].body["tools"] == [TOOL]
    assert run.usage.calls == 1


def broken(provoke):
    """A long answer on whose way something happens."""

    def provoked(mock: LLMock) -> None:
        mock.reply(answer("forty-two and many more words"), times=None)
        provoke(mock)

    return provoked


FORM = "did not have the form"
FAULTS = {
    "401": (lambda mock: mock.add(Fail(401, times=None)), "refused the key", "provider's key"),
    "402": (lambda mock: mock.add(Fail(402, times=None)), "no credit", "another model"),
    "404": (lambda mock: mock.add(Fail(404, times=None)), "does not know the model", "FLEET_MODEL"),
    "400": (lambda mock: mock.add(Fail(400, times=None)), "refused the request", "max_tokens"),
    "429": (lambda mock: mock.rate_limit(times=None, retry_after=0.01), "too many requests", "budget.batch"),
    "500": (lambda mock: mock.add(Fail(500, times=None)), "error of its own", "in a while"),
    "503": (lambda mock: mock.outage(), "error of its own", "in a while"),
    "a prompt too long": (lambda mock: mock.context_overflow(times=None), "model's window", "larger one"),
    "an empty answer": (lambda mock: mock.reply("", times=None), "answered nothing", "max_tokens"),
    "a slow server": (lambda mock: mock.delay(5), "in time", "model_seconds"),
    "a stream that stalls": (
        broken(lambda mock: mock.stall(after_chunks=2, seconds=5, times=None)),
        "in time",
        "seconds",
    ),
    "a line that breaks": (broken(lambda mock: mock.disconnect(after_chunks=2, times=None)), "broke off", "again"),
    "a cut stream": (broken(lambda mock: mock.truncate(after_chunks=2, times=None)), "broke off", "again"),
    # LiteLLM leaves out a chunk that it cannot read: what is left has not the form.
    "a malformed body": (broken(lambda mock: mock.corrupt(after_chunks=2, times=None)), f"is no answer|{FORM}", ""),
    "an answer in prose": (lambda mock: mock.reply("Forty-two, I think.", times=None), FORM, "larger model"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_failure_is_said_in_the_same_words_with_its_next_step_and_is_never_half_an_answer(provider, fault):
    provoke, text, hint = FAULTS[fault]
    provoke(provider)
    run = ask(provider, model_seconds=0.5 if "in time" in text else 60)
    assert run.status == "failed"
    assert run.answer is None
    assert run.error is not None
    assert run.error.code == "model_failed"
    assert re.search(text, run.error.text), run.error
    assert hint in run.error.hint
    assert run.error.hint


def test_too_many_requests_are_tried_again_after_the_time_the_server_names(provider):
    provider.rate_limit(times=2, retry_after=0.1)
    provider.reply(answer("42"))
    run = ask(provider, model_retries=3)
    assert (run.status, run.answer) == ("done", "42")
    provider.assert_resilient()


def test_a_failure_of_the_server_is_tried_again_and_a_refused_key_is_not(provider):
    provider.add(Fail(500, times=1))
    provider.reply(answer("42"))
    assert ask(provider, model_retries=1).status == "done"
    before = len(provider.requests)
    provider.add(Fail(401, times=None))
    assert ask(provider, model_retries=3).status == "failed"
    assert len(provider.requests) == before + 1


def test_the_planner_and_the_sub_model_are_told_apart(provider):
    provider.reply(code("print(llm_query(prompt='what?'))"))
    provider.reply("forty-two")
    provider.reply(code("SUBMIT(answer='42')"))
    prefix = "" if provider.route == "native" else "together_ai/"
    run = ask(provider, mode="rlm_only", sub_model=prefix + "small-test")
    assert run.status == "done"
    assert [request.model for request in provider.requests] == ["gpt-test", "small-test", "gpt-test"]
    assert "small-test" in run.model


@pytest.mark.parametrize(
    ("planner", "sub", "routes"),
    [("openai/big", "together_ai/small", (True, False)), ("together_ai/big", "openai/small", (False, True))],
    ids=["native planner", "LiteLLM planner"],
)
def test_the_planner_goes_over_one_engine_and_the_sub_model_over_the_other(server, planner, sub, routes):
    mock = LLMock(server)
    mock.reply(code("print(llm_query_batched(prompts=['what?', 'and what?']))"))
    mock.reply("forty-two", times=2)
    mock.reply(code("SUBMIT(answer='42')"))
    given = {"model": planner, "sub_model": sub, "api_base": mock.base_url("together"), "model_retries": 0}
    bench = Workbench(load(given, environ={}), UnisolatedSandboxes())
    models = bench.models()
    assert tuple(select_backend(lm).native for lm in (models.planner, models.sub)) == routes
    run = bench.ask(Question("how many?", context="there are 42", mode="rlm_only")).result(90)
    assert (run.status, run.answer) == ("done", "42"), run.error
    assert [request.model for request in mock.requests] == ["big", "small", "small", "big"]
    assert run.usage.calls == 4
    assert run.usage.tokens_in
    mock.reset()


@pytest.mark.parametrize("provider", ["native"], indirect=True)
@pytest.mark.parametrize(
    "model", ["m", "openai/m", "ollama/m", "ollama_chat/m", "hosted_vllm/m", "lm_studio/m", "vllm/m"]
)
def test_ollama_and_other_servers_of_ones_own_are_reached_by_their_address(provider, model):
    provider.reply(answer("42"))
    run = ask(provider, model=model)
    assert (run.status, run.answer) == ("done", "42"), run.error
    assert [request.model for request in provider.requests] == ["m"]


NATIVE_RUN = """
import os, sys
from fleet_rlm_jupyter.settings import load
from fleet_rlm_jupyter.testing import UnisolatedSandboxes
from fleet_rlm_jupyter.workbench import Question, Workbench
settings = load({"model": "m", "api_base": sys.argv[1]}, environ={})
run = Workbench(settings, UnisolatedSandboxes()).ask(Question("how many?", context="42", mode="direct")).result(60)
print(run.status, "litellm" in sys.modules, os.environ["LITELLM_LOCAL_MODEL_COST_MAP"])
"""


@pytest.mark.parametrize("provider", ["native"], indirect=True)
def test_a_native_route_never_loads_litellm_and_price_lists_stay_on_this_machine(provider):
    provider.reply(answer("42"))
    said = subprocess.check_output([sys.executable, "-c", NATIVE_RUN, provider.base_url()], text=True, timeout=60)
    assert said.split() == ["done", "False", "True"]


def test_a_server_that_is_not_there_is_said_with_the_address_to_check():
    bench = Workbench(
        load({"model": "gpt-test", "api_base": "http://127.0.0.1:9/v1", "model_retries": 0}, environ={}),
        UnisolatedSandboxes(),
    )
    run = bench.ask(Question("how many?", context="42", mode="direct")).result(60)
    assert run.status == "failed"
    assert run.error is not None
    assert "api_base" in run.error.hint


@pytest.fixture
def eavesdropper():
    """A server that answers like a model and keeps the headers it was sent, with the model that was asked for."""
    heard: list[dict[str, str]] = []

    class Answering(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            heard.append({**self.headers, "model": asked["model"]})
            piece = {"index": 0, "finish_reason": "stop", "delta": {"role": "assistant", "content": answer("42")}}
            chunk = {"id": "x", "object": "chat.completion.chunk", "model": "m", "choices": [piece]}
            body = f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n".encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answering) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{listening.server_port}/v1", heard
        listening.shutdown()


def test_no_key_is_sent_to_an_address_it_was_not_given_for(eavesdropper):
    url, heard = eavesdropper
    keys = {"OPENAI_API_KEY": "sk-secret-of-openai"}
    for given, expected in (({}, "Bearer none"), ({"api_key": "sk-mine"}, "Bearer sk-mine")):
        settings = load({"model": "gpt-test", "api_base": url, **given}, environ=keys)
        run = Workbench(settings, UnisolatedSandboxes()).ask(Question("?", context="42", mode="direct")).result(60)
        assert run.status == "done"
        assert heard[-1]["Authorization"] == expected
        assert "sk-" not in run.model_dump_json()


def test_a_env_file_beside_the_notebook_names_the_model_and_its_key_and_the_process_has_the_last_word(
    eavesdropper, tmp_path
):
    url, heard = eavesdropper
    (tmp_path / ".env").write_text(f"FLEET_MODEL=of-the-file\nFLEET_API_BASE={url}\nFLEET_API_KEY=sk-of-the-file\n")
    bare = {name: value for name, value in os.environ.items() if not name.startswith(("FLEET_", "DSPY_"))}
    manager, client = start_new_kernel(kernel_name="python3", cwd=str(tmp_path), env=bare)
    said: list[str] = []

    def run(cell: str) -> None:
        reply = client.execute_interactive(cell, output_hook=lambda message: said.append(str(message)), timeout=60)
        assert reply["content"]["status"] == "ok", said[-1]

    try:
        run("%load_ext fleet_rlm_jupyter\nlog = 'there are 42'")
        run("%%fleet --var log --mode direct -o result\nhow many?")
        run("%env FLEET_MODEL=of-the-process")
        run("import os; os.environ['FLEET_API_KEY'] = 'sk-of-the-process'")
        said.clear()
        run("%%fleet --var log --mode direct -o result\nhow many?")
        run("assert result.answer == '42', result.status")
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    assert [(one["model"], one["Authorization"]) for one in heard] == [
        ("of-the-file", "Bearer sk-of-the-file"),
        ("of-the-process", "Bearer sk-of-the-process"),
    ]
    assert "sk-of" not in "".join(said)
