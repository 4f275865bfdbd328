"""The line to a guest: what is lost is sent again, exactly once and in order; what is forged does no harm."""

from __future__ import annotations

import os
import queue
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet_rlm_jupyter.domain.errors import SandboxLost
from fleet_rlm_jupyter.sandbox import cell as cell_module
from fleet_rlm_jupyter.sandbox import kernel_link
from fleet_rlm_jupyter.sandbox.cell import Cell, Done
from fleet_rlm_jupyter.sandbox.codec import MARK, FrameReader, encode
from fleet_rlm_jupyter.sandbox.guest_line import Outbox
from fleet_rlm_jupyter.sandbox.kernel_link import KernelLink
from fleet_rlm_jupyter.sandbox.output import Brake

SECONDS = 10


class Wire:
    """A machine whose guest is the test: `sent` is what the host said, `answers` react to it."""

    home = "/home/x"

    def __init__(self, *answers: Any) -> None:
        self.sent: list[dict[str, Any]] = []
        self.signals: list[int] = []
        self.files: dict[str, bytes] = {}
        self.link = KernelLink(self)
        self._reader = FrameReader()
        self._answers = answers
        self._number = 0

    def send(self, data: bytes) -> None:
        for frame in self._reader.feed(data):
            self.sent.append(frame)
            for answer in self._answers:
                for said in answer(frame) or ():
                    self.say(**said)

    def say(self, **frame: Any) -> None:
        self._number += 1
        self.link.feed(encode({"s": self._number, **frame}))

    def signal(self, pid: int, number: int) -> None:
        self.signals.append(number)

    def put(self, path: str, data: bytes) -> None:
        self.files[path] = data

    def get(self, path: str, most: int) -> bytes:
        if len(self.files[path]) > most:
            raise ValueError("too many bytes")
        return self.files[path]

    def run(self, tool: Any = None, seconds: float = SECONDS, chars: int = 1000) -> Done:
        cell = Cell("code", ["tool"], None, {}, {}, [], chars, seconds)
        return self.link.run(cell, lambda name, args, kwargs: tool(*args, **kwargs), None)


def on(kind: str, *said: dict[str, Any]) -> Any:
    """Say `said` when the host says `kind`, with its cell's number; a cell sent again is not run again."""
    seen: list[Any] = []

    def answer(frame: dict[str, Any]) -> list[dict[str, Any]] | None:
        if frame["t"] != kind or frame in seen:
            return None
        seen.append(frame)
        return [{"c": frame.get("c"), **one} for one in said]

    return answer


DONE = {"t": "done", "ok": True}


def flow(link: KernelLink) -> list[Any]:
    items: list[Any] = []
    while True:
        try:
            items.append(link.next(0)["n"])
        except queue.Empty:
            return items


faults = st.lists(st.tuples(st.sampled_from(["drop", "twice", "swap", "cut"]), st.integers(0, 100)), max_size=6)


@given(st.integers(1, 60), st.lists(faults, max_size=4))
def test_whatever_happens_on_the_line_each_frame_is_delivered_once_and_in_order(count, rounds):
    reading, writing = os.pipe()
    wire = Wire()
    outbox = Outbox(writing, Brake())
    try:
        for number in range(count):
            outbox.send({"t": "out", "n": number})
        for faulty in [*rounds, []]:
            sent = [MARK + piece for piece in os.read(reading, 1 << 20).split(MARK)[1:]]
            for kind, place in faulty if sent else []:
                at = place % len(sent)
                if kind == "drop":
                    sent[at] = b""
                elif kind == "twice":
                    sent[at] *= 2
                elif kind == "swap":
                    sent[at], sent[at - 1] = sent[at - 1], sent[at]
                else:
                    sent[at] = sent[at][: place % 30]
            wire.link.feed(b"".join(sent))
            wire.link.reconnected()
            assert wire.sent[-1]["t"] == "hello"
            outbox.resume(wire.sent[-1]["n"])
            if wire.sent[-1]["n"] == count:  # nothing is left to resume
                break
            os.set_blocking(reading, True)
        else:
            wire.link.feed(os.read(reading, 1 << 20))
        assert flow(wire.link) == list(range(count))
    finally:
        os.close(reading)
        os.close(writing)


def test_a_guest_waits_for_a_host_that_does_not_acknowledge_and_goes_on_when_it_does():
    reading, writing = os.pipe()
    outbox = Outbox(writing, Brake())
    total = 200
    sender = threading.Thread(target=lambda: [outbox.send({"t": "out", "n": n}) for n in range(total)], daemon=True)
    sender.start()
    got: list[int] = []
    reader = FrameReader()
    most_ahead = 0
    while len(got) < total:
        for frame in reader.feed(os.read(reading, 4096)):
            got.append(frame["n"])
            most_ahead = max(most_ahead, frame["s"] - (got[0] if got else 0))
            if frame["s"] % 64 == 0 or frame["s"] == total:
                outbox.acknowledge(frame["s"])
    sender.join(SECONDS)
    assert got == list(range(total))


def test_large_frames_are_held_by_their_bytes():
    reading, writing = os.pipe()
    outbox = Outbox(writing, Brake())
    drained = threading.Thread(target=lambda: [os.read(reading, 1 << 20) for _ in iter(int, 1)], daemon=True)
    drained.start()
    sent: list[int] = []
    sender = threading.Thread(
        target=lambda: [(outbox.send({"t": "out", "x": "x" * 200_000}), sent.append(n)) for n in range(6)], daemon=True
    )
    sender.start()
    sender.join(0.3)
    assert sender.is_alive()
    assert len(sent) <= 4
    while sender.is_alive():
        outbox.acknowledge(len(sent))
        sender.join(0.01)
    assert len(sent) == 6


def test_answers_that_may_be_lost_are_sent_again_after_a_break():
    calls = [{"t": "call", "i": str(n), "fn": "tool", "a": [n], "k": {}} for n in range(3)]
    seen = threading.Event()

    def guest(frame: dict[str, Any]) -> list[dict[str, Any]] | None:
        answered = {sent["i"] for sent in wire.sent if sent["t"] == "ret"}
        if len(answered) == 3 and not seen.is_set():
            seen.set()
            threading.Thread(target=lambda: (wire.link.reconnected(), wire.say(c="1", **DONE)), daemon=True).start()
        return None

    wire = Wire(on("exec", *calls), guest)
    assert wire.run(lambda n: n + 10).error is None
    after = [frame["t"] for frame in wire.sent[[frame["t"] for frame in wire.sent].index("hello") :]]
    assert after.count("exec") == 1
    assert after.count("ret") == 3


def test_answers_are_kept_up_to_a_bound_only(monkeypatch):
    monkeypatch.setattr(kernel_link, "MOST_ANSWER_BYTES", 10_000)
    count = 50
    calls = [{"t": "call", "i": str(n), "fn": "tool", "a": [], "k": {}} for n in range(count)]

    def guest(frame: dict[str, Any]) -> list[dict[str, Any]] | None:
        if sum(sent["t"] == "ret" for sent in wire.sent) == count and frame["t"] == "ret":
            return [{"c": "1", **DONE}]
        return None

    wire = Wire(on("exec", *calls), guest)
    wire.run(lambda: "x" * 1000)
    assert sum(map(len, wire.link._answers)) <= 10_000


# --- forged frames --------------------------------------------------------------------------------------------------

FORGED = [
    {"t": "lost"},
    {"t": "stop"},
    {"t": "answered"},
    {"t": "raised", "error": "x"},
    {"t": "ready"},
    {"t": "nonsense"},
    {"t": "out"},
    {"t": "out", "k": ["x"], "x": {"a": 1}},
    {"t": "call"},
    {"t": "call", "i": {"a": 1}, "fn": ["x"], "a": {}, "k": []},
    {"t": "call", "i": "1", "fn": "tool", "a": [{"~": ["set", [[1]]]}], "k": {}},
    {"t": "call", "i": "1", "fn": "tool", "a": [], "k": {"~": ["dict", [[1, 2]]]}},
    {"t": "call", "i": "../../x", "fn": "tool", "f": "/etc/passwd"},
    {"t": "call", "i": "1", "fn": "tool", "f": "/home/x/.fleet/../../etc/passwd"},
    {"t": "call", "i": "1", "fn": "tool", "f": 5},
    {"t": "done"},
    {"t": "done", "c": "99", "ok": True},
]


@pytest.mark.parametrize("forged", FORGED, ids=str)
def test_a_forged_frame_neither_breaks_the_host_nor_touches_its_files(forged):
    def stray(frame: dict[str, Any]) -> list[dict[str, Any]]:
        return [{**forged, "c": forged.get("c", "x")}, {"c": frame["c"], "t": "out", "k": "stdout", "x": "hi"}]

    answers = (lambda frame: stray(frame) if frame["t"] == "exec" else None, on("exec", DONE))
    wire = Wire(*answers)
    assert wire.run(lambda *args, **kwargs: None).text.endswith("hi")


@pytest.mark.parametrize(
    "forged",
    [
        {"final": [1]},
        {"final": {"~": ["set", [[1]]]}},
        {"final": 5},
        {"final_file": "/etc/passwd"},
        {"final_file": 7},
    ],
    ids=str,
)
def test_a_forged_submit_is_an_error_of_the_cell(forged):
    done = Wire(on("exec", {**DONE, **forged})).run()
    assert done.error == "ValueError"
    assert done.final is None


@pytest.mark.parametrize("forged", [{"ok": 1}, {"ok": None, "err": 5, "msg": ["x"], "tb": {}}, {"ok": False}], ids=str)
def test_a_forged_end_is_an_error_of_the_cell(forged):
    done = Wire(on("exec", {"t": "done", **forged})).run()
    assert done.error
    assert isinstance(done.message, str)
    assert isinstance(done.trace, str)


def test_a_submit_too_large_for_this_side_is_an_error_that_the_model_reads(monkeypatch):
    monkeypatch.setattr(cell_module, "MOST_SUBMITTED", 20)
    wire = Wire(on("exec", {"t": "done", "ok": True, "final_file": "/home/x/.fleet/final-0123456789abcdef"}))
    wire.files["/home/x/.fleet/final-0123456789abcdef"] = b'{"output": "' + b"x" * 20 + b'"}'
    done = wire.run()
    assert done.final is None
    assert (done.error, done.message) == ("ValueError", "too many bytes")
    monkeypatch.setattr(cell_module, "MOST_SUBMITTED", 40)
    assert wire.run().final == {"output": "x" * 20}


def test_a_guest_that_ignores_the_bound_of_output_is_cut():
    flood = [{"t": "out", "k": "stdout", "x": "x" * 10_000}] * 50
    assert len(Wire(on("exec", *flood, DONE)).run(chars=1000).text) <= 3000


def test_a_flood_of_frames_does_not_fill_the_memory(monkeypatch):
    monkeypatch.setattr(kernel_link, "MOST_WAITING", 100)
    wire = Wire()
    for _ in range(1000):
        wire.say(t="out", x="x" * 1000)
    assert wire.link._inbox.qsize() == 100


def test_an_answer_with_a_wrong_first_frame_is_a_lost_sandbox():
    for said in ({"t": "out"}, {"t": "ready"}, {"t": "ready", "pid": "1"}):
        wire = Wire()
        wire.say(**said)
        with pytest.raises(SandboxLost, match="did not start"):
            wire.link.wait_ready(SECONDS)
    with pytest.raises(SandboxLost, match=r"within 0\.01 seconds"):
        Wire().link.wait_ready(0.01)


def test_the_ladder_ends_with_the_sandbox_when_nothing_helps(monkeypatch):
    monkeypatch.setattr("fleet_rlm_jupyter.sandbox.cell.STEP_SECONDS", 0.05)
    wire = Wire()
    with pytest.raises(SandboxLost, match="could not be interrupted"):
        wire.run(seconds=0.05)
    assert [frame["t"] for frame in wire.sent] == ["exec", "int"]
    assert wire.signals == [2, 9]
    with pytest.raises(SandboxLost):
        wire.run()
