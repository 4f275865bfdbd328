"""What can be done to a run from outside while it goes on: stop a part of it, answer what it asks."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Generator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field

from fleet_rlm_jupyter.domain.budget import Budget
from fleet_rlm_jupyter.domain.errors import BadRequest, CallCancelled

KeepValue = Callable[[str, str, str], None]
"""Takes the call, the name and the full text of a value of which an event shows a preview."""

Propose = Callable[[str, str], object]


@dataclass(slots=True)
class _Waiting:
    """Somebody waits on behalf of `call_id`, or of the LM call `leaf` that it has begun."""

    call_id: str | None
    wake: Callable[[], None]
    leaf: str | None = None


_WAITING: contextvars.ContextVar[_Waiting | None] = contextvars.ContextVar("fleet_waiting", default=None)


class Subtrees:
    """The parts of a run that somebody stopped; the rest goes on. Thread-safe.

    As a budget's stop this one is sticky, for everything below the call: no LM call and no cell begins there any more.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._above: dict[str, str | None] = {}
        self._stopped: set[str] = set()
        self._waiting: list[_Waiting] = []

    def begun(self, call_id: str, parent_id: str | None, *, is_lm: bool) -> None:
        """The call stands there in the tree. An LM call is made in a copy of the context of whoever waits for it."""
        with self._lock:
            self._above[call_id] = parent_id
            waiting = _WAITING.get()
            if is_lm and waiting is not None:
                waiting.leaf = call_id

    def is_root(self, call_id: str) -> bool:
        """Whether nothing is above that call. Raises BadRequest for one that has not begun."""
        with self._lock:
            if call_id not in self._above:
                raise BadRequest(f"the run has no call {call_id}", "its events name its calls")
            return self._above[call_id] is None

    def cancel(self, call_id: str) -> None:
        """Stop that call and everything below it; harmless when it has ended."""
        with self._lock:
            self._stopped.add(call_id)
            due = [one for one in self._waiting if one.leaf == call_id or self._is_stopped(one.call_id)]
            self._waiting = [one for one in self._waiting if one not in due]
        for one in due:
            one.wake()

    def check(self, here: str | None) -> None:
        """Raise CallCancelled if `here` is a part that was stopped."""
        with self._lock:
            is_stopped = self._is_stopped(here)
        if is_stopped:
            raise _cancelled()

    @contextmanager
    def waiting(self, here: str | None, wake: Callable[[], None]) -> Generator[Callable[[], None]]:
        """Call `wake` once if `here` is stopped (at once if it was); gives what raises CallCancelled if that was so."""
        one = _Waiting(here, wake)
        token = _WAITING.set(one)
        with self._lock:
            is_late = self._is_stopped(here)
            if not is_late:
                self._waiting.append(one)
        if is_late:
            wake()

        def check() -> None:
            with self._lock:
                if not self._is_stopped(here) and one.leaf not in self._stopped:
                    return
            raise _cancelled()

        try:
            yield check
        finally:
            _WAITING.reset(token)
            with self._lock:
                self._waiting = [other for other in self._waiting if other is not one]

    def _is_stopped(self, call_id: str | None) -> bool:
        while self._stopped and call_id is not None:
            if call_id in self._stopped:
                return True
            call_id = self._above.get(call_id)
        return False


class Questions:
    """What the run has asked its user and not heard yet. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[str, Future[str]] = {}

    def ask(self, call_id: str, say: Callable[[], None], budget: Budget, subtrees: Subtrees) -> str:
        """Say the question and wait for its answer; the run's stop, its deadline and a cancel of the call end that."""
        answered: Future[str] = Future()
        woken = threading.Event()
        answered.add_done_callback(lambda _: woken.set())
        with self._lock:
            self._open[call_id] = answered
        unsubscribe = budget.on_stop(woken.set)
        try:
            with subtrees.waiting(call_id, woken.set) as check:
                say()
                woken.wait()
                if not answered.done():
                    check()
                    budget.check()
            return answered.result(0)
        finally:
            unsubscribe()
            with self._lock:
                del self._open[call_id]

    def answer(self, call_id: str, text: str) -> None:
        """Answer the question of that call. Raises BadRequest where none is open."""
        with self._lock:
            asked = self._open.get(call_id)
            if asked is None or asked.done():
                raise BadRequest(f"call {call_id} asks nothing", "a question can be answered once, while it is open")
            asked.set_result(text)


def _keep_nothing(call_id: str, name: str, text: str) -> None:
    """Previews are enough."""


@dataclass(frozen=True, slots=True)
class Controls:
    """`can_answer` says that somebody is there to answer: only then may the run ask.

    `propose` takes the text and kind of a note that is proposed for memory; None: the run may propose none.
    """

    can_answer: bool = False
    keep_value: KeepValue = _keep_nothing
    propose: Propose | None = None
    subtrees: Subtrees = field(default_factory=Subtrees)
    questions: Questions = field(default_factory=Questions)


def _cancelled() -> CallCancelled:
    return CallCancelled("this part of the run was cancelled by the user", "go on without it")
