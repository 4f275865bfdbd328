"""Groups of settings about what a question, and whoever works on a part of it, may be given."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, SecretStr

from fleet_rlm_jupyter.setting_types import Folders, SettingGroup, UserName


class ContextSettings(SettingGroup):
    """What may become a context."""

    max_mb: int = Field(default=512, gt=0, description="largest context, in megabytes")
    max_files: int = Field(default=20_000, gt=0, description="most files of a folder")
    allow_private_urls: bool = Field(
        default=False, description="fetch URLs from hosts that are not on the public Internet, this machine among them"
    )


class WorkspaceSettings(SettingGroup):
    """Repositories and files that a question gives its sandbox."""

    roots: Folders = Field(default=(), description="where files and file:// repositories lie; else the working folder")
    token: SecretStr | None = Field(default=None, description="token for private repositories; no sandbox sees it")
    token_host: str | None = Field(default=None, description="the one host that is sent the token, e.g. github.com")
    token_user: UserName | None = Field(default=None, description="user name sent with it; the host's own where unset")
    clone_seconds: float = Field(default=300, gt=0, description="seconds that one call of git may take")
    cache_mb: int = Field(default=5000, ge=0, description="megabytes of fetched repositories to keep for next time")


class DelegationSettings(SettingGroup):
    """What generated code may have this side fetch or read for a child."""

    urls: Literal["off", "question", "public"] = Field(
        default="off",
        description="documents that code may have fetched for a child: none, those whose URL stands in the question, "
        "or any from the public Internet, where code can send what it knows in the URL",
    )
    project: bool = Field(
        default=False,
        description="let code give a child a copy of text files of workspace.roots that fit its prompt",
    )
