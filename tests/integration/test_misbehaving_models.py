"""Models that do not do what they are asked: each run has one end, with an error that says what to do, or an answer."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from fleet_rlm_jupyter.engine.recursion import MAX_ITERS
from fleet_rlm_jupyter.settings import load
from fleet_rlm_jupyter.testing import ScriptedEngine, UnisolatedSandboxes, code, scripted_workbench
from fleet_rlm_jupyter.workbench import Question, Workbench

LAST_WORDS = "[[ ## answer ## ]]\n41\n\n[[ ## completed ## ]]"


def is_step(prompt: str) -> bool:
    """Whether the planner is asked for a next step, and not for its last words."""
    return "[[ ## iteration ## ]]" in prompt


def ask(script, mode="rlm_only"):
    bench = scripted_workbench(ScriptedEngine(script), home=UnisolatedSandboxes())
    live = bench.ask(Question("how many?", context="there are 42", mode=mode))
    return live.result(60), live.trace.events


def always(step: str, last: str = "well"):
    return lambda prompt: step if is_step(prompt) else last


FORM = "did not have the form"
NO_ANSWER = "submitted no answer"
MISBEHAVING = {
    "nothing": ("", "answered nothing", 1),
    "prose without code": ("I would read the text and then say 42.", FORM, 2),
    "a thought without code": ("[[ ## reasoning ## ]]\nHm.\n\n[[ ## completed ## ]]", FORM, 2),
    "half an object": ('{"answer": ', FORM, 2),
    "empty code": (code(""), NO_ANSWER, MAX_ITERS + 2),
    "prose as code": (code("I think that it is 42"), NO_ANSWER, MAX_ITERS + 2),
    "an answer under no name": (code("SUBMIT()"), NO_ANSWER, MAX_ITERS + 2),
    "an answer under another name": (code("SUBMIT(number=42)"), NO_ANSWER, MAX_ITERS + 2),
    "code that never submits": (code("print(len(context))"), NO_ANSWER, MAX_ITERS + 2),
}


@pytest.mark.parametrize("kind", MISBEHAVING)
def test_a_planner_that_says_nothing_usable_fails_with_the_next_step_and_does_not_go_on_for_ever(kind):
    reply, text, calls = MISBEHAVING[kind]
    run, events = ask(always(reply))
    assert run.status == "failed"
    assert run.answer is None
    assert run.error is not None
    assert run.error.code == "model_failed"
    assert text in run.error.text
    assert run.error.hint
    assert run.usage.calls <= calls
    assert [event.fact.type for event in events].count("run.ended") == 1


def test_an_answer_that_was_never_submitted_is_given_and_marked_as_drawn_from_the_steps():
    run, events = ask(always(code("print(41)"), LAST_WORDS))
    assert (run.status, run.answer) == ("done", "41")
    assert run.usage.calls == MAX_ITERS + 1
    warnings = [event.fact.text for event in events if event.fact.type == "log"]
    assert warnings == [f"no answer was submitted in {MAX_ITERS} steps: this one was drawn from what the steps printed"]


def test_a_submitted_answer_is_not_marked():
    _, events = ask(always(code("SUBMIT(answer='42')")))
    assert "log" not in [event.fact.type for event in events]


def test_a_child_that_misbehaves_is_an_error_in_its_place_and_the_run_goes_on():
    def script(prompt: str) -> str:
        if "the part" in prompt:
            return "Just prose."
        return code("SUBMIT(answer=str(sub_rlm_batched(prompts=['the part'])[0]['error']['code']))")

    run, _ = ask(lambda prompt: script(prompt.split("=== Step")[0]) if is_step(prompt) else "well")
    assert (run.status, run.answer) == ("done", "model_failed")


def chunk(**delta: object) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": None if delta else "stop"}
    body = {"id": "x", "object": "chat.completion.chunk", "model": "m", "choices": [choice]}
    return f"data: {json.dumps(body)}\n\n".encode()


CUTS = {
    "ends without an end": (b"", "broke off"),
    "goes on as no JSON": (b"data: {oops\n\n", "no answer"),
}


@pytest.mark.parametrize("cut", CUTS)
def test_a_stream_that_is_cut_in_mid_run_ends_the_run_and_keeps_what_was_seen(cut):
    rest, text = CUTS[cut]
    step = code("print('seen: 42')")
    whole = chunk(content=step) + chunk() + b"data: [DONE]\n\n"
    bodies = iter([whole, chunk(content=step[:30]) + rest])

    class Cutting(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            self.wfile.write(next(bodies))

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Cutting) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/v1"
        settings = load({"model": "gpt-test", "api_base": url, "model_retries": 0}, environ={})
        live = Workbench(settings, UnisolatedSandboxes()).ask(Question("how many?", context="42", mode="rlm_only"))
        run = live.result(60)
        server.shutdown()
    assert run.status == "failed"
    assert run.answer is None
    assert run.error is not None
    assert run.error.code == "model_failed"
    assert text in run.error.text
    assert "seen: 42" in "".join(event.encode() for event in live.trace.events)
    assert run.usage.calls == 2
