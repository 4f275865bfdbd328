"""Trying again what the service refused for a moment: for calls that may run twice, never for a cell."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Awaitable, Callable
from typing import TypeVar

from fleet_rlm_jupyter.sandbox.service_errors import is_busy, pause_before_retry, sdk

_T = TypeVar("_T")

TRIES = 3


async def retried(make: Callable[[], Awaitable[_T]], tries: int = TRIES, *, only_refused: bool = False) -> _T:
    """Await `make()`, again after a pause where the service was busy or the line broke.

    `only_refused`: again only if the service said that it did not begin.
    """
    for attempt in range(1, tries + 1):
        try:
            return await make()
        except sdk().DaytonaError as err:
            pause = pause_before_retry(err, attempt)
            if attempt == tries or pause is None or (only_refused and not is_busy(err)):
                raise
            await asyncio.sleep(pause)
    raise AssertionError("unreachable")


async def all_of(listing: AsyncIterable[_T]) -> list[_T]:
    """What the service lists page by page."""
    return [one async for one in listing]
