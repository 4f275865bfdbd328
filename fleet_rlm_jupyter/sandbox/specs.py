"""What a sandbox is made of, from the settings; what cannot be had is said before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fleet_rlm_jupyter.domain.errors import BadSettings
from fleet_rlm_jupyter.sandbox.service_errors import sdk
from fleet_rlm_jupyter.settings import SandboxSettings

KEPT_MINUTES = 24 * 60
"""A session's sandbox is deleted this long after it stopped; its volume stays."""
ARCHIVE_MINUTES = 60
"""A stopped sandbox takes disk quota until it is archived."""
NONE = "none"
"""The value of `sandbox.volume` that says to mount none."""


@dataclass(frozen=True, slots=True)
class Mount:
    """A folder of a volume and where it is mounted; an empty `subpath` is the whole volume."""

    volume_id: str
    volume_name: str
    subpath: str
    path: str


@dataclass(frozen=True, slots=True)
class Spec:
    """One sandbox that is wanted. A kept one outlives its user: it stops when idle, and is deleted a day later."""

    labels: dict[str, str]
    is_kept: bool = False
    mount: Mount | None = None


def refuse_impossible(settings: SandboxSettings, is_remote: bool) -> None:
    """Raise BadSettings for what no sandbox can be given here, before one is made."""
    if is_remote:
        sizes = settings.cpu or settings.memory_gb or settings.disk_gb
        if settings.snapshot and settings.image:
            raise BadSettings("sandbox.snapshot and sandbox.image are both set", "unset one of them")
        if sizes and not (settings.image or settings.snapshot):
            raise BadSettings(
                "sandbox.cpu, memory_gb and disk_gb have nothing to act on",
                "set sandbox.image, or sandbox.snapshot to one that is large enough",
            )
        return
    remote_only = {
        "sandbox.network": settings.network,
        "sandbox.allow_list": settings.allow_list,
        "sandbox.packages": settings.packages,
        "sandbox.snapshot": settings.snapshot,
        "sandbox.image": settings.image,
        "sandbox.cpu": settings.cpu,
    }
    asked = [name for name, value in remote_only.items() if value]
    if not asked:
        return
    if asked[0] in ("sandbox.network", "sandbox.allow_list"):
        raise BadSettings("local sandboxes have no network", f"unset {asked[0]}, or set DAYTONA_API_KEY to use Daytona")
    if asked[0] == "sandbox.packages":
        raise BadSettings(
            "local sandboxes have no network to install packages from",
            "install them into this Python, which local sandboxes share, or set DAYTONA_API_KEY to use Daytona",
        )
    raise BadSettings(
        f"{asked[0]} is not for local sandboxes, which are processes of this machine",
        f"unset {asked[0]}, or set DAYTONA_API_KEY to use Daytona",
    )


def params_of(spec: Spec, name: str, settings: SandboxSettings, is_remote: bool) -> Any:
    """The SDK's parameters for `spec`."""
    known = sdk()
    # Packages come over the network, which is closed behind them.
    is_open = settings.network or bool(settings.packages)
    given: dict[str, Any] = {
        "name": name,
        "labels": spec.labels,
        "env_vars": dict(settings.env) or None,
        "auto_stop_interval": settings.auto_stop_minutes,
        "network_block_all": not (is_open or settings.allow_list),
    }
    if settings.allow_list and not is_open:
        given["network_allow_list"] = ",".join(settings.allow_list)
    if spec.is_kept:
        given |= {"auto_archive_interval": ARCHIVE_MINUTES, "auto_delete_interval": KEPT_MINUTES}
    else:
        given["ephemeral"] = True
    if spec.mount is not None:
        mount = spec.mount
        given["volumes"] = [
            known.VolumeMount(volume_id=mount.volume_id, mount_path=mount.path, subpath=mount.subpath or None)
        ]
    sizes = {"cpu": settings.cpu, "memory": settings.memory_gb, "disk": settings.disk_gb}
    if settings.image or (not is_remote and any(sizes.values())):
        resources = known.Resources(**sizes) if any(sizes.values()) else None
        return known.CreateSandboxFromImageParams(image=settings.image or "local", resources=resources, **given)
    return known.CreateSandboxFromSnapshotParams(snapshot=settings.snapshot, **given)
