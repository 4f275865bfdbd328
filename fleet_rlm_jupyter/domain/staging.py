"""Files that a question gives its sandbox: what they are, where they lie there, what was left out and why."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

FOLDER = "workspace/context"
"""Below a sandbox's working folder; its manifest.json lists what is there."""

_FIRST = re.compile(r"\d{2,4}-[A-Za-z0-9._-]{1,80}\Z")


def _staged_path(text: str) -> str:
    first, *rest = text.split("/")
    parts_fit = all(part not in ("", ".", "..") and len(part.encode()) <= 255 for part in rest)
    if not _FIRST.match(first) or not rest or not parts_fit or len(text.encode()) > 3000:
        raise ValueError("a staged path is NN-name/path")
    if any(unicodedata.category(char) in ("Cc", "Cs") for char in text):
        raise ValueError("a staged path has no control characters")
    return text


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class StagedFile(_Strict):
    """`path` is NN-name/… below workspace/context; `source` is its path here, below the root it was allowed by."""

    path: Annotated[str, AfterValidator(_staged_path)]
    source: str
    bytes: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    is_text: bool


class StagingManifest(_Strict):
    """What the sandbox is to have, and by its path here what it is not to have, with the reason. Sent as JSON."""

    files: tuple[StagedFile, ...]
    left_out: dict[str, str] = {}

    @property
    def bytes(self) -> int:
        return sum(file.bytes for file in self.files)

    @property
    def folders(self) -> list[str]:
        """NN-name of everything that was given, in order."""
        return sorted({file.path.partition("/")[0] for file in self.files})

    def __str__(self) -> str:
        left = f", {len(self.left_out):,} left out" if self.left_out else ""
        return f"{len(self.files):,} file{'s' if len(self.files) != 1 else ''}, {self.bytes / 1e6:.1f} MB{left}"


@dataclass(frozen=True, slots=True)
class Staging:
    """A manifest, and by digest where the content lies on this machine."""

    manifest: StagingManifest
    places: dict[str, Path]
