"""What the verbs take and give: a question, what a check found, how a phase of the smoke test went."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from fleet_rlm_jupyter.domain.context import Context, Value
from fleet_rlm_jupyter.domain.errors import ErrorText
from fleet_rlm_jupyter.domain.staging import Staging

Mode = Literal["auto", "rlm_only", "direct"]


@dataclass(frozen=True, slots=True)
class Question:
    """What `ask` is asked: over a `context`, or over `paths` and URLs. `recipe` and `slots` correct a recipe.

    `session_id` puts it into a conversation, whose earlier turns the model then sees. In a session of which a run goes
    on, `when_busy` refuses it or queues it behind that run. The same `key` never runs twice in a session.
    `repo_url` names a repository whose files the sandbox is to hold, at `repo_ref` (branch, tag or commit id), and
    `context_paths` files and folders of this machine; `staged` is the same, looked through already.
    `snapshot` keeps what it is asked and told, so that it can be asked again and be a row of a dataset.
    `can_answer` says that the run may ask back: whoever asked then answers `question.asked` with the verb `answer`.
    """

    text: str
    paths: Sequence[str | Path] = ()
    context: Value | Context | None = None
    mode: Mode = "auto"
    recipe: str | None = None
    slots: Mapping[str, str] = field(default_factory=dict[str, str])
    session_id: str | None = None
    key: str | None = None
    when_busy: Literal["refuse", "queue"] = "refuse"
    can_answer: bool = False
    repo_url: str | None = None
    repo_ref: str | None = None
    context_paths: Sequence[str | Path] = ()
    staged: Staging | None = None
    snapshot: bool = False

    def digest(self) -> str:
        """What tells one question from another under the same key."""
        context = self.context.value if isinstance(self.context, Context) else self.context
        if context is not None:
            pairs = [("", context)] if isinstance(context, str) else sorted(context.items())
            hashed = hashlib.sha256()
            for text in (part for pair in pairs for part in pair):
                raw = text.encode("utf-8", "replace")
                hashed.update(f"{len(raw)} ".encode() + raw)
            context = hashed.hexdigest()
        paths, slots = [str(path) for path in self.paths], sorted(self.slots.items())
        asked = [self.text, paths, context, self.mode, self.recipe, slots]
        if self.repo_url is not None:
            asked += [self.repo_url, self.repo_ref]
        if self.context_paths or self.staged is not None:
            manifest = self.staged and self.staged.manifest.model_dump(mode="json")
            asked += [[str(path) for path in self.context_paths], manifest]
        return digest_of(asked)


def digest_of(request: object) -> str:
    """What tells one request from another under the same key; what is not JSON in it counts as its text."""
    return hashlib.sha256(json.dumps(request, default=str).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at: whether it works, what was seen, and the next step."""

    name: str
    is_good: bool
    text: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Phase:
    """How one phase went; `error` says what is wrong and what to do where it failed."""

    name: str
    status: Literal["passed", "failed", "skipped"]
    seconds: float
    text: str
    error: ErrorText | None = None

    @property
    def is_good(self) -> bool:
        return self.status == "passed"
