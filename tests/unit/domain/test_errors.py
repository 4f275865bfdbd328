"""Errors say what is wrong and what to do, under a code that programs may compare."""

from __future__ import annotations

import inspect

import pytest

from fleet_rlm_jupyter.domain import errors
from fleet_rlm_jupyter.domain.errors import (
    BadPath,
    EndsRun,
    ErrorText,
    FleetError,
    ForModel,
    ForUser,
    SandboxError,
    ServerUnavailable,
    StoreFailed,
)

ALL = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, FleetError)]


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_every_error_has_a_code_of_its_own_a_sentence_and_a_place_in_the_tree(kind):
    assert [other for other in ALL if other.code == kind.code] == [kind]
    assert kind.__doc__
    assert kind.__name__ in (errors.__doc__ or ""), "the tree is drawn in the module's docstring"
    roots = (ForModel, EndsRun, ForUser, SandboxError, ServerUnavailable, StoreFailed)
    families = [family for family in roots if issubclass(kind, family)]
    assert len(families) == (0 if kind is FleetError else 1)
    again = type(kind("text", "hint"))("text", "hint")
    assert (again.text, again.hint, str(again)) == ("text", "hint", "text (hint)")


def test_an_error_without_a_hint_is_its_sentence():
    assert str(BadPath("no such file")) == "no such file"


def test_an_error_of_ours_keeps_its_parts_as_text():
    assert ErrorText.of(BadPath("gone", "look")) == ErrorText(code="bad_path", text="gone", hint="look")


def test_any_other_error_is_internal_and_names_the_next_step():
    text = ErrorText.of(KeyError("x"))
    assert (text.code, text.text) == ("internal", "KeyError: 'x'")
    assert "--debug" in text.hint
