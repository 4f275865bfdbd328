"""DSPy's errors in our words: each family, each with a next step, none with what was sent."""

from __future__ import annotations

import dspy
import pytest
from dspy.primitives.code_interpreter import CodeInterpreterError
from dspy.utils import exceptions
from dspy.utils.exceptions import AdapterParseError

from fleet_rlm_jupyter.domain.errors import FleetError, ModelFailed, SandboxError, SandboxLost
from fleet_rlm_jupyter.engine.failures import explained

SECRET = "sk-what-was-sent"
LM_ERRORS = [
    kind
    for kind in vars(exceptions).values()
    if isinstance(kind, type) and issubclass(kind, dspy.LMError) and kind is not dspy.LMError
]


@pytest.mark.parametrize("kind", LM_ERRORS, ids=lambda kind: kind.__name__)
def test_every_model_error_of_dspy_is_one_of_ours_with_a_next_step(kind):
    ours = explained(kind(message=f"the provider said {SECRET}", model="openai/x"))
    assert isinstance(ours, ModelFailed)
    assert ours.hint
    assert SECRET not in str(ours)


def test_the_offline_model_says_itself_why():
    ours = explained(exceptions.LMInvalidRequestError("the REPL printed nonsense", model="offline/recipes"))
    assert isinstance(ours, ModelFailed)
    assert "the REPL printed nonsense" in ours.text


def test_a_lost_sandbox_keeps_its_own_words():
    err = CodeInterpreterError("over")
    err.__cause__ = SandboxLost("it was killed", "ask again")
    assert explained(err) is err.__cause__
    assert isinstance(explained(CodeInterpreterError("over")), SandboxError)


def test_an_answer_without_form_is_the_models_failure():
    err = AdapterParseError(adapter_name="ChatAdapter", signature=dspy.Signature("a -> b"), lm_response=SECRET)
    ours = explained(err)
    assert isinstance(ours, ModelFailed)
    assert SECRET not in str(ours)


def test_ours_stay_as_they_are_and_strangers_too():
    for err in (FleetError("x"), KeyError("y")):
        assert explained(err) is err
