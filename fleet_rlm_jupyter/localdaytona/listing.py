"""Which sandboxes a list shows: Daytona's filters and pages, and its delay where that fault is on."""

import json
import os
import time
from collections.abc import Mapping, Sequence

from multidict import MultiMapping

from fleet_rlm_jupyter.localdaytona.wire import ApiError, timestamp

_MAX_PAGE = 200


class Departed:
    """Sandboxes that are gone, as they were before, for a list that does not know it yet."""

    def __init__(self) -> None:
        self._all: list[tuple[float, dict[str, object]]] = []

    def add(self, shown: dict[str, object]) -> None:
        self._all.append((time.time(), shown))

    def since(self, moment: float) -> list[dict[str, object]]:
        self._all = [one for one in self._all if one[0] > moment]
        return [shown for _, shown in self._all]


def page(shown: Sequence[Mapping[str, object]], query: MultiMapping[str]) -> dict[str, object]:
    """The part of `shown` that was asked for, as Daytona's `ListSandboxesResponse`; raises ApiError 400."""
    try:
        labels = json.loads(query.get("labels") or "{}")
        limit = min(max(int(query.get("limit") or 100), 1), _MAX_PAGE)
        start = int(query.get("cursor") or 0)
    except ValueError as err:
        raise ApiError(400, "BAD_REQUEST", f"the query cannot be read: {err}") from err
    if not isinstance(labels, dict):
        raise ApiError(400, "BAD_REQUEST", "labels must be a JSON object")
    states = query.getall("states", [])
    found = [
        one
        for one in shown
        if _has(one["labels"], labels)
        and (not states or one["state"] in states)
        and str(one["id"]).startswith(query.get("id", "").lower())
        and str(one["name"]).lower().startswith(query.get("name", "").lower())
    ]
    following = str(start + limit) if start + limit < len(found) else None
    return {"items": found[start : start + limit], "nextCursor": following}


def snapshot(since: float) -> dict[str, object]:
    """The one there is, as Daytona's `SnapshotDto`: this machine with its Python, `since` a moment."""
    moment = timestamp(since)
    return {
        "id": "local",
        "organizationId": "local",
        "general": True,
        "name": "local",
        "imageName": "local",
        "state": "active",
        "size": None,
        "entrypoint": None,
        "cpu": os.cpu_count() or 1,
        "gpu": 0,
        "mem": 0,
        "disk": 0,
        "errorReason": None,
        "createdAt": moment,
        "updatedAt": moment,
        "lastUsedAt": None,
        "sourceSandboxId": None,
        "sandboxClass": "container",
    }


def _has(labels: object, wanted: Mapping[str, object]) -> bool:
    return isinstance(labels, dict) and all(labels.get(name) == value for name, value in wanted.items())
