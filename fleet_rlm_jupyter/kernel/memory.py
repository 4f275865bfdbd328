"""`%fleet memory`: what later questions are told, where this notebook's questions go."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

from fleet_rlm_jupyter.domain.errors import BadRequest
from fleet_rlm_jupyter.domain.lines import memory_line
from fleet_rlm_jupyter.domain.memory import MEMORY_KINDS, MemoryKind, the_one
from fleet_rlm_jupyter.kernel.handles import Notebook
from fleet_rlm_jupyter.remote_memory import RemoteMemory
from fleet_rlm_jupyter.verbs.memory import Memory


def lines(book: Notebook, words: list[str]) -> Iterator[str]:
    """What `%fleet memory WORDS` prints. Raises BadRequest, NoSuchMemory, StoreFailed, ServerUnavailable."""
    server = book.place().server
    kept = book.remote(server).memory if server else book.bench().memory
    match words:
        case [] | ["list"]:
            return _listed(kept)
        case ["add", *text] if text:
            kind = text[0].rstrip(":")
            named = len(text) > 1 and text[0].endswith(":") and kind in MEMORY_KINDS
            made = kept.add(" ".join(text[1:] if named else text), cast("MemoryKind", kind) if named else "note")
            return iter([memory_line(made)])
        case ["approve" | "reject" | "delete" as verb, *prefixes] if prefixes:
            return _reviewed(kept, verb, prefixes)
        case _:
            raise BadRequest(
                f"there is no %fleet memory {' '.join(words)}",
                "it is list, add [KIND:] TEXT, approve ID, reject ID or delete ID",
            )


def _listed(kept: Memory | RemoteMemory) -> Iterator[str]:
    items = kept.list()
    yield from map(memory_line, items)
    if not items:
        yield "nothing is remembered; %fleet memory add remembers a sentence"


def _reviewed(kept: Memory | RemoteMemory, verb: str, prefixes: list[str]) -> Iterator[str]:
    items = kept.list()
    for item in [the_one(items, prefix) for prefix in prefixes]:
        if verb == "delete":
            kept.delete(item.memory_id)
            yield f"{item.memory_id} forgotten"
        else:
            yield memory_line(kept.approve(item.memory_id) if verb == "approve" else kept.reject(item.memory_id))
