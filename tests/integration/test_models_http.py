"""Real HTTP against a local OpenAI-compatible server: what the model answers, refuses and fails to say."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from dspy.clients.backend_selection import select_backend
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


@pytest.fixture
def provider(server):
    mock = LLMock(server)
    yield mock
    mock.reset()


def answer(text: str) -> str:
    return f"[[ ## answer ## ]]\n{text}\n\n[[ ## completed ## ]]"


def ask(provider: LLMock, mode: str = "direct", **settings) -> Run:
    given = {"model": "gpt-test", "api_base": provider.base_url(), "model_retries": 0, **settings}
    bench = Workbench(load(given, environ={}), UnisolatedSandboxes())
    return bench.ask(Question("how many?", context="there are 42", mode=mode)).result(60)


def test_an_answer_comes_back_with_the_tokens_the_server_counted(provider):
    provider.reply(answer("42"))
    run = ask(provider)
    assert (run.status, run.answer) == ("done", "42")
    assert run.usage.calls == 1
    assert run.usage.tokens_in
    assert run.usage.cost is None, "a server of one's own has no price list"
    assert run.model == "gpt-test"


def test_a_recursive_run_goes_over_http_too(provider):
    provider.reply(code("print(llm_query(prompt='what?'))"))
    provider.reply("forty-two")
    provider.reply(code("SUBMIT(answer='forty-two')"))
    run = ask(provider, mode="rlm_only")
    assert (run.status, run.answer) == ("done", "forty-two")
    assert run.usage.calls == 3


def test_the_answer_is_seen_as_it_arrives_and_on_the_call_that_gives_it(provider):
    provider.pace(30)
    provider.reply(answer("forty-two, and here are some more words so that it takes a while"))
    bench = Workbench(load({"model": "gpt-test", "api_base": provider.base_url()}, environ={}), UnisolatedSandboxes())
    live = bench.ask(Question("how many?", context="there are 42", mode="direct"))
    assert live.result(60).status == "done"
    events = live.trace.events
    pieces = [event for event in events if event.fact.type == "call.text" and event.fact.channel == "answer"]
    ended = next(event.seq for event in events if event.fact.type == "call.ended")
    assert len(pieces) >= 2, "it comes in more than one piece"
    assert all(piece.seq < ended for piece in pieces)
    (call,) = live.tree().calls.values()
    assert call.texts["answer"] == answer("forty-two, and here are some more words so that it takes a while")


@pytest.mark.parametrize("fault", ["disconnect", "truncate", "corrupt"])
def test_an_answer_that_breaks_off_is_a_failure_and_never_half_an_answer(provider, fault):
    provider.reply(answer("forty-two and many more words"), times=None)
    getattr(provider, fault)(after_chunks=2, times=None)
    run = ask(provider)
    assert run.status == "failed"
    assert run.answer is None
    assert run.error is not None
    assert run.error.code == "model_failed"
    assert run.error.hint


def test_a_servers_own_failure_is_said(provider):
    provider.add(Fail(500, times=None))
    run = ask(provider)
    assert run.status == "failed"
    assert run.error is not None
    assert "error of its own" in run.error.text


def test_a_refused_key_is_said_with_the_next_step(provider):
    provider.add(Fail(401, times=None))
    run = ask(provider)
    assert run.status == "failed"
    assert run.error is not None
    assert run.error.code == "model_failed"
    assert "refused the key" in run.error.text
    assert "key" in run.error.hint


def test_too_many_requests_are_tried_again_after_the_time_the_server_names(provider):
    provider.rate_limit(times=2, retry_after=0.1)
    provider.reply(answer("42"))
    run = ask(provider, model_retries=3)
    assert (run.status, run.answer) == ("done", "42")
    provider.assert_resilient()


def test_too_many_requests_for_too_long_is_said_with_the_next_step(provider):
    provider.rate_limit(times=None, retry_after=0.01)
    run = ask(provider)
    assert run.status == "failed"
    assert run.error is not None
    assert "too many requests" in run.error.text


def test_a_server_that_is_too_slow_is_said_with_the_setting_to_raise(provider):
    provider.delay(5)
    run = ask(provider, model_seconds=0.3)
    assert run.status == "failed"
    assert run.error is not None
    assert run.error.code == "model_failed"
    assert "model_seconds" in run.error.hint or "api_base" in run.error.hint


def test_an_empty_answer_is_a_failure(provider):
    provider.reply("", times=None)
    run = ask(provider)
    assert run.status == "failed"


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
    """A server that answers like a model and keeps the headers it was sent."""
    heard: list[dict[str, str]] = []

    class Answering(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            heard.append(dict(self.headers))
            self.rfile.read(int(self.headers["Content-Length"]))
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


def test_the_planner_and_the_sub_model_are_told_apart(provider):
    provider.reply(code("print(llm_query(prompt='what?'))"))
    provider.reply("forty-two")
    provider.reply(code("SUBMIT(answer='42')"))
    run = ask(provider, mode="rlm_only", sub_model="small-test")
    assert run.status == "done"
    assert [request.model for request in provider.requests] == ["gpt-test", "small-test", "gpt-test"]
    assert "small-test" in run.model


def ask_through_litellm(server: LLMockServer, **settings) -> Run:
    given = {"model": "together_ai/test", "api_base": server.base_url("together"), "model_retries": 0, **settings}
    bench = Workbench(load(given, environ={}), UnisolatedSandboxes())
    assert not select_backend(bench.models().planner).native, "this provider goes through LiteLLM"
    return bench.ask(Question("how many?", context="there are 42", mode="direct")).result(90)


LITELLM_FAULTS = {
    "a refused key": (lambda mock: mock.add(Fail(401, times=None)), "refused the key"),
    "too many requests": (lambda mock: mock.rate_limit(times=None, retry_after=0.01), "too many requests"),
    "its own failure": (lambda mock: mock.add(Fail(500, times=None)), "error of its own"),
    "an empty answer": (lambda mock: mock.reply("", times=None), ""),
    "a line that breaks": (lambda mock: mock.disconnect(after_chunks=2, times=None), ""),
    "a stream that is cut": (lambda mock: mock.truncate(after_chunks=2, times=None), ""),
    "a body that is no JSON": (lambda mock: mock.corrupt(after_chunks=2, times=None), ""),
}


def test_through_litellm_an_answer_comes_back_too(server, provider):
    provider.reply(answer("42"))
    run = ask_through_litellm(server)
    assert (run.status, run.answer) == ("done", "42")


@pytest.mark.parametrize("fault", LITELLM_FAULTS)
def test_through_litellm_failures_are_said_in_the_same_words(server, provider, fault):
    provoke, text = LITELLM_FAULTS[fault]
    provoke(provider)
    run = ask_through_litellm(server)
    assert run.status == "failed"
    assert run.answer is None
    assert run.error is not None
    assert run.error.code == "model_failed"
    assert text in run.error.text
    assert run.error.hint


def test_through_litellm_a_slow_server_is_said(server, provider):
    provider.delay(5)
    run = ask_through_litellm(server, model_seconds=0.5)
    assert run.status == "failed"
    assert run.error is not None
    assert "in time" in run.error.text or "could not be reached" in run.error.text
