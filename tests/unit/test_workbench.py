"""The Workbench of a process."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from threading import Barrier, BrokenBarrierError

from fleet_rlm_jupyter import workbench


def test_of_many_threads_that_come_first_one_makes_the_default_workbench(monkeypatch):
    made, together = [], Barrier(6)

    class Slow:
        def __init__(self):
            made.append(self)
            # Whoever is alone here waits in vain, and then each of the others could have been here too.
            with suppress(BrokenBarrierError):
                together.wait(0.3)

    monkeypatch.setattr(workbench, "Workbench", Slow)
    monkeypatch.setattr(workbench, "_default", cache(workbench._default.__wrapped__))
    with ThreadPoolExecutor(6) as pool:
        got = set(pool.map(lambda _: workbench.default(), range(6)))
    assert got == set(made)
    assert len(made) == 1
