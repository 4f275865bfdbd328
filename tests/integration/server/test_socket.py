"""The socket: what is asked is answered once, what happens comes once and in order, and bad frames harm nobody."""

from __future__ import annotations

import json
import socket as sockets
import threading

import pytest
import websocket
from jupyter_process import wait_until
from worker_thread import WorkerThread, talk

from fleet_rlm_jupyter.domain.events import CallText
from fleet_rlm_jupyter.server import feeds
from fleet_rlm_jupyter.server import socket as socket_module
from fleet_rlm_jupyter.server.socket import MAX_STRIKES
from fleet_rlm_jupyter.testing import ScriptedEngine, code, scripted_workbench


@pytest.fixture(scope="module")
def engine():
    return ScriptedEngine(lambda prompt: code("SUBMIT(answer='forty-two')"))


@pytest.fixture(scope="module")
def worker(engine):
    thread = WorkerThread(scripted_workbench(engine))
    yield thread
    thread.close()


@pytest.fixture
def socket(worker):
    connection = worker.socket()
    yield connection
    connection.close()


def says(emit, count, text="x"):
    for number in range(count):
        # Of many calls, for the text of one is bounded where it is recorded.
        emit(CallText(channel="stdout", text=f"{text}{number}"), f"c{number % 200}")


def test_a_question_is_accepted_and_its_events_follow_without_gaps_to_the_one_end(socket):
    accepted = socket.reply(op="ask", id="7", question="what is it?", mode="rlm_only")
    assert (accepted["type"], accepted["id"], accepted["op"]) == ("accepted", "7", "ask")
    events = socket.follow_to_the_end(accepted["run_id"])
    assert [event["seq"] for event in events] == list(range(len(events)))
    assert events[0]["type"] == "run.started"
    assert events[-1]["data"]["answer"] == "forty-two"
    assert [event["type"] for event in events].count("run.ended") == 1
    assert events[0]["session_id"] == accepted["session_id"]


def test_a_run_is_followed_from_any_event_on_while_it_goes_on_and_when_it_is_over(worker, socket):
    go_on = threading.Event()

    def work(emit):
        says(emit, 5)
        assert go_on.wait(30)
        says(emit, 5)

    live = talk(worker.bench, "ann", work)
    assert socket.reply(op="follow", run_id=live.run_id, since=2)["type"] == "ok"
    while len(socket.events.get(live.run_id, [])) < 4:
        socket.receive()
    go_on.set()
    events = socket.follow_to_the_end(live.run_id)
    assert [event["seq"] for event in events] == list(range(2, 12))
    later = worker.socket()
    later.reply(op="follow", run_id=live.run_id, since=9)
    assert [event["seq"] for event in later.follow_to_the_end(live.run_id)] == [9, 10, 11]
    later.close()


def test_a_reader_who_comes_back_again_and_again_gets_every_event_once(worker):
    paused = threading.Semaphore(0)

    def work(emit):
        for number in range(40):
            says(emit, 25, f"{number}-")
            assert paused.acquire(timeout=30)

    live, got = talk(worker.bench, "ann", work), []
    for _ in range(40):
        reader = worker.socket()
        reader.reply(op="follow", run_id=live.run_id, since=len(got))
        while not reader.events.get(live.run_id):
            reader.receive()
        got += reader.events[live.run_id]
        reader.line.sock.close()  # torn, not closed
        paused.release()
    reader = worker.socket()
    reader.reply(op="follow", run_id=live.run_id, since=len(got))
    got += reader.follow_to_the_end(live.run_id)
    reader.close()
    assert [event["seq"] for event in got] == list(range(1002))


def test_the_same_key_never_runs_twice(worker, engine):
    before, ids = engine.calls, set()
    for _ in range(3):
        connection = worker.socket()
        accepted = connection.reply(op="ask", question="once?", mode="rlm_only", key="k-1")
        ids.add(accepted["run_id"])
        connection.follow_to_the_end(accepted["run_id"])
        connection.close()
    assert len(ids) == 1
    assert engine.calls == before + 1


def test_a_key_of_another_question_is_refused(socket):
    socket.reply(op="ask", question="one?", key="k-2")
    refused = socket.reply(op="ask", question="two?", key="k-2")
    assert (refused["type"], refused["code"]) == ("error", "key_reused")


def test_several_watch_one_run_and_a_watcher_needs_nothing_but_its_id(worker):
    live = talk(worker.bench, "ann", lambda emit: says(emit, 300))
    readers = [worker.socket() for _ in range(5)]
    for reader in readers:
        reader.reply(op="follow", run_id=live.run_id)
    seen = [json.dumps(reader.follow_to_the_end(live.run_id)) for reader in readers]
    assert len(set(seen)) == 1
    for reader in readers:
        reader.close()


def test_cancel_stops_a_run_and_is_harmless_afterwards(worker, socket):
    live = talk(worker.bench, "ann", lambda emit: live_budget.wait(30))
    socket.reply(op="follow", run_id=live.run_id)
    assert socket.reply(op="cancel", run_id=live.run_id, id="c")["type"] == "ok"
    live_budget.set()
    assert socket.follow_to_the_end(live.run_id)[-1]["data"]["status"] == "cancelled"
    assert socket.reply(op="cancel", run_id=live.run_id)["type"] == "ok"


live_budget = threading.Event()
SMALL = ((sockets.SOL_SOCKET, sockets.SO_RCVBUF, 65_536),)


def test_a_second_question_in_a_busy_session_is_refused_or_queued_as_the_caller_wants(worker, socket, engine):
    session_id = worker.ask("POST", "/sessions", json={"title": "busy"}).json()["session_id"]
    engine._seconds = 0.3
    try:
        first = socket.reply(op="ask", question="first", session_id=session_id, mode="rlm_only")
        second = socket.reply(op="ask", question="second", session_id=session_id)
        assert (second["type"], second["code"]) == ("error", "session_busy")
        third = socket.reply(op="ask", question="third", session_id=session_id, mode="rlm_only", when_busy="queue")
        assert third["type"] == "accepted"
    finally:
        engine._seconds = 0
    begun = socket.follow_to_the_end(third["run_id"])[0]["at"]
    assert begun >= socket.follow_to_the_end(first["run_id"])[-1]["at"]


BAD = {
    "bad_json": ["{", "", "null", "[]", '"ask"', "{'op': 1}", '{"op": NaN}', "[" * 100_000, "\ud7ff"],
    "unknown_op": ['{"op": "dance"}', '{"op": 7}', "{}", '{"op": ["ask"]}', '{"op": null}'],
    "unknown_field": ['{"op": "ask", "question": "q", "user_id": "root"}', '{"op": "cancel", "run_id": "r", "x": 1}'],
    "missing_field": ['{"op": "ask"}', '{"op": "follow"}', '{"op": "cancel"}'],
    "wrong_type": [
        '{"op": "ask", "question": 7}', '{"op": "follow", "run_id": "r", "since": -1}',
        '{"op": "follow", "run_id": "r", "since": 1e400}', '{"op": "ask", "question": "q", "mode": "magic"}',
        '{"op": "follow", "run_id": "r", "since": 99999999999999999999}', '{"op": "ask", "question": "\\ud800"}',
    ],
    "too_deep": ['{"op": "ask", "question": ' + "[" * 40 + "]" * 40 + "}"],
    "too_large": [json.dumps({"op": "ask", "question": "x" * 1_100_000})],
    "no_such_session": ['{"op": "ask", "question": "q", "session_id": "s-0"}'],
    "no_such_run": ['{"op": "follow", "run_id": "r-0"}', '{"op": "cancel", "run_id": "r-0"}'],
    "bad_request": [
        '{"op": "ask", "question": "   "}', '{"op": "ask", "question": "q", "staged": "../x"}',
        '{"op": "ask", "question": "q", "staged": "%s"}' % ("0" * 64),
        '{"op": "ask", "question": "q", "repo_ref": "main"}',
    ],
    "bad_path": [
        '{"op": "ask", "question": "q", "paths": ["/etc/passwd"]}', '{"op": "ask", "question": "q", "paths": [".."]}',
        '{"op": "ask", "question": "q", "paths": ["\\u0000"]}', '{"op": "ask", "question": "q", "paths": ["nowhere"]}',
        '{"op": "ask", "question": "q", "context_paths": ["/etc/passwd"]}',
    ],
}  # fmt: skip


@pytest.mark.parametrize("expected", BAD)
def test_a_bad_frame_is_one_error_with_a_stable_code_and_the_socket_stays_usable(socket, expected):
    for text in BAD[expected]:
        socket.line.send(text)
        answer = socket.receive()
        assert (answer["type"], answer["code"]) == ("error", expected), text[:80]
        assert "Traceback" not in answer["message"]
    assert socket.reply(op="ask", id="still here", question="q", mode="rlm_only")["id"] == "still here"


def test_a_binary_frame_is_told_so(socket):
    socket.line.send_binary(b'{"op": "ask"}')
    assert socket.receive()["code"] == "binary_frame"


def test_the_id_of_a_frame_comes_back_also_with_an_error(socket):
    assert socket.reply(op="ask", id="x-1", nonsense=True)["id"] == "x-1"


def test_what_nobody_asked_cannot_be_answered_nor_a_call_that_is_not_there_be_stopped(worker, socket):
    go_on = threading.Event()
    live = talk(worker.bench, "ann", lambda emit: go_on.wait(30))
    try:
        assert socket.reply(op="answer", run_id=live.run_id, call_id="c", text="yes")["code"] == "bad_request"
        assert socket.reply(op="cancel", run_id=live.run_id, call_id="c")["code"] == "bad_request"
    finally:
        go_on.set()


def test_nothing_but_bad_frames_closes_the_socket(worker):
    connection = worker.socket()
    for _ in range(MAX_STRIKES):
        connection.line.send("nonsense")
    kind, data = 0, b""
    while kind != websocket.ABNF.OPCODE_CLOSE:
        kind, data = connection.line.recv_data()
    assert int.from_bytes(data[:2], "big") == 1008


def test_a_stalled_reader_holds_nothing_back_and_reads_the_rest_from_the_store(worker, monkeypatch):
    """More than the window and the buffers on the way hold, and nobody reads."""
    monkeypatch.setattr(feeds, "WINDOW_EVENTS", 200)
    stalled, reader = worker.socket(sockopt=SMALL), worker.socket()
    begin = threading.Event()

    def work(emit):
        assert begin.wait(30)
        says(emit, 3000, "y" * 3000)

    live = talk(worker.bench, "ann", work)
    for connection in (stalled, reader):
        connection.reply(op="follow", run_id=live.run_id)
    begin.set()
    assert live.wait(60), "the run does not wait for who does not read"
    assert len(reader.follow_to_the_end(live.run_id)) == 3002
    events = stalled.follow_to_the_end(live.run_id)
    assert [event["seq"] for event in events] == list(range(3002))
    told = [frame for frame in stalled.frames if frame["type"] == "resync"]
    assert told
    assert told[0]["run_id"] == live.run_id
    stalled.close()
    reader.close()


def test_events_come_in_at_most_twenty_frames_a_second(worker, socket):
    pause = threading.Event()

    def work(emit):
        for number in range(200):
            says(emit, 1, str(number))
            pause.wait(0.005)

    live = talk(worker.bench, "ann", work)
    socket.reply(op="follow", run_id=live.run_id)
    events = socket.follow_to_the_end(live.run_id)
    seconds = events[-1]["at"] - events[0]["at"]
    assert len([frame for frame in socket.frames if frame["type"] == "events"]) <= 20 * seconds + 3


def test_a_socket_on_which_nothing_happens_says_now_and_then_that_it_lives(worker, monkeypatch):
    monkeypatch.setattr(socket_module, "HEARTBEAT_SECONDS", 0.1)
    connection = worker.socket()
    beats = [connection.receive() for _ in range(3)]
    assert [beat["type"] for beat in beats] == ["heartbeat"] * 3
    assert beats[0]["at"] < beats[1]["at"] < beats[2]["at"]
    connection.close()


def test_a_run_of_somebody_else_is_as_if_it_were_not_there(worker):
    live = talk(worker.bench, "ann", lambda emit: says(emit, 3))
    live.result(30)
    bob = worker.socket("bob")
    for op in ({"op": "follow"}, {"op": "cancel"}, {"op": "answer", "call_id": "c", "text": "t"}):
        assert bob.reply(**op, run_id=live.run_id)["code"] == "no_such_run"
    bob.close()


def test_without_the_key_there_is_no_socket(worker):
    for header in ([], ["X-Fleet-Key: guess", "X-Fleet-User: ann"], ["X-Fleet-Key: k3y"]):
        with pytest.raises(websocket.WebSocketBadStatusException) as refused:
            websocket.create_connection(f"ws://127.0.0.1:{worker.port}/fleet/api/v1/ws", header=header, timeout=30)
        assert refused.value.status_code == 403


def test_the_server_is_told_how_many_runs_go_on(worker):
    connection = worker.socket()
    accepted = connection.reply(op="ask", question="q", mode="rlm_only")
    connection.follow_to_the_end(accepted["run_id"])
    connection.close()
    assert max(worker.running) >= 1
    # The end is on its way before the run is counted out.
    wait_until(lambda: worker.ask("GET", "/status").json()["worker"]["running"] == 0 == worker.running[-1])
