"""DSPy modules as definitions that can be kept as JSON, and back."""

from __future__ import annotations

import json
import types
from collections.abc import Mapping
from typing import Any, Literal, Union, get_args, get_origin

import dspy
from pydantic import JsonValue, PydanticUserError, TypeAdapter
from pydantic_core import to_jsonable_python

from fleet_rlm_jupyter.domain.errors import BadRequest
from fleet_rlm_jupyter.domain.ports import EXECUTION_INSTRUCTIONS
from fleet_rlm_jupyter.domain.program import Definition, Kind, fields_of

_RLM: Any = dspy.RLM  # DSPy marks it experimental with a decorator that hides from type checkers that it is a class
_SIGNATURE: Any = dspy.Signature  # a class that is called as a function
_KINDS: dict[Kind, Any] = {"predict": dspy.Predict, "chain_of_thought": dspy.ChainOfThought, "rlm": _RLM}
_STATE: TypeAdapter[dict[str, JsonValue]] = TypeAdapter(dict[str, JsonValue])
_PLANNER = "generate_action"
"""The predictor of an RLM whose instructions are the task's, followed by the protocol of the REPL."""


class _Runtime:
    """What an RLM is told of its sandbox: the same at every time, since the text becomes a part of its state."""

    execution_instructions = EXECUTION_INSTRUCTIONS

    def __call__(self) -> Any:
        raise TypeError("the run brings the interpreter")


def build(definition: Definition) -> dspy.Module:
    """The module. It has no LM and no sandbox of its own: those are the run's. Raises BadRequest."""
    fields_of(definition.signature)
    try:
        signature = _SIGNATURE(definition.signature, definition.instructions or None)
        more = {"interpreter_factory": _Runtime()} if definition.kind == "rlm" else {}
        module: dspy.Module = _KINDS[definition.kind](signature, **more)
        if definition.state:
            module.load_state(_clean(module.dump_state(), definition.state))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, PydanticUserError) as err:
        why = str(err).partition("\n")[0]
        raise BadRequest(f"no program can be built of it: {why}", "save it from a module of DSPy") from err
    return module


def normal(definition: Definition) -> Definition:
    """The same with its whole state. Raises BadRequest for what no module can be built from."""
    state = to_jsonable_python(build(definition).dump_state())
    try:
        text = json.dumps({**definition.model_dump(), "state": state}, ensure_ascii=False, allow_nan=False)
        # Halves of a surrogate pair can be in JSON and in no file.
        return Definition.model_validate_json(text.encode("utf-8", "replace"))
    except (ValueError, RecursionError) as err:
        raise BadRequest(f"its state is not JSON: {err}", "leave out the demonstrations") from err


def definition_of(module: dspy.Module) -> Definition:
    """What can be kept of `module`: signature, instructions, demonstrations; no LM, no steps, no limits.

    Raises BadRequest for a module that is made of others, for one with tools and for types that are not JSON's.
    """
    kind: Kind | None = next((kind for kind, known in _KINDS.items() if type(module) is known), None)
    if kind is None:
        raise BadRequest(
            f"a {type(module).__name__} cannot be kept",
            "a dspy.Predict, dspy.ChainOfThought or dspy.RLM can; run others as they are with fleet.run",
        )
    given: Any = module
    signature = given.predict.signature.delete("reasoning") if kind == "chain_of_thought" else given.signature
    sides = (signature.input_fields, signature.output_fields)
    text = " -> ".join(
        ", ".join(f"{name}: {_type(field.annotation)}" for name, field in side.items()) for side in sides
    )
    state = given.dump_state()
    made = Definition(kind=kind, signature=text, instructions=signature.instructions)
    if kind == "rlm":
        if given._user_tools:
            raise BadRequest("an RLM with tools cannot be kept", "run it as it is with fleet.run")
        strategy, protocol = _halves(given, _RLM._build_signatures(given)[0].instructions)
        if not protocol:
            raise BadRequest("the REPL's protocol in this RLM was rewritten", "keep one whose task was changed only")
        state[_PLANNER]["signature"]["instructions"] = strategy + strategies(build(made))[_PLANNER][1]
    return normal(made.model_copy(update={"state": _STATE.validate_python(to_jsonable_python(state))}))


def strategies(module: dspy.Module) -> dict[str, tuple[str, str]]:
    """(what may be changed, what follows it and must stay) of the instructions of each predictor that has a task.

    Of an RLM what may be changed is its task alone: whoever rewrites the protocol of the REPL breaks it.
    """
    given: Any = module
    if isinstance(module, _RLM):
        return {_PLANNER: _halves(given, _RLM._build_signatures(given)[0].instructions)}
    return {name: (predictor.signature.instructions, "") for name, predictor in given.named_predictors()}


def rewritten(definition: Definition, tasks: Mapping[str, str]) -> dspy.Module:
    """The module with other tasks, by predictor; what must stay stays behind them. Raises BadRequest."""
    module: Any = build(definition)
    fixed = {name: protocol for name, (_, protocol) in strategies(module).items()}
    for name, predictor in module.named_predictors():
        if name in tasks:
            predictor.signature = predictor.signature.with_instructions(tasks[name] + fixed.get(name, ""))
    return module


def improved(definition: Definition, tasks: Mapping[str, str]) -> Definition:
    """The same program with other tasks, by predictor. Raises BadRequest."""
    made = definition_of(rewritten(definition, tasks))
    return made.model_copy(update={"signature": definition.signature})


def _halves(rlm: Any, fresh: str) -> tuple[str, str]:
    text: str = rlm.generate_action.signature.instructions
    protocol = fresh.removeprefix(rlm.signature.instructions)
    return (text.removesuffix(protocol), protocol) if text.endswith(protocol) else (text, "")


def _clean(fresh: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Of a state from anywhere only instructions, descriptions and demonstrations; DSPy sets whatever it finds."""
    if "signature" not in fresh:  # the state of a module holds those of its predictors
        return {name: _clean(state, given[name]) for name, state in fresh.items()}
    signature = given["signature"]
    if len(signature["fields"]) != len(fresh["signature"]["fields"]):
        raise ValueError("it has other fields")
    fields = [
        {"prefix": str(field["prefix"]), "description": str(field["description"])} for field in signature["fields"]
    ]
    return {
        **fresh,
        "demos": [dict(demo) for demo in given.get("demos", [])],
        "signature": {"instructions": str(signature["instructions"]), "fields": fields},
    }


def _type(annotation: Any) -> str:
    origin, parts = get_origin(annotation), get_args(annotation)
    if annotation is type(None):
        return "None"
    if origin is Literal:
        return f"Literal[{', '.join(map(repr, parts))}]"
    if origin in (Union, types.UnionType):
        return " | ".join(map(_type, parts))
    if origin in (list, dict, tuple):
        return f"{origin.__name__}[{', '.join(map(_type, parts))}]"
    return getattr(annotation, "__name__", str(annotation))
