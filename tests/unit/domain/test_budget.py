"""The ledger holds whatever the schedule."""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from fleet_rlm_jupyter.domain.budget import Budget, Reservation
from fleet_rlm_jupyter.domain.errors import (
    BudgetExceeded,
    Cancelled,
    DeadlineExceeded,
    EndsRun,
    ForModel,
    SandboxesExceeded,
    SubCallsExceeded,
)
from fleet_rlm_jupyter.domain.events import Limits


class Clock:
    """Time that passes only when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Ledger:
    """What a budget should say, kept by the test itself: every claim it holds, every call it made."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.held: list[Reservation] = []
        self.made = self.made_sub = 0

    def claim(self, calls: int, sub: bool) -> Reservation | None:
        was_stopped = self.budget.stopped is not None
        free, free_sub = self.budget.free_calls()
        fits = calls <= free and not was_stopped
        try:
            held = self.budget.reserve(calls, sub=sub)
        except SubCallsExceeded:
            assert fits
            assert sub
            assert calls > free_sub
            return None
        except EndsRun:
            assert not fits
            return None
        assert fits
        assert not sub or calls <= free_sub
        self.held.append(held)
        return held

    def begin(self, held: Reservation) -> None:
        self.budget.begin(held)
        self.made += 1
        self.made_sub += held.sub

    def check(self) -> None:
        limits, spent = self.budget.limits, self.budget.spent()
        reserved, reserved_sub = self.budget.reserved_calls()
        free, free_sub = self.budget.free_calls()
        assert (spent.calls, spent.sub_calls) == (self.made, self.made_sub)
        assert reserved == sum(held.calls for held in self.held)
        assert reserved_sub == sum(held.calls for held in self.held if held.sub)
        assert self.made + reserved + free == limits.calls
        assert self.made_sub + reserved_sub + free_sub == limits.sub_calls
        assert free >= 0
        assert free_sub >= 0


def worker(ledger: Ledger, choose: random.Random, depth: int, spawned: list[Iterator[None]]) -> Iterator[None]:
    """One thread of a run as steps: between two of them any other thread may take its turn."""
    for _ in range(choose.randint(1, 4)):
        calls = choose.choice([1, 1, 1, choose.randint(1, 100)])
        held = ledger.claim(calls, sub=choose.random() < 0.5)
        yield
        if held is None:
            if ledger.budget.stopped is not None:
                return
            continue
        try:
            for _ in range(choose.choice([0, calls, choose.randint(0, calls)])):  # the rest fails before it is sent
                ledger.begin(held)
                yield
                ledger.budget.settle(held)
        finally:
            ledger.budget.release(held)
        yield
        if depth > 1 and choose.random() < 0.3:
            spawned.append(worker(ledger, choose, depth - 1, spawned))
    if choose.random() < 0.02:
        ledger.budget.cancel()


@given(
    seed=st.integers(0, 2**32),
    threads=st.integers(1, 64),
    depth=st.integers(1, 4),
    calls=st.integers(1, 5000),
    sub_calls=st.integers(1, 3000),
)
def test_spent_and_reserved_and_free_make_the_limit_at_every_step(seed, threads, depth, calls, sub_calls):
    ledger = Ledger(Budget(Limits(calls=calls, sub_calls=sub_calls)))
    choose = random.Random(seed)
    spawned: list[Iterator[None]] = []
    running = [worker(ledger, choose, depth, spawned) for _ in range(threads)]
    while running:
        turn = choose.randrange(len(running))
        if next(running[turn], StopIteration) is StopIteration:
            running.pop(turn)
        ledger.held = [held for held in ledger.held if held.calls]
        ledger.check()
        running += spawned
        spawned.clear()
    assert ledger.budget.reserved_calls() == (0, 0)
    assert ledger.made <= calls
    assert ledger.made_sub <= sub_calls


class BudgetMachine(RuleBasedStateMachine):
    """Every order of everything a budget can be asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.budget = Budget(Limits(calls=20, sub_calls=8, seconds=100, sandboxes=3), self.clock)
        self.ledger = Ledger(self.budget)
        self.sandboxes = 0
        self.first_stop: EndsRun | None = None
        self.is_urgent = False
        self.woken: list[int] = []
        self.watchers = 0

    @rule(calls=st.integers(0, 12), sub=st.booleans())
    def claims(self, calls: int, sub: bool) -> None:
        if self.clock.now >= 1100 and self.budget.stopped is None:
            with pytest.raises(DeadlineExceeded):
                self.budget.reserve(calls, sub=sub)
            self.is_urgent = True
        else:
            self.ledger.claim(calls, sub)

    @precondition(lambda self: any(held.calls for held in self.ledger.held))
    @rule(which=st.randoms(use_true_random=False))
    def begins_a_call(self, which: random.Random) -> None:
        self.ledger.begin(which.choice([held for held in self.ledger.held if held.calls]))

    @precondition(lambda self: any(held.open for held in self.ledger.held))
    @rule(which=st.randoms(use_true_random=False))
    def ends_a_call(self, which: random.Random) -> None:
        self.budget.settle(which.choice([held for held in self.ledger.held if held.open]))

    @precondition(lambda self: self.ledger.held)
    @rule()
    def lets_a_claim_go(self) -> None:
        self.budget.release(self.ledger.held[-1])

    @rule()
    def opens_a_sandbox(self) -> None:
        if self.budget.stopped is not None:
            with pytest.raises(EndsRun):
                self.budget.occupy()
        elif self.sandboxes == 3:
            with pytest.raises(SandboxesExceeded):
                self.budget.occupy()
        else:
            self.budget.occupy()
            self.sandboxes += 1

    @precondition(lambda self: self.sandboxes)
    @rule()
    def closes_a_sandbox(self) -> None:
        self.budget.vacate()
        self.sandboxes -= 1

    @rule(seconds=st.floats(0, 30))
    def time_passes(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule()
    def somebody_watches(self) -> None:
        number = self.watchers
        self.watchers += 1
        self.budget.on_stop(lambda: self.woken.append(number))

    @rule()
    def is_cancelled(self) -> None:
        self.budget.cancel()
        self.is_urgent = True

    @invariant()
    def the_ledger_is_right(self) -> None:
        self.ledger.check()
        assert self.budget.sandboxes_left == 3 - self.sandboxes

    @invariant()
    def the_first_stop_stays_and_an_urgent_one_wakes_each_watcher_once(self) -> None:
        self.first_stop = self.first_stop or self.budget.stopped
        assert self.budget.stopped is self.first_stop
        assert sorted(self.woken) == (list(range(self.watchers)) if self.is_urgent else [])
        if self.first_stop:
            with pytest.raises(type(self.first_stop), match=self.first_stop.text):
                self.budget.reserve()


TestBudgetMachine = BudgetMachine.TestCase


@pytest.fixture
def frequent_switches() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("frequent_switches")
@pytest.mark.parametrize("seed", range(8))
def test_real_threads_never_start_more_calls_than_the_limit(seed):
    budget = Budget(Limits(calls=500, sub_calls=200, sandboxes=5))
    begin, over = threading.Barrier(33), threading.Event()
    made: list[bool] = []  # list.append is atomic
    broken: list[str] = []

    def spend(number: int) -> None:
        choose = random.Random(seed * 100 + number)
        begin.wait()
        while budget.stopped is None:
            sub = choose.random() < 0.5
            try:
                held = budget.reserve(choose.choice([1, 1, choose.randint(1, 20)]), sub=sub)
            except ForModel:
                continue
            except EndsRun:
                return
            for _ in range(choose.randint(0, held.calls)):
                made.append(sub)
                budget.begin(held)
                budget.settle(held)
            budget.release(held)

    def watch() -> None:
        begin.wait()
        last = 0
        while not over.is_set():
            free, free_sub = budget.free_calls()
            spent = budget.spent()
            if free < 0 or free_sub < 0 or spent.calls < last or spent.calls > 500 or spent.sub_calls > 200:
                broken.append(f"{free} {free_sub} {spent}")
            last = spent.calls

    threads = [threading.Thread(target=spend, args=(number,)) for number in range(32)]
    watcher = threading.Thread(target=watch)
    for thread in [*threads, watcher]:
        thread.start()
    for thread in threads:
        thread.join(60)
    over.set()
    watcher.join(60)
    assert not broken
    assert isinstance(budget.stopped, BudgetExceeded)
    assert (budget.spent().calls, budget.spent().sub_calls) == (len(made), sum(made))
    assert len(made) <= 500
    assert sum(made) <= 200
    assert budget.reserved_calls() == (0, 0)


@pytest.mark.usefixtures("frequent_switches")
def test_of_many_threads_that_refuse_and_cancel_one_decides_and_each_watcher_wakes_once():
    for _ in range(20):
        budget = Budget(Limits(calls=1))
        begin = threading.Barrier(24)
        woken: list[int] = []

        def act(number: int, budget=budget, begin=begin, woken=woken) -> None:
            begin.wait()
            if number % 3 == 0:
                budget.on_stop(lambda: woken.append(number))
            elif number % 3 == 1:
                budget.cancel()
            else:
                with pytest.raises(EndsRun):
                    budget.reserve(2)

        threads = [threading.Thread(target=act, args=(number,)) for number in range(24)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert sorted(woken) == list(range(0, 24, 3))


def call(
    budget: Budget, *, sub: bool = False, estimate: int = 0, tokens: int | None = None, cost: float | None = None
) -> None:
    held = budget.reserve(sub=sub, tokens=estimate)
    budget.begin(held)
    budget.settle(held, tokens=tokens, cost=cost)


def test_a_refused_batch_claims_nothing_and_is_sticky():
    budget = Budget(Limits(calls=3))
    with pytest.raises(BudgetExceeded, match="more than 3 LM calls"):
        budget.reserve(4)
    assert budget.reserved_calls() == (0, 0)
    with pytest.raises(BudgetExceeded):
        budget.reserve(1)
    with pytest.raises(BudgetExceeded):
        budget.check()
    with pytest.raises(BudgetExceeded):
        budget.occupy()


def test_running_out_of_sub_calls_is_not_sticky():
    budget = Budget(Limits(calls=10, sub_calls=2))
    with pytest.raises(SubCallsExceeded, match="3 sub-queries asked for, 2 of 2 left"):
        budget.reserve(3, sub=True)
    assert budget.stopped is None
    call(budget, sub=True)
    call(budget)
    assert (budget.spent().calls, budget.spent().sub_calls) == (2, 1)


def test_every_thread_gets_its_own_error_object():
    budget = Budget(Limits())
    budget.cancel()
    seen = []
    for _ in range(2):
        with pytest.raises(Cancelled) as caught:
            budget.check()
        seen.append(caught.value)
    assert seen[0] is not seen[1]


def test_a_claim_cannot_be_negative_or_given_back_twice():
    budget = Budget(Limits())
    with pytest.raises(ValueError, match="negative"):
        budget.reserve(-1)
    held = budget.reserve(1)
    with pytest.raises(ValueError, match="had not begun"):
        budget.settle(held)
    budget.begin(held)
    with pytest.raises(ValueError, match="are held"):
        budget.begin(held)
    budget.settle(held)
    with pytest.raises(ValueError, match="had not begun"):
        budget.settle(held)
    budget.release(held)
    budget.release(held)
    assert budget.spent().calls == 1


def test_a_call_counts_from_its_beginning_and_a_claim_that_is_let_go_does_not():
    budget = Budget(Limits(calls=10))
    held = budget.reserve(5)
    budget.begin(held)
    assert (budget.spent().calls, budget.reserved_calls(), budget.free_calls()[0]) == (1, (4, 0), 5)
    budget.release(held)
    assert (budget.spent().calls, budget.reserved_calls(), budget.free_calls()[0]) == (1, (0, 0), 9)
    budget.settle(held)
    assert budget.spent().calls == 1


def test_a_sandbox_cannot_be_vacated_that_was_never_occupied():
    budget = Budget(Limits(sandboxes=1))
    with pytest.raises(ValueError, match="no sandbox"):
        budget.vacate()
    budget.occupy()
    with pytest.raises(SandboxesExceeded):
        budget.occupy()
    budget.vacate()
    budget.occupy()
    assert budget.sandboxes_left == 0
    assert budget.spent().sandboxes == 1


def test_the_deadline_counts_on_the_given_clock_and_is_sticky():
    clock = Clock()
    budget = Budget(Limits(seconds=5), clock)
    budget.reserve()
    clock.now += 4.5
    budget.reserve()
    assert budget.seconds_left == pytest.approx(0.5)
    clock.now += 0.5
    with pytest.raises(DeadlineExceeded, match="longer than 5 seconds"):
        budget.reserve()
    clock.now -= 5
    with pytest.raises(DeadlineExceeded):
        budget.reserve()


def test_expire_stops_without_a_claim():
    budget = Budget(Limits(seconds=5))
    budget.expire()
    assert isinstance(budget.stopped, DeadlineExceeded)


def test_tokens_are_claimed_by_estimate_and_charged_as_told():
    budget = Budget(Limits(tokens=100))
    held = budget.reserve(2, tokens=40)
    for _ in range(2):
        budget.begin(held)
        budget.settle(held, tokens=10)
    call(budget, estimate=80, tokens=70)
    assert budget.spent().tokens == 90
    with pytest.raises(BudgetExceeded, match="100 tokens"):
        budget.reserve(tokens=11)


def test_no_call_starts_after_the_tokens_are_used_up_whatever_it_would_need():
    budget = Budget(Limits(tokens=100))
    call(budget, tokens=500)
    with pytest.raises(BudgetExceeded):
        budget.reserve()


def test_unknown_usage_counts_as_the_estimate_and_is_told_as_unknown():
    budget = Budget(Limits(tokens=100))
    call(budget, estimate=60)
    assert budget.spent().tokens is None
    assert budget.spent().cost is None
    with pytest.raises(BudgetExceeded):
        budget.reserve(tokens=60)


def test_each_call_in_flight_counts_as_the_dearest_so_far():
    budget = Budget(Limits(cost=1.0))
    call(budget, cost=0.25)
    budget.reserve(2)
    with pytest.raises(BudgetExceeded, match=r"1\.0 dollars"):
        budget.reserve(2)


def test_a_released_claim_gives_its_tokens_and_money_back():
    budget = Budget(Limits(tokens=100, cost=1.0))
    call(budget, tokens=0, cost=0.5)
    for _ in range(10):
        budget.release(budget.reserve(1, tokens=100))
    budget.reserve(1, tokens=100)


def test_a_watcher_that_comes_late_wakes_at_once_and_one_that_left_does_not():
    budget = Budget(Limits())
    woken: list[str] = []
    leave = budget.on_stop(lambda: woken.append("left"))
    budget.on_stop(lambda: woken.append("stayed"))
    leave()
    leave()
    budget.cancel()
    budget.cancel()
    leave_late = budget.on_stop(lambda: woken.append("late"))
    leave_late()
    assert woken == ["stayed", "late"]


def test_a_used_up_budget_lets_what_is_under_way_finish_and_a_cancel_after_it_wakes():
    budget = Budget(Limits(calls=1))
    woken: list[str] = []
    budget.on_stop(lambda: woken.append("woken"))
    with pytest.raises(BudgetExceeded):
        budget.reserve(2)
    assert woken == []
    budget.cancel()
    assert woken == ["woken"]
    assert isinstance(budget.stopped, BudgetExceeded)


def test_a_watcher_that_fails_does_not_keep_the_others_asleep():
    budget = Budget(Limits())
    woken: list[str] = []
    budget.on_stop(lambda: woken.append("first"))
    budget.on_stop(lambda: 1 / 0)
    budget.on_stop(lambda: woken.append("last"))
    with pytest.raises(ZeroDivisionError):
        budget.cancel()
    assert sorted(woken) == ["first", "last"]
