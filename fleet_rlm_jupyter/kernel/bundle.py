"""A finished run as one JSON object for a saved notebook: `application/vnd.fleet-rlm.run+json`."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from pydantic import JsonValue

from fleet_rlm_jupyter.domain.events import Event
from fleet_rlm_jupyter.domain.masking import Mask
from fleet_rlm_jupyter.domain.previews import PREVIEW_BYTES, preview
from fleet_rlm_jupyter.domain.session import Run

MIME = "application/vnd.fleet-rlm.run+json"
SCHEMA = 1
MOST_BYTES = 1_000_000

Bundle = dict[str, Any]


def run_json(run: Run, events: Iterable[Event], mask: Mask) -> Bundle:
    """`run` and its trace, keys and home masked, each text of an event a preview, at most MOST_BYTES in all.

    Above that the oldest `call.text` go first, then the previews of the oldest calls, then the oldest events, and the
    tails of question and answer.
    """
    facts = ("run_id", "session_id", "status", "question", "answer", "model", "sandbox", "usage")
    shown: dict[str, JsonValue] = mask.everywhere_in(run).model_dump(mode="json", include=set(facts))
    lines = [_previewed(json.loads(_masked(event, mask).encode())) for event in events]
    bundle: Bundle = {"schema": SCHEMA, **{name: shown[name] for name in facts}, "events": lines}
    over = _bytes(bundle) - MOST_BYTES
    return bundle if over <= 0 else _cut(bundle, over)


def _cut(bundle: Bundle, over: int) -> Bundle:
    texts = {name: bundle[name] for name in ("question", "answer") if bundle[name]}
    for name, text in texts.items():
        half = MOST_BYTES // 4
        short = text.encode("utf-8", "replace")[:half].decode("utf-8", "ignore")
        if len(short) < len(text):
            bundle[name] = f"{short}\n… {len(text) - len(short):,} characters left out …"
    over = _bytes(bundle) - MOST_BYTES
    events: list[Any] = bundle["events"]
    gone: set[int] = set()
    for place, event in enumerate(events):
        if over <= 0:
            break
        if event["type"] == "call.text":
            gone.add(place)
            over -= _bytes(event) + 1
    events = [event for place, event in enumerate(events) if place not in gone]
    for event in events:
        if over <= 0:
            break
        if event["type"] in ("call.started", "call.ended"):
            before = _bytes(event)
            event["data"].update({"inputs": {}} if event["type"] == "call.started" else {"outputs": ""})
            over -= before - _bytes(event)
    # The first event and the last say what was asked and how it ended.
    while over > 0 and len(events) > 2:
        over -= _bytes(events.pop(1)) + 1
    bundle["events"] = events
    return bundle


def _masked(event: Event, mask: Mask) -> Event:
    """A new one: a copy would have kept the line that was made of the event before."""
    return Event.model_validate({**dict(event), "fact": mask.fact(event.fact)})


def _previewed(value: JsonValue) -> JsonValue:
    if isinstance(value, str):
        return preview(value) if len(value) > PREVIEW_BYTES // 4 else value
    if isinstance(value, dict):
        return {name: _previewed(item) for name, item in value.items()}
    return [_previewed(item) for item in value] if isinstance(value, list) else value


def _bytes(value: object) -> int:
    return len(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode())
