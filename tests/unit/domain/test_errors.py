"""Errors say what is wrong and what to do, under a code that programs may compare."""

from __future__ import annotations

import inspect

import pytest

from fleet_rlm_jupyter.domain import errors
from fleet_rlm_jupyter.domain.errors import (
    BadPath,
    Cancelled,
    DepthExceeded,
    EndsRun,
    ErrorText,
    FleetError,
    ForModel,
    ForUser,
    ModelFailed,
    SandboxError,
    SandboxLost,
    SandboxUnavailable,
    ServerUnavailable,
    StoreFailed,
    during,
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


def test_the_narrowest_phase_counts_and_an_error_has_that_of_what_it_came_from():
    with pytest.raises(SandboxLost) as caught, during("create"), during("connect"):
        raise SandboxLost("gone")
    assert caught.value.phase == "connect"
    with pytest.raises(SandboxUnavailable) as outer, during("resume"):
        raise SandboxUnavailable("no Python starts") from caught.value
    assert (outer.value.phase, ErrorText.of(outer.value).phase) == ("connect", "connect")
    assert SandboxLost("another").phase == ""


@pytest.mark.parametrize("error", [Cancelled("stop"), ModelFailed("no"), DepthExceeded("deep"), KeyError("x")])
def test_what_only_passes_through_a_phase_did_not_fail_in_it(error):
    with pytest.raises(type(error)), during("execute"):
        raise error
    assert ErrorText.of(error).phase == ""


def test_an_error_without_a_phase_is_written_as_before_and_read_whatever_is_new_about_it():
    said = ErrorText.of(BadPath("gone", "look"))
    assert said.model_dump_json() == '{"code":"bad_path","text":"gone","hint":"look"}'
    assert ErrorText.model_validate({**said.model_dump(), "newer": 1}) == said
