"""A document by URL for a child: whether code may name it, and how it gets there.

Code that a model wrote can write what it knows into a URL (docs/adr/0017): what may be fetched is a setting.
"""

from __future__ import annotations

import hashlib
import re
import threading
from dataclasses import dataclass
from typing import Any

from fleet_rlm_jupyter.domain.errors import BadPath, ToolFailed
from fleet_rlm_jupyter.engine.contexts import read_context
from fleet_rlm_jupyter.engine.fetch import is_url, shown
from fleet_rlm_jupyter.settings import Settings

INLINE_CHARS = 100_000
"""Larger documents are a file in the child's sandbox."""

MOST_DOCUMENTS = 20
"""Documents that one run may have fetched."""

FOLDER = "buffers/given"
"""Not below artifacts/: what a child was given is not its own work."""

_GO_ON = "go on without it, or answer that it could not be read"


@dataclass(frozen=True, slots=True)
class Given:
    """A text for a child, which is in its context, or at `path` of its sandbox where there is one."""

    title: str
    text: str
    path: str = ""

    def into(self, context: Any) -> Any:
        """`context` with it, or with where it is. Its own digest marks its ends: no text can hold that of itself."""
        tag = digest_of_text(self.text)
        if self.path:
            said = f"{self.title}, {len(self.text):,} characters, is in the file {self.path}: open it with Python."
        else:
            said = f"=== {self.title} [{tag}] ===\n{self.text}\n=== end [{tag}] ==="
        if isinstance(context, dict):
            return {**context, f"{self.title} [{tag}]": said}
        return f"{context}\n\n{said}" if context else said


class Documents:
    """What one run's code may have fetched. Thread-safe.

    `words` are the user's own: the URLs in them are their choice, and `context.allow_private_urls` holds for these
    alone. Code is never let into a private network.
    """

    def __init__(self, settings: Settings, words: str) -> None:
        self._rule = settings.delegation.urls
        self._limits = settings.context
        self._named = urls_in(words)
        self._lock = threading.Lock()
        self._fetched = 0

    def read(self, url: object) -> Given:
        """The document as text. Raises ToolFailed, with what the model does next; nothing of the budget is spent."""
        if not isinstance(url, str) or not is_url(url):
            raise ToolFailed("document_url is no URL", "give one that begins with https://")
        url = url.strip()
        is_named = url in self._named
        self._refuse(url, is_named)
        limits = self._limits
        if not is_named:
            limits = limits.model_copy(update={"allow_private_urls": False})
        try:
            text = read_context([url], limits).value
        except BadPath as err:
            raise ToolFailed(err.text, _GO_ON) from err
        assert isinstance(text, str)
        path = f"{FOLDER}/document-{digest_of_text(text)}.txt" if len(text) > INLINE_CHARS else ""
        return Given(f"the document {shown(url)}", text, path)

    def _refuse(self, url: str, is_named: bool) -> None:
        if self._rule == "off":
            raise ToolFailed("no URL is fetched for code here (delegation.urls=off)", _GO_ON)
        if self._rule == "question" and not is_named:
            raise ToolFailed(
                f"{shown(url)} does not stand in the user's question (delegation.urls=question)",
                "give a URL exactly as the question has it, or go on without it",
            )
        with self._lock:
            self._fetched += 1
            if self._fetched > MOST_DOCUMENTS:
                raise ToolFailed(f"a run has at most {MOST_DOCUMENTS} documents fetched", _GO_ON)


def urls_in(words: str) -> set[str]:
    """The URLs in what a user wrote, with and without the marks that may end a sentence or a bracket."""
    found = set(re.findall(r"https?://[^\s<>\"'`]+", words))
    return found | {url.rstrip(".,;:!?)]}*_") for url in found}


def digest_of_text(text: str) -> str:
    """Short, for names and marks."""
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:12]
