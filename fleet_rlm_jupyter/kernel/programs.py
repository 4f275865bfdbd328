"""`fleet.run`: a DSPy program of the user's own as a run of this notebook."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fleet_rlm_jupyter.kernel.display import LiveLines
from fleet_rlm_jupyter.kernel.handles import STOP_SECONDS, AskOptions, Result, masked_errors, notebook
from fleet_rlm_jupyter.kernel.magics import FleetInterrupted


@masked_errors()
def run(
    program: Any,
    /,
    *,
    limits: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    **inputs: Any,
) -> Result:
    """Run `program`, a `dspy.Module` or the name of one that the Workbench has, over `inputs`, and wait for its end.

    A module of your own runs in this kernel, on the models, the budget and the sandboxes of the notebook, one with a
    name where questions go; live lines show it. `limits` are those of a budget by name, `settings` any others by dotted
    name. What the program returns is in the result's `answer` and `outputs`. An interrupt cancels it. Raises FleetError
    before any work.
    """
    options = AskOptions(limits=limits or {}, settings=settings or {})
    lines = LiveLines()
    is_interrupted = lines.follow(lambda take: notebook().run(program, inputs, options, take))
    result = lines.handle.result(STOP_SECONDS)
    if is_interrupted:
        lines.end(result)
        raise FleetInterrupted(f"interrupted: run {lines.handle.run_id} was cancelled")
    lines.summary(result)
    return result
