"""The threads that serve a cell's calls."""

import threading

from fleet_rlm_jupyter.sandbox.callers import Callers

SECONDS = 20


def test_calls_one_after_the_other_share_threads():
    callers = Callers(8)
    served: list[int] = []
    done = threading.Event()

    def serve() -> None:
        served.append(threading.get_ident())
        if len(served) < 50:
            callers.submit(serve)
        else:
            done.set()

    callers.submit(serve)
    assert done.wait(SECONDS)
    assert len(set(served)) < 10


def test_calls_at_once_run_at_once_up_to_the_most_and_none_is_left_out():
    callers = Callers(4)
    barrier = threading.Barrier(4, timeout=SECONDS)
    lock, done = threading.Lock(), threading.Semaphore(0)
    running = most = 0

    def serve() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        barrier.wait()
        with lock:
            running -= 1
        done.release()

    for _ in range(40):
        callers.submit(serve)
    assert all(done.acquire(timeout=SECONDS) for _ in range(40))
    assert most == 4


def test_what_waits_when_it_is_closed_is_not_begun():
    callers = Callers(1)
    begun, go, late = threading.Event(), threading.Event(), threading.Event()
    callers.submit(lambda: begun.set() or go.wait(SECONDS))
    assert begun.wait(SECONDS)
    callers.submit(late.set)
    callers.close()
    go.set()
    callers.submit(go.set)
    assert not late.is_set()
