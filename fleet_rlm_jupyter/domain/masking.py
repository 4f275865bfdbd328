"""Keys leave no trace: where facts become events, in what is kept, and in a saved notebook."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Literal, TypeVar, cast, get_args, get_origin

from pydantic import BaseModel, JsonValue, SecretStr

from fleet_rlm_jupyter.domain.events import CallEnded, CallText, Channel, Fact, RunEnded

M = TypeVar("M", bound=BaseModel)

STARS = "**********"
SHORTEST_SECRET = 6
"""Shorter values are no keys; hiding them would tear holes into ordinary words."""

MOST_HELD = 512
"""Most characters at the end of a piece of text that wait for the next because a key may have begun in them; more
where a known key is longer."""

# How the keys of well-known services look, wherever they come from.
_SHAPES = re.compile(
    r"\b(?=[sghxdA])(?:sk-[\w-]{16,}|gsk_\w{20,}|hf_\w{20,}|gh[pousr]_\w{30,}|github_pat_\w{30,}|xai-\w{20,}|dtn_\w{20,}"
    r"|AKIA[0-9A-Z]{16}|AIza[\w-]{30,}|xox[abp]-[\w-]{10,})"
)
_SHAPE_BEGUN = re.compile(r"\b(?:sk-|gsk_|hf_|gh[pousr]_|github_pat_|xai-|dtn_|AKIA|AIza|xox[abp]-)[\w-]*\Z")
_SHAPE_STARTS = ("sk-", "gsk_", "hf_", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "xai-", "dtn_", "AKIA",
                 "AIza", "xoxa-", "xoxb-", "xoxp-")  # fmt: skip


class Mask:
    """Hides known secrets, what looks like a key, and the home folder's path. `mask(text)` gives the masked text."""

    def __init__(self, secrets: Iterable[str] = (), home: str | None = None) -> None:
        """`home` is the folder that is shown as ~: this user's by default, none for an empty text."""
        self._secrets = sorted({secret for secret in secrets if len(secret) >= SHORTEST_SECRET}, key=len, reverse=True)
        self._known = re.compile("|".join(re.escape(secret) for secret in self._secrets)) if self._secrets else None
        folder = str(Path.home()) if home is None else home
        self._home = re.compile(re.escape(folder) + r"(?![\w.-])") if len(folder) > 1 else None
        self._words = (*self._secrets, *_SHAPE_STARTS)
        self._begun = sorted({word[:2] for word in self._words})
        pairs = (f"{re.escape(pair[0])}(?={re.escape(pair[1])})" for pair in self._begun)
        self._pairs = re.compile("|".join(pairs))
        self._first = frozenset(word[0] for word in self._words)
        self._most_held = max(MOST_HELD, *map(len, self._words))

    @classmethod
    def of(cls, settings: BaseModel, more: Iterable[str] = (), home: str | None = None) -> Mask:
        """What hides every key of `settings` and `more`."""
        return cls([*_secrets(settings), *more], home)

    def __call__(self, text: str) -> str:
        if self._known:
            text = self._known.sub(STARS, text)
        text = _SHAPES.sub(STARS, text)
        return self._home.sub("~", text) if self._home else text

    def everywhere(self, value: JsonValue) -> JsonValue:
        """`value` with every text in it masked, keys of objects included."""
        if isinstance(value, str):
            return self(value)
        if isinstance(value, dict):
            return {self(name): self.everywhere(item) for name, item in value.items()}
        return [self.everywhere(item) for item in value] if isinstance(value, list) else value

    def fact(self, fact: Fact) -> Fact:
        """`fact` with every text in it masked."""
        if isinstance(fact, CallText):
            text = self(fact.text)
            return fact if text == fact.text else fact.model_copy(update={"text": text})
        return self.everywhere_in(fact)

    def everywhere_in(self, model: M) -> M:
        """`model` with every text in it masked; a key that is also a word of ours leaves the names of things alone."""
        changes: dict[str, object] = {}
        for name, value in model:
            masked = value if name in _own_words(type(model)) else self._value(value)
            if masked != value:
                changes[name] = masked
        return model.model_copy(update=changes) if changes else model

    def _value(self, value: object) -> object:
        if isinstance(value, BaseModel):
            return self.everywhere_in(value)
        if isinstance(value, str | dict | list):
            return self.everywhere(cast("JsonValue", value))
        return value

    def open_end(self, text: str) -> int:
        """Where at the end of `text` a key may have begun that is not complete; its length if there is none."""
        end = text[-self._most_held :]
        if text[-1:] not in self._first and not any(pair in end for pair in self._begun):
            return len(text)  # nearly always
        # What is inside a complete key is masked with it: to wait for it would tear the key apart.
        whole = [found.span() for found in self._known.finditer(text)] if self._known else []
        last = len(text) - 1
        begins = [found.start() for found in self._pairs.finditer(text, max(0, len(text) - self._most_held))]
        for place in [*begins, *([last] if text[-1:] in self._first else [])]:
            if any(begin < place < end for begin, end in whole):
                continue
            rest = text[place:]
            if any(len(rest) < len(word) and word.startswith(rest) for word in self._words):
                return place
            if _SHAPE_BEGUN.match(text, place):
                return place
        return len(text)


class MaskedFacts:
    """The facts of one run with their keys hidden, also those that come in pieces. Not thread-safe."""

    def __init__(self, mask: Mask) -> None:
        self._mask = mask
        self._held: dict[tuple[str | None, Channel], str] = {}

    def __call__(self, fact: Fact, call_id: str | None) -> Iterator[tuple[Fact, str | None]]:
        """What may be shown now: `fact` comes last, unless it is text of which everything has to wait."""
        if isinstance(fact, CallText):
            text = self._held.pop((call_id, fact.channel), "") + fact.text
            end = self._mask.open_end(text)
            if end < len(text):
                self._held[call_id, fact.channel] = text[end:]
            if end:
                shown = self._mask(text[:end])
                yield fact if shown == fact.text else CallText(channel=fact.channel, text=shown), call_id
            return
        if isinstance(fact, CallEnded | RunEnded):
            due = [key for key in self._held if isinstance(fact, RunEnded) or key[0] == call_id]
            for key in due:
                yield CallText(channel=key[1], text=self._mask(self._held.pop(key))), key[0]
        yield self._mask.fact(fact), call_id


@cache
def _own_words(kind: type[BaseModel]) -> frozenset[str]:
    """The fields of `kind` that hold one of a few words of ours."""
    return frozenset(name for name, field in kind.model_fields.items() if _is_literal(field.annotation))


def _is_literal(annotation: object) -> bool:
    return get_origin(annotation) is Literal or any(_is_literal(part) for part in get_args(annotation))


def _secrets(value: object) -> Iterable[str]:
    if isinstance(value, SecretStr):
        yield value.get_secret_value()
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _secrets(getattr(value, name))
    elif isinstance(value, dict):
        for item in cast("dict[str, object]", value).values():
            yield from _secrets(item)
