"""Routes of memory: what a user approved to be told to later questions."""

from __future__ import annotations

from pydantic import Field

from fleet_rlm_jupyter.domain.memory import MEMORY_CHARS, MemoryItem, MemoryKind, MemoryState
from fleet_rlm_jupyter.server.desk import Asked
from fleet_rlm_jupyter.server.schema import Wire
from fleet_rlm_jupyter.server.web import Endpoint


class MemoryQuery(Wire):
    """Which items of memory."""

    state: MemoryState | None = None
    session_id: str | None = Field(default=None, description="those that hold in that session")
    limit: int = Field(default=1000, ge=1, le=1000)


class MemoryBody(Wire):
    """What is to be remembered."""

    text: str = Field(description=f"at most {MEMORY_CHARS} characters")
    kind: MemoryKind = "note"
    session_id: str | None = Field(default=None, description="where it holds; in all sessions where left out")


class MemoryList(Wire):
    """Items of memory, the newest first."""

    items: list[MemoryItem]


def memory(asked: Asked, query: MemoryQuery) -> MemoryList:
    """What is remembered, was proposed for that, or was rejected, the newest first."""
    return MemoryList(items=asked.bench.memory.list(query.state, query.session_id, query.limit))


def add_memory(asked: Asked, body: MemoryBody) -> MemoryItem:
    """Remember what the user wrote: later questions are told of it."""
    return asked.bench.memory.add(body.text, body.kind, body.session_id)


def memory_item(asked: Asked, memory_id: str) -> MemoryItem:
    """One item of memory."""
    return asked.bench.memory.get(memory_id)


def approve_memory(asked: Asked, memory_id: str) -> MemoryItem:
    """From now on questions are told of it."""
    return asked.bench.memory.approve(memory_id)


def reject_memory(asked: Asked, memory_id: str) -> MemoryItem:
    """No question is told of it; it may be approved later."""
    return asked.bench.memory.reject(memory_id)


def delete_memory(asked: Asked, memory_id: str) -> None:
    """Forget it."""
    asked.bench.memory.delete(memory_id)


ROUTES = (
    Endpoint("GET", "/memory", memory),
    Endpoint("POST", "/memory", add_memory, status=201),
    Endpoint("GET", "/memory/{memory_id}", memory_item),
    Endpoint("POST", "/memory/{memory_id}/approve", approve_memory),
    Endpoint("POST", "/memory/{memory_id}/reject", reject_memory),
    Endpoint("DELETE", "/memory/{memory_id}", delete_memory, status=204),
)
