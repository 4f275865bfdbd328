"""DSPy modules as definitions, and back."""

from __future__ import annotations

import json
from typing import Literal

import dspy
import pytest

from fleet_rlm_jupyter.domain.errors import BadRequest
from fleet_rlm_jupyter.domain.ports import EXECUTION_INSTRUCTIONS
from fleet_rlm_jupyter.domain.program import Definition
from fleet_rlm_jupyter.engine.saved import build, definition_of, normal, strategies


class Typed(dspy.Signature):
    """Sort it."""

    text: str = dspy.InputField(desc="what came in")
    hints: list[str] | None = dspy.InputField()
    kind: Literal["a", "b"] = dspy.OutputField(desc="which of the two")
    counts: dict[str, int] = dspy.OutputField()


def demonstrated(module):
    for predictor in module.predictors():
        predictor.demos = [dspy.Example(text="x", kind="a")]
    return module


MODULES = [
    dspy.Predict(Typed),
    dspy.ChainOfThought(Typed),
    dspy.RLM(Typed),
    demonstrated(dspy.Predict(Typed)),
    demonstrated(dspy.ChainOfThought(Typed)),
]


@pytest.mark.parametrize("module", MODULES, ids=lambda module: type(module).__name__)
def test_a_module_comes_back_with_its_task_its_types_and_its_demonstrations(module):
    definition = definition_of(module)
    json.dumps(definition.model_dump())
    again = build(definition)
    assert type(again) is type(module)
    assert definition_of(again) == definition
    if not isinstance(module, dspy.RLM):  # whose prompt names the sandbox, which is another one here
        assert again.dump_state() == module.dump_state()
    for one, other in zip(module.predictors(), again.predictors(), strict=True):
        assert {name: field.annotation for name, field in one.signature.fields.items()} == {
            name: field.annotation for name, field in other.signature.fields.items()
        }


def test_an_rlm_is_told_of_our_sandbox_wherever_it_was_made_and_only_its_task_may_change():
    module = dspy.RLM("context, question -> answer")
    protocol_before = module.generate_action.signature.instructions
    task = module.signature.instructions
    action = module.generate_action
    action.signature = action.signature.with_instructions(protocol_before.replace(task, "Look twice."))
    again = build(definition_of(module))
    assert EXECUTION_INSTRUCTIONS in again.generate_action.signature.instructions
    assert "Pyodide" not in again.generate_action.signature.instructions
    ((strategy, protocol),) = strategies(again).values()
    assert strategy == "Look twice."
    assert "SUBMIT(answer)" in protocol
    action.signature = action.signature.with_instructions("Only this.")
    with pytest.raises(BadRequest, match="protocol"):
        definition_of(module)


def test_a_model_that_a_state_brings_along_is_not_taken():
    """It would be asked at the address that the state says, with a key of ours."""
    module = dspy.Predict("a -> b", lm=None)
    module.lm = dspy.LM("openai/gpt", api_base="http://evil.example", api_key="sk-1234567890123456")
    definition = definition_of(module)
    assert "evil" not in definition.model_dump_json()
    state = {**module.dump_state(), "forward": "x", "__class__": "x", "traces": [1]}
    built = build(Definition(signature="a -> b", state=state))
    assert built.lm is None
    assert callable(built.forward)
    assert built.traces == []


def test_what_no_file_can_hold_is_replaced_or_refused():
    module = dspy.Predict("a -> b")
    module.demos = [dspy.Example(a="half \ud83d", b="x")]
    assert "half ?" in definition_of(module).model_dump_json()
    module.demos = [dspy.Example(a=float("nan"), b="x")]
    with pytest.raises(BadRequest):
        definition_of(module)


@pytest.mark.parametrize(
    "module",
    [dspy.ReAct("a -> b", tools=[]), dspy.Module(), dspy.RLM("a -> b", tools=[len])],
    ids=["react", "bare", "tool"],
)
def test_other_modules_are_refused(module):
    with pytest.raises(BadRequest, match="cannot be kept"):
        definition_of(module)


@pytest.mark.parametrize(
    ("kind", "signature", "state"),
    [
        ("predict", "a -> b: Literal", {}),
        ("predict", "a -> b: list[5]", {}),
        ("predict", "a -> b: Optional[str, int]", {}),
        ("predict", "a -> b", {"x": 1}),
        ("predict", "a -> b", {"signature": []}),
        ("predict", "a -> b", {"signature": {"instructions": "i", "fields": []}}),
        ("predict", "a -> b", {"signature": {"instructions": "i", "fields": [1, 2]}}),
        ("chain_of_thought", "a -> b", {"signature": {"instructions": "i", "fields": []}}),
        ("rlm", "llm_query -> b", {}),
    ],
)
def test_what_no_module_can_be_built_of_is_refused(kind, signature, state):
    with pytest.raises(BadRequest):
        normal(Definition(kind=kind, signature=signature, state=state))
