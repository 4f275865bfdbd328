"""fold: any list of events becomes a tree; golden traces say which. The same traces bind the TypeScript fold."""

from __future__ import annotations

import hashlib
import json
import random
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from fleet_rlm_jupyter.domain.calls import Call, CallTree, fold
from fleet_rlm_jupyter.domain.errors import ErrorText
from fleet_rlm_jupyter.domain.events import (
    BudgetSpent,
    CallEnded,
    CallStarted,
    CallText,
    Event,
    Fact,
    Limits,
    Log,
    RunEnded,
    SandboxChanged,
    Unrecognized,
    Usage,
)

DATA = Path(__file__).parents[2] / "data"


def as_json(value: Any) -> Any:
    """A tree as the golden files hold it: `calls`, which is the same calls by id, left out."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, CallTree | Call):
        names = [field.name for field in fields(value) if not field.name.startswith("_") and field.name != "calls"]
        return {
            name: as_json(getattr(value, name)) for name in [*names, *(["roots"] if type(value) is CallTree else [])]
        }
    if isinstance(value, list):
        return [as_json(item) for item in value]
    if isinstance(value, dict):
        return {key: as_json(item) for key, item in value.items()}
    return value


def shape(tree: CallTree) -> Any:
    """Everything of a tree but the order of siblings, flat: a deep tree must not recurse here either."""
    nodes = {}
    for call in tree.calls.values():
        own = {field.name: getattr(call, field.name) for field in fields(call) if field.name != "children"}
        nodes[call.id] = (own, sorted(child.id for child in call.children))
    rest = (tree.status, tree.answer, tree.outputs, tree.error, tree.spent, tree.sandboxes, tree.last_seq)
    return nodes, sorted(call.id for call in tree.roots), rest


def is_a_tree(tree: CallTree) -> bool:
    """Every call once, reached from the roots."""
    walked = [call.id for _, call in tree.walk()]
    return sorted(walked) == sorted(tree.calls)


def numbered(facts: list[tuple[str | None, Fact]]) -> list[Event]:
    return [
        Event(seq=seq, at=1.0 + seq, session_id="s", run_id="r", call_id=call_id, fact=fact)
        for seq, (call_id, fact) in enumerate(facts)
    ]


def started(parent_id: str | None, name: str = "f", depth: int = 1) -> CallStarted:
    return CallStarted(parent_id=parent_id, kind="rlm", name=name, depth=depth)


IDS = st.sampled_from("abcdefgh")
FEW = st.text(max_size=4)
ANY_FACT = st.one_of(
    st.builds(
        CallStarted,
        parent_id=st.none() | IDS,
        kind=st.sampled_from(["agent", "rlm", "lm", "tool", "code"]),
        name=FEW,
        depth=st.integers(0, 4),
        inputs=st.dictionaries(FEW, FEW, max_size=2),
    ),
    st.builds(CallText, channel=st.sampled_from(["answer", "thought", "stdout", "stderr"]), text=FEW),
    st.builds(
        CallEnded,
        outputs=FEW,
        error=st.none() | st.builds(ErrorText, code=FEW, text=FEW),
        usage=st.none() | st.builds(Usage, calls=st.integers(0, 3)),
    ),
    st.builds(RunEnded, status=st.sampled_from(["done", "failed"]), answer=st.none() | FEW),
    st.builds(SandboxChanged, sandbox_id=IDS, state=st.sampled_from(["ready", "deleted"]), isolation=FEW),
    st.builds(Log, level=st.just("info"), text=FEW),
    st.builds(Unrecognized, type=FEW.map("new.".__add__), data=st.just({})),
    st.just(
        BudgetSpent(calls=1, sub_calls=0, tokens=None, cost=None, seconds=0, sandboxes=0, limits=Limits()),
    ),
)
ANY_EVENTS = st.lists(st.tuples(st.none() | IDS, ANY_FACT), max_size=40).map(numbered)


@given(ANY_EVENTS, st.randoms(use_true_random=False))
def test_any_list_of_events_makes_a_tree(events, chance):
    chance.shuffle(events)
    assert is_a_tree(fold(events))


@given(ANY_EVENTS, st.integers(0, 40))
def test_two_portions_make_the_same_tree_as_one(events, cut):
    tree = fold(events[cut:], fold(events[:cut]))
    assert as_json(tree) == as_json(fold(events))


@given(seed=st.integers(0, 2**32), size=st.integers(1, 40))
def test_a_child_before_its_parent_makes_the_same_tree(seed, size):
    chance = random.Random(seed)
    facts: list[tuple[str | None, Fact]] = []
    for number in range(size):
        parent = f"c{chance.randrange(number)}" if number and chance.random() < 0.9 else None
        facts.append((f"c{number}", started(parent, name=f"call {number}")))
    for number in range(size):
        facts.append((f"c{number}", CallText(channel="stdout", text="x")))
        facts.append((f"c{number}", CallEnded(outputs=f"out {number}")))
    events = numbered(facts)
    shuffled = sorted(events, key=lambda event: chance.random())
    assert shape(fold(shuffled)) == shape(fold(events))


def test_siblings_stand_in_the_order_they_began_also_among_the_roots():
    events = numbered(
        [
            ("x", started("late root")),
            ("early root", started(None)),
            ("b", started("early root")),
            ("a", started("early root")),
            ("late root", started(None)),
        ]
    )
    tree = fold(events)
    assert [(indent, call.id) for indent, call in tree.walk()] == [
        (0, "early root"), (1, "b"), (1, "a"), (0, "late root"), (1, "x"),
    ]  # fmt: skip


@given(st.permutations(["a", "b", "c", "d"]), st.permutations(["a", "b", "c", "d"]))
def test_a_ring_of_parents_ends(children, parents):
    tree = fold(numbered([(child, started(parent)) for child, parent in zip(children, parents, strict=True)]))
    assert is_a_tree(tree)
    assert len(tree.calls) == 4


@pytest.mark.parametrize("order", ["parents first", "children first", "shuffled"])
def test_a_chain_of_ten_thousand_calls_is_folded_quickly_and_without_recursion(order):
    facts = [(f"c{n}", started(f"c{n - 1}" if n else None, depth=n)) for n in range(10_000)]
    if order == "children first":
        facts.reverse()
    if order == "shuffled":
        random.Random(0).shuffle(facts)
    events = numbered(facts)
    begin = time.process_time()
    tree = fold(events)
    assert max(indent for indent, _ in tree.walk()) == 9_999
    assert time.process_time() - begin < 1


def test_twenty_thousand_roots_are_folded_quickly():
    facts: list[tuple[str | None, Fact]] = [(f"c{n}", CallText(channel="stdout", text="x")) for n in range(20_000)]
    facts += [(f"c{n}", started("c0")) for n in range(19_999, 0, -1)]
    events = numbered(facts)
    begin = time.process_time()
    tree = fold(events)
    assert len(tree.calls["c0"].children) == 19_999
    assert time.process_time() - begin < 1


def test_a_call_that_starts_twice_started_once():
    tree = fold(numbered([("a", started(None, name="first")), ("a", started("b", name="second"))]))
    assert tree.calls["a"].name == "first"
    assert list(tree.calls) == ["a"]


def test_totals_are_replaced_and_only_texts_are_appended():
    spent = BudgetSpent(calls=1, sub_calls=0, tokens=None, cost=None, seconds=1, sandboxes=1, limits=Limits())
    tree = fold(
        numbered(
            [
                (None, spent),
                (None, spent.model_copy(update={"calls": 5})),
                ("a", CallText(channel="stdout", text="1")),
                ("a", CallText(channel="stderr", text="!")),
                ("a", CallText(channel="stdout", text="2")),
            ]
        )
    )
    assert tree.spent is not None
    assert tree.spent.calls == 5
    assert tree.calls["a"].texts == {"stdout": "12", "stderr": "!"}


def test_seconds_of_a_call_are_known_when_it_ended():
    events = numbered([("a", started(None)), ("a", CallEnded())])
    assert fold(events[:1]).calls["a"].seconds is None
    assert fold(events).calls["a"].seconds == 1.0


@pytest.mark.parametrize("trace", sorted(DATA.glob("*.jsonl")), ids=lambda path: path.stem)
def test_golden_trace(trace):
    lines = trace.read_text(encoding="utf-8").splitlines()
    events = [Event.decode(line) for line in lines]
    assert [event.encode() for event in events] == lines
    assert [event.seq for event in events] == list(range(len(events)))
    assert [event.fact.type for event in events].count("run.ended") == 1
    assert events[-1].fact.type == "run.ended"
    expected = json.loads(trace.with_suffix(".tree.json").read_text(encoding="utf-8"))
    assert json.loads(json.dumps(as_json(fold(events)))) == expected


def test_there_are_golden_traces_for_the_ways_a_run_can_go():
    known = {"plain", "failed_sibling", "over_budget", "kept_session", "optimized", "lost_sandbox"}
    assert {path.stem for path in DATA.glob("*.jsonl")} >= known


def test_the_tree_knows_cells_by_their_code_and_says_how_they_ended_and_in_which_phase_a_sandbox_failed():
    lines = (DATA / "lost_sandbox.jsonl").read_text(encoding="utf-8").splitlines()
    tree = fold(Event.decode(line) for line in lines)
    cells = [call for _, call in tree.walk() if call.kind == "code"]
    assert [cell.result for cell in cells] == ["exception", "output", "final", ""]
    assert cells[0].code_sha256 == hashlib.sha256(cells[0].inputs["code"].encode()).hexdigest()[:16]
    assert [cell.error.phase for cell in cells if cell.error] == ["execute", "execute"]
    assert [cell.error.code for cell in cells if cell.error] == ["sandbox_code_failed", "sandbox_lost"]
    assert tree.error is not None
    assert (tree.error.code, tree.error.phase) == ("sandbox_lost", "execute")
    child = tree.sandboxes["sb-2"].child
    assert child is not None
    assert child.lease is not None
    assert (child.lease.depth, child.cleanup, child.cleanup_error[:13]) == (0, "incomplete", "a child leave")


def test_an_rlm_knows_what_it_and_everything_below_it_spent():
    facts: list[tuple[str | None, Fact]] = [
        ("a", CallStarted(parent_id=None, kind="rlm", name="rlm", depth=1)),
        ("b", CallStarted(parent_id="a", kind="lm", name="m", depth=1)),
        ("b", CallEnded(usage=Usage(calls=1, tokens_in=10, tokens_out=1, cost=0.5))),
        ("c", CallStarted(parent_id="a", kind="code", name="python", depth=1)),
        ("d", CallStarted(parent_id="c", kind="rlm", name="rlm", depth=2)),
        ("e", CallStarted(parent_id="d", kind="lm", name="m", depth=2)),
        ("e", CallEnded(usage=Usage(calls=1, tokens_in=5, tokens_out=2))),
        ("d", CallEnded()),
        ("c", CallEnded()),
        ("a", CallEnded()),
    ]
    calls = fold(numbered(facts)).calls
    assert calls["a"].total == Usage(calls=2, tokens_in=15, tokens_out=3, cost=0.5, seconds=calls["a"].seconds)
    assert calls["d"].total == Usage(calls=1, tokens_in=5, tokens_out=2, seconds=calls["d"].seconds)
    assert (calls["b"].total, calls["c"].total) == (None, None)
