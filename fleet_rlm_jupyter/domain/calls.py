"""Events folded into the recursion tree: pure, the same in Python and TypeScript (golden traces in tests/data)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from pydantic import JsonValue

from fleet_rlm_jupyter.domain.errors import ErrorText
from fleet_rlm_jupyter.domain.events import (
    BudgetSpent,
    CallEnded,
    CallKind,
    CallStarted,
    CallText,
    CodeResult,
    Event,
    RunEnded,
    RunStarted,
    RunStatus,
    SandboxChanged,
    Usage,
)


@dataclass(slots=True)
class Call:
    """One node of the recursion tree. `kind` is None while only later events of it are known."""

    id: str
    parent_id: str | None = None
    kind: CallKind | None = None
    name: str = ""
    depth: int = 0
    iteration: str | None = None
    inputs: dict[str, str] = field(default_factory=dict[str, str])
    code_sha256: str = ""
    texts: dict[str, str] = field(default_factory=dict[str, str])
    outputs: str = ""
    result: CodeResult = ""
    error: ErrorText | None = None
    usage: Usage | None = None
    started_at: float | None = None
    ended_at: float | None = None
    children: list[Call] = field(default_factory=list["Call"])

    @property
    def seconds(self) -> float | None:
        if self.started_at is None or self.ended_at is None:
            return None
        return self.ended_at - self.started_at

    @property
    def total(self) -> Usage | None:
        """What an RLM spent with everything below it, and how long it took; None for any other call."""
        if self.kind != "rlm":
            return None
        spent: list[Usage] = []
        stack = [self]
        while stack:
            call = stack.pop()
            stack += call.children
            spent += [call.usage] if call.usage is not None else []
        return summed(spent).model_copy(update={"seconds": self.seconds})


@dataclass(slots=True)
class CallTree:
    """A run as one looks at it. `status` is None while the run is going on."""

    run_id: str = ""
    started: RunStarted | None = None
    status: RunStatus | None = None
    answer: str | None = None
    outputs: dict[str, JsonValue] = field(default_factory=dict[str, JsonValue])
    error: ErrorText | None = None
    spent: BudgetSpent | None = None
    calls: dict[str, Call] = field(default_factory=dict[str, Call])
    sandboxes: dict[str, SandboxChanged] = field(default_factory=dict[str, SandboxChanged])
    last_seq: int = -1
    # By id, so that one call among thousands is found at once; `_above` leads from a call towards its root.
    _roots: dict[str, Call] = field(default_factory=dict[str, Call])
    _above: dict[str, str] = field(default_factory=dict[str, str])

    @property
    def roots(self) -> list[Call]:
        return list(self._roots.values())

    def walk(self) -> Iterator[tuple[int, Call]]:
        """(indent, call), depth first, in the order the calls began."""
        stack = [(0, call) for call in reversed(self.roots)]
        while stack:
            indent, call = stack.pop()
            yield indent, call
            stack.extend((indent + 1, child) for child in reversed(call.children))

    def call(self, call_id: str) -> Call:
        """The call of that id; a placeholder among the roots until its `call.started` says where it belongs."""
        call = self.calls.get(call_id)
        if call is None:
            call = self.calls[call_id] = self._roots[call_id] = Call(call_id)
        return call

    def place(self, call: Call, parent_id: str | None) -> None:
        """Put a root below its parent, or last among the roots where that would make a ring or there is none."""
        del self._roots[call.id]
        if parent_id is None or self._root_id(parent_id) == call.id:
            self._roots[call.id] = call
            return
        call.parent_id = self._above[call.id] = parent_id
        self.call(parent_id).children.append(call)

    def _root_id(self, call_id: str) -> str:
        # Shortens the way as it goes, or a chain of 10,000 calls would cost 50 million steps.
        while (above := self._above.get(call_id)) is not None:
            self._above[call_id] = self._above.get(above, above)
            call_id = above
        return call_id


def fold(events: Iterable[Event], tree: CallTree | None = None) -> CallTree:
    """Fold `events` into `tree` (a new one by default), in place, and return it.

    Total: any event may come, also a child before its parent; unknown facts change nothing.
    """
    tree = tree or CallTree()
    for event in events:
        _apply(tree, event)
        tree.last_seq = max(tree.last_seq, event.seq)
        tree.run_id = event.run_id
    return tree


def summed(usages: Iterable[Usage]) -> Usage:
    """What they come to together; what none of them knows is unknown."""
    found = list(usages)

    def total(name: str) -> Any:
        known = [value for usage in found if (value := getattr(usage, name)) is not None]
        return sum(known) if known else None

    rest = {name: total(name) for name in ("tokens_in", "tokens_out", "cost", "seconds")}
    return Usage(calls=total("calls") or 0, **rest)


def _apply(tree: CallTree, event: Event) -> None:
    fact = event.fact
    if isinstance(fact, RunStarted):
        tree.started = fact
    elif isinstance(fact, RunEnded):
        tree.status, tree.answer, tree.error = fact.status, fact.answer, fact.error
        tree.outputs = dict(fact.outputs)
    elif isinstance(fact, BudgetSpent):
        tree.spent = fact
    elif isinstance(fact, SandboxChanged):
        tree.sandboxes[fact.sandbox_id] = fact
    elif event.call_id is not None and isinstance(fact, CallStarted | CallText | CallEnded):
        _apply_to_call(tree, tree.call(event.call_id), event.at, fact)


def _apply_to_call(tree: CallTree, call: Call, at: float, fact: CallStarted | CallText | CallEnded) -> None:
    if isinstance(fact, CallText):
        call.texts[fact.channel] = call.texts.get(fact.channel, "") + fact.text
    elif isinstance(fact, CallEnded):
        call.outputs, call.result, call.error = fact.outputs, fact.result, fact.error
        call.usage, call.ended_at = fact.usage, at
    elif call.kind is None:
        call.kind, call.name, call.depth, call.iteration = fact.kind, fact.name, fact.depth, fact.iteration
        call.inputs, call.code_sha256, call.started_at = dict(fact.inputs), fact.code_sha256, at
        tree.place(call, fact.parent_id)
