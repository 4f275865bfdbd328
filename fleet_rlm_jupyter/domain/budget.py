"""What a whole recursion tree may still spend, and the brake that stops it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from fleet_rlm_jupyter.domain.errors import (
    BudgetExceeded,
    Cancelled,
    DeadlineExceeded,
    EndsRun,
    SandboxesExceeded,
    SubCallsExceeded,
)
from fleet_rlm_jupyter.domain.events import BudgetSpent, Lease, Limits


@dataclass(slots=True)
class Reservation:
    """Claimed calls: `calls` are not begun yet, `open` are begun and not settled.

    `tokens` and `cost` are what each of them is expected to use.
    """

    calls: int
    sub: bool
    tokens: int
    cost: float
    open: int = 0


class Budget:
    """One ledger for one run: claims before, facts after. Thread-safe; `spent + reserved + free = limit` always holds.

    A refusal of calls, tokens, money or time is sticky: every later claim raises the same error, so nothing that
    swallows an exception can go on. Running out of *sub*-calls is not: the planner may finish with what it has
    (docs/adr/0006). Tokens and money are known only after a call: the claim counts an estimate, so calls in flight
    can end past the limit by as much as the estimate was short, and no call starts after that.
    """

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self.limits = limits
        self._clock = clock
        self._started = clock()
        self._lock = threading.Lock()
        self._calls_spent = self._calls_reserved = 0
        self._sub_spent = self._sub_reserved = 0
        self._tokens_charged = self._tokens_reserved = 0
        self._cost_charged = self._cost_reserved = 0.0
        self._tokens_seen: int | None = None
        self._cost_seen: float | None = None
        self._dearest = 0.0
        self._sandboxes = 0
        self._stopped: EndsRun | None = None
        self._is_urgent = False
        self._watchers: list[Callable[[], None]] = []

    def start(self) -> None:
        """The clock starts now: for a run that had to wait before it began."""
        with self._lock:
            self._started = self._clock()

    def reserve(self, calls: int = 1, *, sub: bool = False, tokens: int = 0) -> Reservation:
        """Claim `calls` LM calls of about `tokens` tokens each before making them; check and claim are one step.

        All or nothing: a batch of n claims n, so it cannot overrun. `sub` marks calls made by generated code.
        Raises BudgetExceeded, DeadlineExceeded or Cancelled (sticky), SubCallsExceeded (not sticky).
        """
        if calls < 0:
            raise ValueError("a claim cannot be negative")
        with self._lock:
            self._raise_if_stopped()
            error = self._refusal(calls, tokens)
            if error is None and sub:
                self._refuse_sub_calls(calls)
            if error is None:
                return self._claim(calls, sub, tokens)
        self.stop(error)
        raise error

    def begin(self, held: Reservation) -> None:
        """One call of `held` is being made: it counts as spent from now on, whatever comes of it."""
        with self._lock:
            self._take(held, 1)
            held.open += 1
            self._calls_spent += 1
            self._sub_spent += held.sub

    def settle(self, held: Reservation, tokens: int | None = None, cost: float | None = None) -> None:
        """A begun call came back. `None`: the provider did not say; the estimate then counts for the limit."""
        with self._lock:
            if not held.open:
                raise ValueError("a call was settled that had not begun")
            held.open -= 1
            self._drop_estimate(held, 1)
            self._tokens_charged += held.tokens if tokens is None else tokens
            self._cost_charged += held.cost if cost is None else cost
            if tokens is not None:
                self._tokens_seen = (self._tokens_seen or 0) + tokens
            if cost is not None:
                self._cost_seen = (self._cost_seen or 0.0) + cost
                self._dearest = max(self._dearest, cost)

    def release(self, held: Reservation) -> None:
        """The calls of `held` that have not begun will not be made."""
        with self._lock:
            left = held.calls
            self._take(held, left)
            self._drop_estimate(held, left)

    def occupy(self) -> None:
        """Claim one live sandbox. Raises SandboxesExceeded (not sticky) or the sticky stop."""
        with self._lock:
            self._raise_if_stopped()
            if self._sandboxes >= self.limits.sandboxes:
                raise SandboxesExceeded(
                    f"all {self.limits.sandboxes} sandboxes of this run are in use",
                    "answer with llm_query instead of another RLM, or ask for fewer children at a time",
                )
            self._sandboxes += 1

    def vacate(self) -> None:
        """Give one live sandbox back."""
        with self._lock:
            if not self._sandboxes:
                raise ValueError("no sandbox is occupied")
            self._sandboxes -= 1

    def stop(self, error: EndsRun) -> None:
        """Make `error` the run's end unless it already has one.

        A cancel or a deadline also wakes everything that waits. A used-up budget does not: what is under way is paid
        for, and its result may still be of use.
        """
        with self._lock:
            self._stopped = self._stopped or error
            if isinstance(error, BudgetExceeded) or self._is_urgent:
                return
            self._is_urgent = True
            watchers = list(self._watchers)
        with ExitStack() as all_of_them:  # one that raises must not keep the others waiting
            for wake in reversed(watchers):
                all_of_them.callback(wake)

    def cancel(self) -> None:
        self.stop(Cancelled("the run was cancelled", "ask again, or replay what was found"))

    def expire(self) -> None:
        self.stop(self._deadline_error())

    def check(self) -> None:
        """Raise the sticky stop if there is one."""
        with self._lock:
            self._raise_if_stopped()

    def on_stop(self, wake: Callable[[], None]) -> Callable[[], None]:
        """Call `wake` once on a cancel or at the deadline (at once if that was); returns what unsubscribes."""
        with self._lock:
            if not self._is_urgent:
                self._watchers.append(wake)
                return lambda: self._forget(wake)
        wake()
        return lambda: None

    @property
    def is_urgent(self) -> bool:
        """Everything should be left at once: cancelled, or past the deadline."""
        return self._is_urgent

    @property
    def stopped(self) -> EndsRun | None:
        return self._stopped

    @property
    def seconds_left(self) -> float:
        return self.limits.seconds - (self._clock() - self._started)

    @property
    def sandboxes_left(self) -> int:
        with self._lock:
            return self.limits.sandboxes - self._sandboxes

    def free_calls(self) -> tuple[int, int]:
        """(calls, sub-calls) that can still be claimed."""
        with self._lock:
            return (
                self.limits.calls - self._calls_spent - self._calls_reserved,
                self.limits.sub_calls - self._sub_spent - self._sub_reserved,
            )

    def reserved_calls(self) -> tuple[int, int]:
        """(calls, sub-calls) claimed and not begun."""
        with self._lock:
            return self._calls_reserved, self._sub_reserved

    def lease(self, depth: int) -> Lease:
        """What is left for a sandbox at `depth`, which shares it with all others of the run."""
        calls, sub_calls = self.free_calls()
        return Lease(
            depth=self.limits.depth - depth,
            calls=calls,
            sub_calls=sub_calls,
            sandboxes=self.sandboxes_left,
            seconds=round(self.seconds_left, 3),
        )

    def spent(self) -> BudgetSpent:
        """The totals, as the event that carries them."""
        with self._lock:
            return BudgetSpent(
                calls=self._calls_spent,
                sub_calls=self._sub_spent,
                tokens=self._tokens_seen,
                cost=self._cost_seen,
                seconds=round(self._clock() - self._started, 3),
                sandboxes=self._sandboxes,
                limits=self.limits,
            )

    def _raise_if_stopped(self) -> None:
        if self._stopped is not None:
            # A fresh object: one exception raised in many threads would share its traceback.
            raise type(self._stopped)(self._stopped.text, self._stopped.hint)

    def _refusal(self, calls: int, tokens: int) -> EndsRun | None:
        limits = self.limits
        if self.seconds_left <= 0:
            return self._deadline_error()
        if self._calls_spent + self._calls_reserved + calls > limits.calls:
            return _exceeded("LM calls", f"{limits.calls}", "calls")
        used = self._tokens_charged + self._tokens_reserved
        if limits.tokens is not None and (used + calls * tokens > limits.tokens or used >= limits.tokens):
            return _exceeded("tokens", f"{limits.tokens:,}", "tokens")
        cost = self._cost_charged + self._cost_reserved
        if limits.cost is not None and (cost + calls * self._dearest > limits.cost or cost >= limits.cost):
            return _exceeded("dollars", f"{limits.cost}", "cost")
        return None

    def _refuse_sub_calls(self, calls: int) -> None:
        left = self.limits.sub_calls - self._sub_spent - self._sub_reserved
        if calls > left:
            raise SubCallsExceeded(
                f"{calls} sub-queries asked for, {left} of {self.limits.sub_calls} left",
                "ask fewer questions, or put the parts together in Python",
            )

    def _claim(self, calls: int, sub: bool, tokens: int) -> Reservation:
        held = Reservation(calls, sub, tokens, self._dearest)
        self._calls_reserved += calls
        self._sub_reserved += calls if sub else 0
        self._tokens_reserved += calls * tokens
        self._cost_reserved += calls * held.cost
        return held

    def _take(self, held: Reservation, calls: int) -> None:
        if calls > held.calls:
            raise ValueError(f"{calls} calls taken, {held.calls} are held")
        held.calls -= calls
        self._calls_reserved -= calls
        self._sub_reserved -= calls if held.sub else 0

    def _drop_estimate(self, held: Reservation, calls: int) -> None:
        self._tokens_reserved -= calls * held.tokens
        self._cost_reserved -= calls * held.cost

    def _deadline_error(self) -> DeadlineExceeded:
        return DeadlineExceeded(
            f"the run took longer than {self.limits.seconds:g} seconds", "raise budget.seconds or ask for less"
        )

    def _forget(self, wake: Callable[[], None]) -> None:
        with self._lock:
            if wake in self._watchers:
                self._watchers.remove(wake)


def _exceeded(what: str, limit: str, setting: str) -> BudgetExceeded:
    return BudgetExceeded(f"the run would need more than {limit} {what}", f"raise budget.{setting} or ask for less")
