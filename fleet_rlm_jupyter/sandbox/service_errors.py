"""What the Daytona SDK's errors mean: which of ours they become, whether trying again may help, and when."""

from __future__ import annotations

import contextlib
import importlib
import random
import re
from typing import Any

from fleet_rlm_jupyter.domain.errors import BadSettings, FleetError, SandboxError, SandboxLost, SandboxUnavailable

MOST_PAUSE_SECONDS = 20.0
"""A service that asks for more patience than this is told about to the user at once."""

_REGION = re.compile(r"\bregion\b|no available runners?\b", re.IGNORECASE)


def sdk() -> Any:
    """The SDK; it takes a second or more to import, so it is not imported with this module."""
    return importlib.import_module("daytona")


def translated(err: BaseException) -> FleetError:
    """One of our errors, with the next step, for what the SDK raised."""
    known = sdk()
    text = str(err)
    # Before 403 and 404: a file that is gone or closed says nothing about the key or the sandbox.
    if isinstance(err, known.DaytonaFileAccessDeniedError | known.DaytonaFileNotFoundError):
        return SandboxError(f"a file of the sandbox cannot be had: {text}", "ask again; its code may have changed it")
    if isinstance(err, known.DaytonaAuthenticationError):
        return BadSettings("Daytona refused the key", "check DAYTONA_API_KEY and DAYTONA_API_URL")
    if isinstance(err, known.DaytonaForbiddenError):
        return BadSettings("the Daytona key lacks a permission", "give it sandbox create, write and delete")
    if getattr(err, "status_code", None) == 501:
        hint = "set DAYTONA_API_KEY and DAYTONA_API_URL to use Daytona"
        return SandboxUnavailable(f"this sandbox service does not offer that: {text}", hint)
    if "No space left" in text:
        return SandboxError("the sandbox's disk is full", "pass a smaller context, or free space where sandboxes live")
    if _REGION.search(text):
        return SandboxUnavailable(
            f"Daytona has nothing for this in that region: {text}",
            "set daytona.target to a region of your organization, or unset it; snapshots belong to a region",
        )
    if isinstance(err, known.DaytonaNotFoundError | known.DaytonaGoneError):
        return SandboxLost(f"Daytona does not know it (any more): {text}", "ask again")
    if "limit exceeded" in text or "quota" in text.lower():
        return SandboxUnavailable(
            f"Daytona's quota is used up: {text}", "delete sandboxes there, or lower budget.sandboxes"
        )
    if is_busy(err):
        return SandboxUnavailable("Daytona says there were too many requests", f"wait {_patience(err)} and ask again")
    if isinstance(err, known.DaytonaConnectionError) and not isinstance(err, known.DaytonaTimeoutError):
        return SandboxUnavailable(
            f"the sandbox service cannot be reached: {text}", "check DAYTONA_API_URL and the network, then ask again"
        )
    if isinstance(err, TimeoutError | known.DaytonaTimeoutError):
        return SandboxUnavailable("the sandbox service did not answer in time", "ask again; `fleet doctor` checks it")
    return SandboxUnavailable(f"the sandbox service failed: {text}", "ask again; `fleet doctor` checks it")


def pause_before_retry(err: Any, attempt: int) -> float | None:
    """Seconds to wait before attempt `attempt` + 1, or None if trying again would not help."""
    known = sdk()
    is_down = err.status_code is not None and err.status_code >= 500 and not is_refusal(err)
    is_down = is_down and "No space left" not in str(err)
    if not (is_busy(err) or is_down or isinstance(err, known.DaytonaConnectionError)):
        return None
    asked = retry_after(err)
    if asked is None:
        return random.uniform(0.1, 0.3) * 2**attempt
    return asked if asked <= MOST_PAUSE_SECONDS else None


def is_busy(err: Any) -> bool:
    """Whether the service refused because of too many requests."""
    # daytona 0.226: an upload raises the bare class, whatever its status.
    return isinstance(err, sdk().DaytonaRateLimitError) or getattr(err, "status_code", None) == 429


def has_begun(err: Any) -> bool:
    """Whether the service may have done what was asked for all the same: it broke off, and did not refuse."""
    known = sdk()
    if not isinstance(err, known.DaytonaError):
        return isinstance(err, TimeoutError | OSError)
    if isinstance(err, known.DaytonaConnectionError | known.DaytonaTimeoutError):
        return True
    return err.status_code is None or (err.status_code >= 500 and not is_refusal(err))


def is_refusal(err: Any) -> bool:
    """Whether the service said that it does not do such a thing at all."""
    return getattr(err, "status_code", None) in (404, 405, 422, 501)


def retry_after(err: Any) -> float | None:
    """The seconds that the service asked for. Daytona's header carries a suffix: Retry-After-<throttler>."""
    for name, value in err.headers.items():
        if str(name).lower().startswith("retry-after"):
            with contextlib.suppress(ValueError):
                return max(0.0, float(value))
    return None


def ended(exit_code: int) -> str:
    """Why the guest is gone."""
    if exit_code in (137, -9):
        return "it was killed, most likely because it ran out of memory (sandbox.memory_mb)"
    return f"exit code {exit_code}"


def _patience(err: Any) -> str:
    asked = retry_after(err)
    return "a minute" if asked is None else f"{asked:.0f} seconds"
