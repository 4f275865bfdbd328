"""Memory items: what a user wants later questions to be told, reviewed by them one by one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

from fleet_rlm_jupyter.domain.errors import BadRequest, NoSuchMemory

MemoryKind = Literal["note", "fact", "preference"]
MemoryState = Literal["proposed", "approved", "rejected"]

MEMORY_KINDS: tuple[MemoryKind, ...] = get_args(MemoryKind)
MEMORY_CHARS = 1000


class MemoryItem(BaseModel):
    """A note in its user's words, or one that a run proposed; only an approved one is ever told to a model.

    It holds in the session `session_id`, or in all where that is None. `run_id` is the run that proposed it, empty
    where its user wrote it. Times are seconds since the epoch.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    memory_id: str
    text: str = Field(min_length=1, max_length=MEMORY_CHARS)
    kind: MemoryKind = "note"
    state: MemoryState
    session_id: str | None = None
    run_id: str = ""
    created_at: float
    reviewed_at: float | None = None


class Recall(BaseModel):
    """What a question is told; `left_out` counts approved items that had no room."""

    model_config = ConfigDict(frozen=True)

    items: list[MemoryItem] = []
    left_out: int = 0


def checked_memory(text: str) -> str:
    """The text of an item. Raises BadRequest for one that is empty or longer than MEMORY_CHARS."""
    found = text.strip()
    if not found:
        raise BadRequest("there is nothing to remember", "say it in a sentence")
    if len(found) > MEMORY_CHARS:
        raise BadRequest(f"an item of memory has at most {MEMORY_CHARS} characters, not {len(found):,}", "shorten it")
    return found


def within(found: Sequence[MemoryItem], items: int, chars: int) -> Recall:
    """As many of `found`, the most important first, as there is room for; an item is never cut."""
    taken: list[MemoryItem] = []
    for item in found:
        if len(taken) < items and len(item.text) <= chars:
            chars -= len(item.text)
            taken.append(item)
    return Recall(items=taken, left_out=len(found) - len(taken))


def the_one(items: Sequence[MemoryItem], prefix: str) -> MemoryItem:
    """The one whose id begins with `prefix`. Raises NoSuchMemory, and BadRequest where there are more."""
    found = [item for item in items if prefix and item.memory_id.startswith(prefix)]
    if len(found) > 1:
        raise BadRequest(f"more than one item of memory begins with {prefix}", "give more of its id")
    if not found:
        raise no_such_memory(prefix)
    return found[0]


def no_such_memory(memory_id: str) -> NoSuchMemory:
    return NoSuchMemory(f"there is no item {memory_id} in memory", "`fleet memory list` names those that there are")
