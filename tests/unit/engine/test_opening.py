"""A stop does not wait for a sandbox that is on its way."""

from __future__ import annotations

import threading

import pytest

from fleet_rlm_jupyter.domain.budget import Budget
from fleet_rlm_jupyter.domain.errors import CallCancelled, Cancelled, SandboxUnavailable
from fleet_rlm_jupyter.domain.events import Limits
from fleet_rlm_jupyter.engine.controls import Subtrees
from fleet_rlm_jupyter.engine.opening import Opening


class Slow:
    """An interpreter whose start takes as long as the test wants."""

    def __init__(self, error: Exception | None = None) -> None:
        self.begun, self.may_go_on, self.is_over = threading.Event(), threading.Event(), threading.Event()
        self._error = error
        self.shutdowns = 0

    def start(self) -> None:
        self.begun.set()
        assert self.may_go_on.wait(10)
        if self._error is not None:
            raise self._error

    def shutdown(self) -> None:
        self.shutdowns += 1


@pytest.mark.parametrize("stop", ["the run", "its part"])
def test_a_stop_leaves_at_once_and_the_sandbox_is_ended_when_it_is_there(stop):
    inner, budget, subtrees = Slow(), Budget(Limits()), Subtrees()
    subtrees.begun("c1", None, is_lm=False)
    opening = Opening(inner, inner.is_over.set)

    def stops() -> None:
        assert inner.begun.wait(10)
        budget.cancel() if stop == "the run" else subtrees.cancel("c1")

    threading.Thread(target=stops).start()
    with pytest.raises(Cancelled if stop == "the run" else CallCancelled):
        opening.start(budget, subtrees, "c1")
    assert opening.is_left
    assert inner.shutdowns == 0
    inner.may_go_on.set()
    assert inner.is_over.wait(10)
    assert inner.shutdowns == 1


def test_without_a_stop_it_is_there_or_raises_what_its_start_raised():
    for error in (None, SandboxUnavailable("no room", "wait")):
        inner = Slow(error)
        inner.may_go_on.set()
        opening = Opening(inner, inner.is_over.set)
        if error is None:
            opening.start(Budget(Limits()), Subtrees(), None)
        else:
            with pytest.raises(SandboxUnavailable, match="no room"):
                opening.start(Budget(Limits()), Subtrees(), None)
        assert not opening.is_left
        assert inner.shutdowns == 0
