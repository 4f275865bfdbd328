"""A run in plain lines, the same on every surface. They hold untrusted text: each surface cleans it for its screen."""

from __future__ import annotations

import time

from fleet_rlm_jupyter.domain.calls import CallTree
from fleet_rlm_jupyter.domain.errors import ErrorText
from fleet_rlm_jupyter.domain.events import (
    ArtifactWritten,
    CallEnded,
    CallStarted,
    Event,
    Log,
    MemoryRecalled,
    PhaseStarted,
    RunStarted,
    SandboxChanged,
    ScoreReported,
)
from fleet_rlm_jupyter.domain.manifest import Resumed
from fleet_rlm_jupyter.domain.memory import MemoryItem
from fleet_rlm_jupyter.domain.shown import LiveSandbox, SandboxSnapshot


def progress_line(event: Event) -> str | None:
    """One line for a change of state; None for what is none."""
    match event.fact:
        case RunStarted(model=model, isolation=isolation, note=note):
            return f"model: {model} | sandbox: {isolation} | {note}"
        case CallStarted(kind="rlm", depth=depth):
            return f"{'  ' * depth}RLM at depth {depth}"
        case CallStarted(kind="lm", iteration=str(step), depth=depth):
            return f"{'  ' * depth}step {step}: the model plans"
        case CallStarted(kind="code", depth=depth):
            return f"{'  ' * depth}code runs in the sandbox"
        case CallStarted(kind="tool", name=name, depth=depth):
            return f"{'  ' * depth}{name}"
        case CallEnded(error=error) if error is not None:
            return f"  ✗ {what_it_says(error)}"
        case ScoreReported(candidate=candidate, split=split, score=score):
            return f"  {candidate} scores {score:.3f} on {split}"
        case PhaseStarted(phase=phase):
            return f"phase: {phase}"
        case MemoryRecalled(items=items, left_out=left_out):
            return f"  {len(items)} of {len(items) + left_out} notes from memory are told to the model"
        case Log(level="warning" | "error", text=text):
            return f"  ! {text}"
        case SandboxChanged(state="ready", sandbox_id=sandbox_id):
            return f"  sandbox {sandbox_id[:8]} is ready"
        case SandboxChanged(state="reused", sandbox_id=sandbox_id):
            return f"  the session's sandbox {sandbox_id[:8]} is used again"
        case SandboxChanged(state="resumed" | "recreated" as state, sandbox_id=sandbox_id, reason=reason):
            return f"  the session's sandbox is {state} as {sandbox_id[:8]}: {reason}"
        case SandboxChanged(state="lost", reason=reason):
            return f"  a sandbox was lost: {reason}"
        case ArtifactWritten():
            return f"  {written_line(event.fact)}"
        case _:
            return None


def what_it_says(error: ErrorText) -> str:
    """The line to show of an error: a traceback says it in its last, everything else in its first."""
    lines = [line for line in error.text.splitlines() if line.strip()] or [error.code]
    return lines[-1 if any(line.endswith("Traceback (most recent call last):") for line in lines) else 0].strip()


def found_so_far(tree: CallTree) -> str:
    """The last thing that code at the top printed or returned: what is there when there is no answer."""
    cells = [call for _, call in tree.walk() if call.kind == "code" and call.depth == 1]
    texts = [call.outputs or call.texts.get("stdout", "") for call in cells]
    return next((text for text in reversed(texts) if text.strip()), "")


def written_line(written: ArtifactWritten) -> str:
    """A file that a cell wrote: its path, size and the beginning of its digest."""
    return f"{written.path} was written: {written.bytes:,} bytes, sha256 {written.sha256[:12]}"


def resumed_lines(found: Resumed) -> list[str]:
    """A session that is gone on with: what of it is there, and what is not."""
    session, manifest = found.session, found.manifest
    turns = f"{session.turns} turn{'' if session.turns == 1 else 's'}"
    lines = [f"session {session.session_id}: {session.title or 'without a title'}"]
    if found.is_restored and manifest is not None:
        lines.append(f"turns:   the store had lost it; of {manifest.turns} its volume knows, and has no words of them")
    else:
        lines.append(f"turns:   {turns} that a model is told of")
    lines.append(f"memory:  {found.notes} approved note{'' if found.notes == 1 else 's'}")
    known = f", revision {manifest.rev} of its manifest" if manifest else ""
    contexts = f", {len(manifest.contexts)} contexts by digest" if manifest and manifest.contexts else ""
    lines.append(f"volume:  {found.files} file{'' if found.files == 1 else 's'}{known}{contexts}")
    lines.append(f"sandbox: {found.sandbox_id or 'none; the next question has one, with these files'}")
    return [*lines, *([f"conflict: {found.conflict}"] if found.conflict else [])]


def memory_line(item: MemoryItem) -> str:
    """An item of memory: id, whether questions are told of it and in which session, where it comes from, its text."""
    where = f" in {item.session_id}" if item.session_id else ""
    source = f", from {item.run_id}" if item.run_id else ""
    return f"{item.memory_id}  {item.state:<8}  {item.kind}{where}{source}: {' '.join(item.text.split())}"


def sandbox_line(sandbox: LiveSandbox) -> str:
    """A sandbox that there is: id, since when, its state, and whom it works for."""
    since = time.strftime("%Y-%m-%d %H:%M", time.localtime(sandbox.created))
    depth = f" (depth {sandbox.depth})" if sandbox.depth > 1 else ""
    return f"{sandbox.id}  {since}  {sandbox.state:<9} {sandbox.role}{depth} of {sandbox.session}, {sandbox.run}"


def snapshot_line(snapshot: SandboxSnapshot) -> str:
    """What sandboxes can be made of: name, state, size, and why it could not be built."""
    size = f"{snapshot.cpu:g} CPU, {snapshot.memory_gb:g} GB, disk {snapshot.disk_gb:g} GB"
    why = f": {snapshot.error}" if snapshot.error else ""
    return f"{snapshot.name:<28}{snapshot.state:<14}{size}{why}"
