"""What `fleet doctor` looks at: model, sandbox, store."""

from __future__ import annotations

import time

from fleet_rlm_jupyter.domain.errors import FleetError
from fleet_rlm_jupyter.domain.ports import Role
from fleet_rlm_jupyter.domain.question import Check
from fleet_rlm_jupyter.domain.session import new_id
from fleet_rlm_jupyter.verbs.house import House


def check_all(house: House) -> list[Check]:
    """What is configured, whether it works, and what to do next. Starts a sandbox and runs one cell."""
    return [check_model(house), check_sandbox(house), check_store(house)]


def check_model(house: House) -> Check:
    try:
        models = house.models()
    except FleetError as err:
        return Check("model", False, err.text, err.hint)
    hint = "set FLEET_MODEL or a provider's key to ask open questions" if models.is_offline else ""
    told = "" if models.is_offline else "; not called yet"
    return Check("model", True, f"{models.label} — {models.source}{told}", hint)


def check_sandbox(house: House) -> Check:
    begun = time.monotonic()
    try:
        sandboxes = house.sandboxes(trusted_code=True)
        isolation = sandboxes.isolation
        interpreter = sandboxes.open(Role(new_id("s"), new_id("r"), "check", 1))
        try:
            interpreter.execute("1 + 1")
        finally:
            interpreter.shutdown()
    except FleetError as err:
        return Check("sandbox", False, err.text, err.hint)
    text = f"{isolation.label}; a cell ran {time.monotonic() - begun:.1f} s after the call"
    if isolation.level == "L1" and not house.settings.sandbox.allow_unisolated:
        hint = "set sandbox.allow_unisolated to let code of a model run as you, or set up Daytona"
        return Check("sandbox", False, f"{text}; model-written code is refused: {isolation.reason}", hint)
    return Check("sandbox", True, text + (f" ({isolation.reason})" if isolation.reason else ""))


def check_store(house: House) -> Check:
    try:
        database = house.store().database()
        with database.writing():
            pass
    except FleetError as err:
        return Check("store", False, err.text, err.hint)
    return Check("store", True, f"runs are kept in {database.name}")
