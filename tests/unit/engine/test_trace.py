"""The trace: gapless, ended once, indifferent to its watchers."""

from __future__ import annotations

import threading

import pytest

from fleet_rlm_jupyter.domain.events import Log, RunEnded
from fleet_rlm_jupyter.engine.trace import Trace


def log(text: str) -> Log:
    return Log(level="info", text=text)


def test_events_of_many_threads_are_numbered_without_gaps():
    trace = Trace("r", "s")
    threads = [threading.Thread(target=lambda: [trace.append(log("x")) for _ in range(200)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [event.seq for event in trace.events] == list(range(1600))


def test_nothing_follows_the_end():
    trace = Trace("r", "s")
    trace.append(RunEnded(status="done"))
    assert trace.append(log("late")) is None
    assert trace.append(RunEnded(status="failed")) is None
    assert len(trace.events) == 1


def test_a_watcher_that_fails_is_dropped_and_the_run_goes_on():
    trace, seen = Trace("r", "s"), []

    def broken(event):
        seen.append(event.seq)
        raise ValueError("not my day")

    trace.watch(broken)
    for _ in range(3):
        trace.append(log("x"))
    assert seen == [0]
    assert len(trace.events) == 3


def test_a_late_watcher_sees_what_came_before_from_where_it_asks():
    trace, seen = Trace("r", "s"), []
    for _ in range(3):
        trace.append(log("x"))
    stop = trace.watch(lambda event: seen.append(event.seq), since=1)
    trace.append(log("x"))
    stop()
    trace.append(log("x"))
    assert seen == [1, 2, 3]


def test_following_delivers_each_event_once_and_ends_with_the_run():
    trace = Trace("r", "s")
    trace.append(log("a"))

    def emit() -> None:
        for _ in range(50):
            trace.append(log("b"))
        trace.append(RunEnded(status="done"))

    thread = threading.Thread(target=emit)
    thread.start()
    assert [event.seq for event in trace.follow(timeout=10)] == list(range(52))
    thread.join()


def test_following_a_silent_run_times_out():
    with pytest.raises(TimeoutError):
        next(Trace("r", "s").follow(timeout=0.01))
