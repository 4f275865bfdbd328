"""What facts and their parts are made of: frozen, closed, and growing without a change to what was written before."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import (
    BaseModel,
    ConfigDict,
    GetJsonSchemaHandler,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue

from fleet_rlm_jupyter.domain.strict_json import encodable


class Word(BaseModel):
    """A value that no reader changes and that UTF-8 can hold."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _well_formed(cls, data: object) -> object:
        # Generated code may print half of a surrogate pair: such a text can be neither written nor sent.
        return encodable(data)


class Grown(Word):
    """A word that got further fields: those in `_later` are written only where they say something, as before them."""

    # What a serializer gives, pydantic looks at again, and would take NaN for null.
    model_config = ConfigDict(ser_json_inf_nan="constants")

    _later: ClassVar[tuple[str, ...]] = ()

    @model_serializer(mode="wrap")
    def _as_before(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        said: dict[str, Any] = handler(self)
        return {name: value for name, value in said.items() if value or name not in self._later}

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: Any, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        # pydantic would describe what the serializer returns: any object.
        fields: Any = {name: part for name, part in schema.items() if name != "serialization"}
        found = handler.resolve_ref_schema(handler(fields))
        if "required" in found:
            found["required"] = [name for name in found["required"] if name not in cls._later]
        return found
