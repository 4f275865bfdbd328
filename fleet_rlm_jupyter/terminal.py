"""A run as a terminal shows it: progress while it works, then answer, recursion tree and spend."""

from __future__ import annotations

import re
from collections.abc import Sequence
from textwrap import indent
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.status import Status
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from fleet_rlm_jupyter.domain.calls import Call, CallTree
from fleet_rlm_jupyter.domain.events import BudgetSpent, Event, RunStarted
from fleet_rlm_jupyter.domain.lines import found_so_far, progress_line, what_it_says
from fleet_rlm_jupyter.domain.question import Check, Phase
from fleet_rlm_jupyter.domain.session import Run
from fleet_rlm_jupyter.settings import Loaded, describe, variable

MOST_CHILDREN = 24
"""Children of one node that are shown; the rest are counted."""

_PIPE_COLUMNS = 160

_MARKS = {"done": "✓", "failed": "✗", "cancelled": "■", "over_budget": "■", "abstained": "?"}
_STYLES = {"done": "green", "failed": "red", "cancelled": "yellow", "over_budget": "yellow", "abstained": "cyan"}
_KINDS = {"agent": "agent", "rlm": "RLM", "lm": "model", "tool": "tool", "code": "code"}

# Model output must not drive the terminal: control characters and direction overrides are shown, not obeyed.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


class Progress:
    """What the run is doing, on stderr: one changing line on a terminal, one line per step elsewhere."""

    def __init__(self) -> None:
        self._console = _console(stderr=True)
        self._status = Status("starting", console=self._console) if self._console.is_terminal else None
        self._spent = ""

    def __enter__(self) -> Progress:
        if self._status:
            self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._status:
            self._status.stop()

    def show(self, event: Event) -> None:
        """A watcher for `Workbench.ask`."""
        fact = event.fact
        if isinstance(fact, BudgetSpent):
            self._spent = f"{fact.calls} of {fact.limits.calls} calls, {fact.seconds:.0f} s"
        said = progress_line(event)
        if said is None:
            return
        line = clean(said)
        # What model, sandbox and context are is worth a line that stays; what goes on is not.
        if self._status and not isinstance(fact, RunStarted):
            self._status.update(escape(f"{line.strip()}  ({self._spent})" if self._spent else line.strip()))
        else:
            self._console.print(Text(line), soft_wrap=True)


def print_run(run: Run, tree: CallTree) -> None:
    """Answer, recursion tree and spend on stdout."""
    console = _console()
    if run.answer:
        console.print(Text(clean(run.answer)), soft_wrap=True)
        _print_recipe(console, run)
    elif found := found_so_far(tree):
        console.print(Text("No answer. Found so far:", style="bold"))
        console.print(Text(indent(clean(found), "  ")), soft_wrap=True)
    console.print()
    console.print(_as_tree(run, tree))
    console.print(Text(clean(spend(run, tree)), style="dim"), soft_wrap=True)
    if run.error is not None:
        print_error(run.error.text, run.error.hint)


def print_end(run: Run) -> None:
    """How a run ended without its tree, which may be bigger than memory."""
    console = _console()
    if run.answer:
        console.print(Text(clean(run.answer)), soft_wrap=True)
    console.print(Text.assemble((f"{_MARKS[run.status]} {run.status}  ", _STYLES[run.status]), run.run_id))
    console.print(Text(clean(spend(run, CallTree())), style="dim"), soft_wrap=True)
    if run.error is not None:
        print_error(run.error.text, run.error.hint)


def spend(run: Run, tree: CallTree) -> str:
    """One line of what the run used; what nobody said is "unknown", never 0."""
    usage, spent = run.usage, tree.spent
    tokens = "unknown" if usage.tokens_in is None else f"{usage.tokens_in:,} in, {usage.tokens_out or 0:,} out"
    cost = "unknown" if usage.cost is None else f"${usage.cost:.4f}"
    limit = f" of {spent.limits.calls}" if spent else ""
    count = len(tree.sandboxes)
    sandboxes = f"{count} sandbox{'' if count == 1 else 'es'} · " if tree.run_id else ""
    return (
        f"{usage.calls}{limit} LM calls · tokens {tokens} · cost {cost} · {usage.seconds or 0:.1f} s · "
        f"{sandboxes}{run.model} · {run.sandbox}"
    )


def print_error(text: str, hint: str) -> None:
    """What is wrong and what to do, on stderr."""
    console = _console(stderr=True)
    console.print(Text.assemble(("error: ", "bold red"), clean(text)), soft_wrap=True)
    if hint:
        console.print(Text.assemble(("next:  ", "bold"), clean(hint)), soft_wrap=True)


def as_json(run: Run, tree: CallTree) -> dict[str, Any]:
    """The one object of `fleet ask --json`; where there is no answer, `found` is what was found so far."""
    shown = run.model_dump(mode="json", include={"answer", "status", "error", "usage", "run_id", "model", "sandbox"})
    found = None if run.answer else found_so_far(tree)
    return {**shown, **run.outputs, **({"found": found} if found else {})}


def print_checks(checks: Sequence[Check], loaded: Loaded) -> None:
    """What `fleet doctor` found: each check with its next step, then every setting and where it comes from."""
    console = _console()
    for check in checks:
        mark = ("✓ ", "green") if check.is_good else ("✗ ", "red")
        console.print(Text.assemble(mark, (f"{check.name}: ", "bold"), clean(check.text)), soft_wrap=True)
        if check.hint:
            hint = (
                Text(f"  {clean(check.hint)}", style="dim") if check.is_good else Text(f"  next: {clean(check.hint)}")
            )
            console.print(hint, soft_wrap=True)
    console.print()
    table = Table(box=None, pad_edge=False, show_edge=False, header_style="bold")
    for column in ("setting", "value", "from"):
        table.add_column(column, overflow="fold")
    for name, value, source in setting_rows(loaded):
        table.add_row(name, escape(value or "—"), escape(source), style="" if source != "default" else "dim")
    console.print(table)
    console.print(Text(f"\nSet one with {variable('NAME')}, a line of .env, or --set name=value.", style="dim"))


def print_phase(phase: Phase) -> None:
    """A phase of `fleet smoke` as it ends."""
    mark, style = {"passed": ("✓", "green"), "failed": ("✗", "red"), "skipped": ("–", "dim")}[phase.status]
    seconds = "" if phase.status == "skipped" else f"{phase.seconds:.2f} s"
    console = _console()
    line = Text.assemble((f"{mark} ", style), (f"{phase.name:<9}", "bold"), f"{seconds:>8}  ", clean(phase.text))
    console.print(line, soft_wrap=True)
    if phase.error and phase.error.hint:
        console.print(Text(f"  next: {clean(phase.error.hint)}"), soft_wrap=True)


def phases_as_json(phases: Sequence[Phase]) -> dict[str, Any]:
    """The one object of `fleet smoke --json`."""
    told = [
        {
            "name": phase.name,
            "status": phase.status,
            "seconds": round(phase.seconds, 3),
            "text": phase.text,
            "error": phase.error.model_dump() if phase.error else None,
        }
        for phase in phases
    ]
    is_good = all(phase.is_good for phase in phases)
    return {"ok": is_good, "seconds": round(sum(phase.seconds for phase in phases), 3), "phases": told}


def checks_as_json(checks: Sequence[Check], loaded: Loaded) -> dict[str, Any]:
    """The same for programs."""
    settings = [{"name": name, "value": value, "source": source} for name, value, source in setting_rows(loaded)]
    found = [{"name": item.name, "ok": item.is_good, "text": item.text, "hint": item.hint} for item in checks]
    return {"ok": all(item.is_good for item in checks), "checks": found, "settings": settings}


def clean(text: str) -> str:
    """`text` without anything that a terminal obeys."""
    return _CONTROLS.sub(lambda found: f"\\x{ord(found.group()):02x}", text)


def setting_rows(loaded: Loaded) -> list[tuple[str, str, str]]:
    """Every setting with its value and where that came from; keys are stars."""
    rows: list[tuple[str, str, str]] = []
    values = loaded.settings.model_dump(mode="json")
    for name in describe():
        value: Any = values
        for part in name.split("."):
            value = value[part]
        rows.append((name, as_given(value), loaded.sources.get(name, "default")))
    for name, source in loaded.sources.items():
        if name.startswith("provider_keys."):
            rows.append((name, "**********", source))
    return rows


def as_given(value: Any) -> str:
    """A setting's value as one would write it: `true`, `900`, nothing where it is unset."""
    if value is None or isinstance(value, bool):
        return "" if value is None else str(value).lower()
    return f"{value:g}" if isinstance(value, float) and value < 1e6 else str(value)


def _console(*, stderr: bool = False) -> Console:
    """The terminal as wide as it is; what goes to a file or pipe is not cut at 80 columns."""
    console = Console(stderr=stderr, highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, _PIPE_COLUMNS)
    return console


def _print_recipe(console: Console, run: Run) -> None:
    outputs = run.outputs
    if not outputs.get("recipe"):
        return
    slots = outputs.get("slots")
    shown = " ".join(f"{name}={value}" for name, value in slots.items()) if isinstance(slots, dict) else ""
    console.print(Text(clean(f"recipe {outputs['recipe']} {shown}"), style="dim"), soft_wrap=True)
    evidence = outputs.get("evidence")
    for line in evidence if isinstance(evidence, list) else []:
        console.print(Padding(Text(clean(str(line)), style="dim", overflow="ellipsis", no_wrap=True), (0, 0, 0, 2)))


def _as_tree(run: Run, tree: CallTree) -> Tree:
    root = Tree(
        Text.assemble((f"{_MARKS[run.status]} {run.status}  ", _STYLES[run.status]), run.run_id), guide_style="dim"
    )
    # An explicit stack: a hostile trace may be deeper than Python's own.
    stack: list[tuple[Tree, Call | str]] = [(root, call) for call in reversed(tree.roots)]
    while stack:
        branch, call = stack.pop()
        if isinstance(call, str):
            branch.add(Text(call, style="dim"))
            continue
        node = branch.add(_call_line(call))
        rest = len(call.children) - MOST_CHILDREN
        if rest > 0:
            stack.append((node, f"… {rest} more"))
        stack.extend((node, child) for child in reversed(call.children[:MOST_CHILDREN]))
    return root


def _call_line(call: Call) -> Text:
    seconds = "" if call.seconds is None else f"  {call.seconds:.2f} s"
    name = f"depth {call.depth}" if call.kind == "rlm" else clean(call.name)
    line = Text.assemble((_KINDS.get(call.kind or "", "…") + " ", "bold"), name, (seconds, "dim"))
    detail = what_it_says(call.error) if call.error else _detail(call)
    if detail:
        line.append(f"  {_first_line(detail)}", style="red" if call.error else "dim")
    line.no_wrap, line.overflow = True, "ellipsis"
    return line


def _detail(call: Call) -> str:
    if call.kind == "code":
        return call.inputs.get("code", "")
    return call.texts.get("thought") or call.outputs


def _first_line(text: str) -> str:
    return clean(next((line.strip() for line in text.splitlines() if line.strip()), ""))[:160]
