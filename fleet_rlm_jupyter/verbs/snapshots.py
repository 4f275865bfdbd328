"""`bench.snapshots`: what questions were asked and told, frozen to be asked again and to be evaluated on."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from pydantic import JsonValue, TypeAdapter

from fleet_rlm_jupyter.domain.context import ContextDigest, Value, digest_of, encoded
from fleet_rlm_jupyter.domain.errors import BadRequest, FleetError, NoSuchRun, StoreFailed
from fleet_rlm_jupyter.domain.events import Limits
from fleet_rlm_jupyter.domain.memory import Recall
from fleet_rlm_jupyter.domain.question import Question
from fleet_rlm_jupyter.domain.snapshot import CONTEXT_FIELD, FROZEN_SETTINGS, Snapshot
from fleet_rlm_jupyter.engine.ask import HISTORY_TURNS, as_history
from fleet_rlm_jupyter.verbs.house import House
from fleet_rlm_jupyter.verbs.live import LiveRun
from fleet_rlm_jupyter.verbs.memory import Memory
from fleet_rlm_jupyter.verbs.sessions import Sessions
from fleet_rlm_jupyter.verbs.starting import Request

if TYPE_CHECKING:  # it imports SQLAlchemy
    from fleet_rlm_jupyter.store.snapshots import StoredSnapshots

INLINE_BYTES = 100_000
"""A larger context is not in a dataset's row: the row names it by its digest."""

_TEXTS: TypeAdapter[dict[str, str]] = TypeAdapter(dict[str, str])


@dataclass(frozen=True, slots=True)
class Told:
    """What a model is told beside its question, asked for when the run begins: what was said before, and notes."""

    history: Callable[[], str]
    recall: Callable[[], Recall]

    @classmethod
    def of(cls, kept: Snapshot) -> Told:
        return cls(lambda: kept.history, lambda: kept.recall)

    @classmethod
    def when_it_begins(cls, sessions: Sessions, memory: Memory, session_id: str, *, in_session: bool) -> Told:
        """The last turns of a session that was named, and the notes that hold in it."""

        def history() -> str:
            try:
                return as_history(sessions.last(session_id, HISTORY_TURNS)) if in_session else ""
            except FleetError:
                return ""  # the run is worth more than its memory

        return cls(history, lambda: memory.recalled(session_id))

    def now(self) -> Told:
        """The same as it is now, whatever comes."""
        history, recall = self.history(), self.recall()
        return Told(lambda: history, lambda: recall)


class Snapshots:
    """The snapshots of one user, by the run whose inputs they are. Raises NoSuchRun where there is none, StoreFailed.

    While one is kept, no retention forgets its run or its context.
    """

    def __init__(self, house: House, owner: str) -> None:
        self._house = house
        self._owner = owner

    def list(self) -> list[Snapshot]:
        """The newest first."""
        return self._stored().list()

    def get(self, run_id: str) -> Snapshot:
        return self._stored().get(run_id)

    def delete(self, run_id: str) -> None:
        """Forget it; its run and its context are then forgotten as all others are."""
        self._stored().delete(run_id)

    def keep(self, request: Request, asked: Question, context: Value, told: Told, limits: Limits) -> Snapshot:
        """Freeze what a run is about to be asked. Raises BadRequest for a context that is too large."""
        raw = encoded(context, is_ordered=True)  # a plain call is sent the texts in that order
        named = digest_of(context, raw)
        self._house.contexts(self._owner).put(named.sha256, [raw])
        values = self._house.settings.model_dump(mode="json")
        made = Snapshot(
            run_id=request.run_id,
            session_id=request.session_id,
            program="ask",
            question=asked.text,
            context=named,
            mode=asked.mode,
            recipe=asked.recipe,
            slots=dict(asked.slots),
            history=told.history(),
            recall=told.recall(),
            model=self._house.models().label,
            limits=limits,
            settings={name: _at(values, name) for name in FROZEN_SETTINGS},
            created_at=time.time(),
        )
        masked = self._house.mask.everywhere_in(made)
        self._stored().keep(masked)
        return masked

    def begun(
        self,
        begin: Callable[[], LiveRun],
        request: Request,
        asked: Question,
        context: Value,
        told: Told,
        limits: Limits,
    ) -> LiveRun:
        """Freeze what the run that `begin` starts is asked; where another or none comes of it, no snapshot does."""
        self.keep(request, asked, context, told, limits)
        begun = ""
        try:
            live = begin()
            begun = live.run_id
            return live
        finally:
            if begun != request.run_id:
                with suppress(NoSuchRun, StoreFailed):
                    self.delete(request.run_id)

    def question(self, kept: Snapshot) -> Question:
        """The same question again, in no session: what was said before is in the snapshot. Raises BadRequest."""
        context = self.context(kept.context)
        return Question(kept.question, context=context, mode=kept.mode, recipe=kept.recipe, slots=kept.slots)

    def context(self, named: ContextDigest) -> Value:
        """The context of that digest. Raises BadRequest where it is not here any more."""
        text = self._house.contexts(self._owner).get(named.sha256).decode("utf-8", "surrogatepass")
        return text if named.kind == "text" else _TEXTS.validate_json(text)

    def as_field(self, named: ContextDigest) -> JsonValue:
        """A context as the value of a dataset's row: itself, or what names it where it is large."""
        if named.bytes > INLINE_BYTES:
            return {CONTEXT_FIELD: named.model_dump()}
        return cast("JsonValue", self.context(named))

    def whole(self, fields: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
        """The fields of a row with what is named in them. Raises BadRequest where that is not here any more."""
        return {name: self._whole(value) for name, value in fields.items()}

    def _whole(self, value: JsonValue) -> JsonValue:
        if not isinstance(value, dict) or value.keys() != {CONTEXT_FIELD}:
            return value
        try:
            named = ContextDigest.model_validate(value[CONTEXT_FIELD])
        except ValueError:
            return value  # somebody's own data
        return cast("JsonValue", self.context(named))

    def _stored(self) -> StoredSnapshots:
        return self._house.store().snapshots(self._owner)


def is_wanted(house: House, asked: Question) -> bool:
    """Whether what is asked is to be frozen. Raises BadRequest where that is asked for and cannot be."""
    has_files = asked.repo_url is not None or bool(asked.context_paths) or asked.staged is not None
    if asked.snapshot and has_files:
        raise BadRequest("a snapshot freezes a context, no repository and no staged files", "pass them as context")
    return asked.snapshot or (house.settings.store.snapshots and not has_files)


def _at(values: JsonValue, name: str) -> JsonValue:
    for part in name.split("."):
        values = cast("dict[str, JsonValue]", values)[part]
    return values
