"""Where a run takes place."""

from __future__ import annotations

from dataclasses import dataclass, field

from fleet_rlm_jupyter.domain.ports import Sandboxes, Workspace
from fleet_rlm_jupyter.domain.staging import Staging
from fleet_rlm_jupyter.engine.controls import Controls
from fleet_rlm_jupyter.engine.models import Models
from fleet_rlm_jupyter.settings import Settings


@dataclass(frozen=True, slots=True)
class Site:
    """Where a run takes place: whose it is, on which models, in whose sandboxes.

    `is_apart`: each of its RLMs starts in a sandbox of its own and not in that of the session. `words` are the user's
    own, before anything is added to them.
    """

    session_id: str
    run_id: str
    models: Models
    sandboxes: Sandboxes
    controls: Controls = field(default_factory=Controls)
    workspace: Workspace | None = None
    staging: Staging | None = None
    is_apart: bool = False
    settings: Settings = field(default_factory=Settings)
    words: str = ""
