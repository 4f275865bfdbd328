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
    return Check("model", True, f"{models.label} — {models.source}", hint)


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
        hint = "model-written code is refused here until sandbox.allow_unisolated is set; " + isolation.reason
        return Check("sandbox", False, text, hint)
    return Check("sandbox", True, text, isolation.reason)


def check_store(house: House) -> Check:
    try:
        database = house.store().database()
        with database.writing():
            pass
    except FleetError as err:
        return Check("store", False, err.text, err.hint)
    return Check("store", True, f"runs are kept in {database.name}")
