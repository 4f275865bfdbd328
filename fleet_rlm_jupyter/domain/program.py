"""Program: what is kept of a DSPy module, so that it can be built again, its versions, and how they are tried."""

from __future__ import annotations

import ast
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from fleet_rlm_jupyter.domain.dataset import Split
from fleet_rlm_jupyter.domain.errors import BadRequest

Kind = Literal["predict", "chain_of_thought", "rlm"]

_TYPES = {"str", "int", "float", "bool", "list", "dict", "tuple", "Literal", "Optional", "Union", "Any", "None"}
_ANNOTATION = (ast.Name, ast.Subscript, ast.Tuple, ast.Constant, ast.BinOp, ast.BitOr, ast.Load)


class Definition(BaseModel):
    """All that a program is: a kind of DSPy module, its signature, and DSPy's state of it as JSON.

    With no `state` it is a new module, whose task is told by `instructions`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind = "predict"
    signature: str = Field(max_length=10_000, description="as DSPy writes it, e.g. context, question -> answer: int")
    instructions: str = Field(default="", max_length=100_000)
    state: dict[str, JsonValue] = {}


class Origin(BaseModel):
    """Where a version comes from: run `run_id` found it as `candidate`, made from version `parent`, on `dataset`."""

    model_config = ConfigDict(frozen=True)

    parent: int | None = None
    scores: dict[Split, float] = {}
    dataset: str = ""
    run_id: str = ""
    candidate: str = ""


class ProgramInfo(Origin):
    """A version of a program: what it takes and gives, where it comes from, how it scored.

    `version` 0 comes with the package. The approved version that was approved last is the one that runs by its name
    alone; `name@version` runs any.
    """

    name: str
    description: str
    inputs: list[str]
    outputs: list[str]
    version: int = 0
    is_approved: bool = True
    created_at: float | None = None

    @property
    def label(self) -> str:
        """What names this version and no other."""
        return f"{self.name}@{self.version}" if self.version else self.name


MetricName = Literal["exact", "caseless", "contains", "coverage", "number"]


class Trial(BaseModel):
    """How a program is tried on a dataset.

    `gepa` looks for better instructions: it learns on train, chooses on val, and scores on test once, at the end.
    `none` only scores the program on `split`. `metrics` are weights. `tolerance` is relative and belongs to `number`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    optimizer: Literal["gepa", "none"] = "gepa"
    metrics: dict[MetricName, Annotated[float, Field(gt=0, le=1e6)]] = Field(default={"exact": 1.0}, min_length=1)
    tolerance: float = Field(default=1e-6, ge=0, le=1)
    split: Split = "val"
    rounds: int = Field(default=10, ge=1, le=1000, description="most proposals; the budget may allow fewer")
    seed: int = Field(default=0, ge=0, le=2**31 - 1)


def fields_of(signature: str) -> tuple[list[str], list[str]]:
    """(inputs, outputs) of a signature. Raises BadRequest for one that cannot be kept: its types are JSON's."""
    sides = signature.split("->")
    if len(sides) != 2:
        raise BadRequest(f"{signature[:200]!r} is no signature", "write it as: context, question -> answer")
    inputs, outputs = _names(sides[0], signature), _names(sides[1], signature)
    if not inputs or not outputs or len({*inputs, *outputs}) < len(inputs) + len(outputs):
        raise BadRequest(f"{signature[:200]!r} is no signature", "it has inputs and outputs, each with its own name")
    return inputs, outputs


def parted(name: str) -> tuple[str, int | None]:
    """`qa@2` as ("qa", 2), `qa` as ("qa", None). Raises BadRequest for a version that is no number."""
    name, at, version = name.partition("@")
    if at and not (version.isascii() and version.isdigit() and len(version) < 10):
        raise BadRequest(f"{version[:50]!r} is no version", "write name@2")
    return name, int(version) if at else None


def _names(side: str, signature: str) -> list[str]:
    # As DSPy reads it; but what it would look up or import for the name of a type is refused before.
    try:
        tree = ast.parse(f"def f({side}): pass")
        (function,) = tree.body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as err:
        raise BadRequest(f"{signature[:200]!r} is no signature", "write it as: context, question -> answer") from err
    assert isinstance(function, ast.FunctionDef)
    arguments = function.args
    if arguments.posonlyargs or arguments.kwonlyargs or arguments.vararg or arguments.kwarg or arguments.defaults:
        raise BadRequest(f"{signature[:200]!r} is no signature", "it has names and types only")
    for argument in arguments.args:
        for node in ast.walk(argument.annotation) if argument.annotation else ():
            if not isinstance(node, _ANNOTATION) or (isinstance(node, ast.Name) and node.id not in _TYPES):
                known = ", ".join(sorted(_TYPES))
                raise BadRequest(f"the type of {argument.arg} cannot be kept", f"types are made of {known}")
    return [argument.arg for argument in arguments.args]
