"""Whose a sandbox is, as the labels that everyone with the key can read."""

from __future__ import annotations

from fleet_rlm_jupyter.domain.ports import Role

APP = "fleet-rlm-jupyter"
KEPT_ROLE = "session"
"""The role of a sandbox that is kept for its session, whoever works in it now."""


def labels_of(instance: str, role: Role | None = None) -> dict[str, str]:
    """Labels of a sandbox of the process `instance`; `role` is None while it waits for somebody to work for."""
    labels = {"app": APP, "instance": instance}
    if role is not None:
        labels |= {"session": role.session_id, "run": role.run_id, "role": role.name, "depth": str(role.depth)}
    return labels
