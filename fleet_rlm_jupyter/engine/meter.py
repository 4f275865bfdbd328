"""The one place where the budget bites: the LM boundary."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, TypeVar

import dspy

from fleet_rlm_jupyter.domain.budget import Budget, Reservation
from fleet_rlm_jupyter.domain.events import Usage
from fleet_rlm_jupyter.engine import stream
from fleet_rlm_jupyter.engine.controls import Subtrees
from fleet_rlm_jupyter.engine.stream import OnText

_T = TypeVar("_T")

_BATCH: contextvars.ContextVar[Reservation | None] = contextvars.ContextVar("fleet_batch", default=None)
_BILL: contextvars.ContextVar[list[dict[str, Any]] | None] = contextvars.ContextVar("fleet_bill", default=None)


class EmptyAnswer(dspy.LMError):
    """A reply without text or tool calls; LiteLLM returns one for a stream that was cut."""

    default_code = "empty_answer"


class Meter:
    """Hands out metered copies of LMs that all draw on one Budget."""

    def __init__(
        self,
        budget: Budget,
        on_settled: Callable[[], None],
        on_text: OnText,
        subtrees: Subtrees | None = None,
        here: Callable[[], str | None] = lambda: None,
    ) -> None:
        """`here` says which recorded call a context belongs to, for the parts of a run that are stopped alone."""
        self.budget = budget
        self._subtrees = subtrees or Subtrees()
        self._here = here
        self.tee = stream.Tee(on_text)
        self._on_settled = on_settled

    def metered(self, lm: dspy.LM, *, sub: bool) -> dspy.LM:
        """A copy of `lm` whose every call is claimed first; `sub` marks the model of generated code."""
        copy: Any = lm.copy()
        # Re-classed rather than wrapped: DSPy ties adapters' calls to the LM object and asks it for its capabilities.
        copy.__class__ = _metered_class(type(lm))
        copy.fleet_meter, copy.fleet_sub = self, sub
        return copy

    @contextmanager
    def batch(self, calls: int) -> Generator[None]:
        """Claim `calls` sub-calls at once; LM calls in this context (and copies of it) draw on that claim."""
        held = self.budget.reserve(calls, sub=True)
        token = _BATCH.set(held)
        try:
            yield
        finally:
            _BATCH.reset(token)
            self.budget.release(held)

    def call(self, ask: Callable[[], _T], *, calls: int, sub: bool, tokens: int) -> _T:
        """Claim, ask, settle. Raises the sticky error as soon as the run must stop, whatever `ask` still does."""
        self._subtrees.check(self._here())
        held = _BATCH.get()
        if held is None:
            held = self.budget.reserve(calls, sub=sub, tokens=tokens)
        else:
            self.budget.check()
        bill: list[dict[str, Any]] = []
        _BILL.set(bill)
        for _ in range(calls):
            self.budget.begin(held)

        def paid() -> _T:
            try:
                return ask()
            finally:
                usage = usage_of(bill)
                used = None if usage.tokens_in is None else usage.tokens_in + (usage.tokens_out or 0)
                for index in range(calls):
                    # One reply carries the bill of all its n completions.
                    self.budget.settle(held, *((used, usage.cost) if index == 0 else (0, 0.0)))
                self._on_settled()

        return self._until_stopped(paid)

    def _until_stopped(self, work: Callable[[], _T]) -> _T:
        """Wait for `work`, on a thread of its own, or for the stop: a request that was sent can only be left."""
        woken = threading.Event()
        unsubscribe = self.budget.on_stop(woken.set)
        try:
            with self._subtrees.waiting(self._here(), woken.set) as check:
                future = stream.start(work)
                future.add_done_callback(lambda _: woken.set())
                woken.wait()
                if not future.done():
                    check()
                    self.budget.check()  # raises: only a stop wakes before the work is done
        finally:
            unsubscribe()
        return future.result()


def usage_of(bill: list[dict[str, Any]]) -> Usage:
    """What DSPy's history entries say a call used; None where they do not say."""
    tokens_in = tokens_out = None
    cost = None
    for entry in bill:
        usage = entry.get("usage") or {}
        if usage.get("prompt_tokens") is not None:
            tokens_in = (tokens_in or 0) + int(usage["prompt_tokens"])
        if usage.get("completion_tokens") is not None:
            tokens_out = (tokens_out or 0) + int(usage["completion_tokens"])
        if entry.get("cost") is not None:
            cost = (cost or 0.0) + float(entry["cost"])
    return Usage(calls=1, tokens_in=tokens_in, tokens_out=tokens_out, cost=cost)


def current_bill() -> list[dict[str, Any]]:
    """The history entries of the LM call whose context this is."""
    return _BILL.get() or []


def _metered_class(base: type) -> type:
    known = _CLASSES.get(base)
    if known is None:
        known = _CLASSES.setdefault(base, type("MeteredLM", (_Metered, base), {}))
    return known


_CLASSES: dict[type, type] = {}


class _Metered(dspy.LM):
    """An LM that asks its meter first. Made only by `Meter.metered`, which sets both attributes."""

    fleet_meter: Meter
    fleet_sub: bool

    def __call__(self, prompt: Any = None, *, messages: Any = None, **kwargs: Any) -> Any:
        # `dspy.LM.__call__` fires the callbacks, so a refused call never shows as one that was made.
        def ask() -> Any:
            # An engine of one's own need not stream; DSPy's do.
            tee = self.fleet_meter.tee if isinstance(self.engine, str) else None
            with dspy.context(send_stream=tee):
                reply = super(_Metered, self).__call__(prompt, messages=messages, **kwargs)
            _refuse_empty(reply, self.model)
            return reply

        count = int(kwargs.get("n") or self.kwargs.get("n") or 1)
        return self.fleet_meter.call(
            ask, calls=count, sub=self.fleet_sub, tokens=_estimate(prompt, messages, self.kwargs.get("max_tokens"))
        )

    async def acall(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("a run makes its LM calls with __call__: acall would block the caller's loop while code runs")

    def update_history(self, entry: dict[str, Any]) -> None:
        # Keeps nothing (a server would leak): the entry is only the bill of the call that is being made.
        bill = _BILL.get()
        if bill is not None:
            bill.append(entry)


def _refuse_empty(reply: Any, model: str) -> None:
    if not isinstance(reply, list):
        return
    for output in reply:
        text = output.get("text") if isinstance(output, dict) else output
        has_tools = isinstance(output, dict) and bool(output.get("tool_calls"))
        if not text and not has_tools:
            raise EmptyAnswer("the model answered nothing", model=model)


def _estimate(prompt: Any, messages: Any, max_tokens: int | None) -> int:
    """Tokens a call may use: about four characters each for what is sent, and the whole allowance for the answer."""
    sent = len(prompt) if isinstance(prompt, str) else sum(len(str(item.get("content", ""))) for item in messages or ())
    return sent // 4 + (max_tokens or 0)
