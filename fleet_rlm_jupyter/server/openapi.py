"""The API's description, made from the table of routes and the models that its functions name."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import models_json_schema

import fleet_rlm_jupyter
from fleet_rlm_jupyter.domain.api import API
from fleet_rlm_jupyter.server.frames import OPS
from fleet_rlm_jupyter.server.schema import Problem, Upload, UploadQuery
from fleet_rlm_jupyter.server.web import Endpoint, Raw

_REF = "#/components/schemas/{model}"
_SOCKET = (
    "The socket. Frames are JSON objects; those that come in are the schemas whose names end in Op. "
    "See docs/reference/http-api.md."
)


def text(routes: Iterable[Endpoint]) -> str:
    return json.dumps(describe(routes), indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def describe(routes: Iterable[Endpoint]) -> dict[str, Any]:
    """An OpenAPI 3.1 document."""
    table = list(routes)
    paths: dict[str, dict[str, Any]] = {}
    for route in table:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    problem = {"description": "It says what is wrong and what to do.", **_json(Problem, "application/problem+json")}
    paths["/contexts/{sha256}"] = _contexts()
    answers = {"101": {"description": "Frames from here on."}, "default": {"$ref": "#/components/responses/Problem"}}
    paths["/ws"] = {"get": {"operationId": "socket", "summary": _SOCKET, "responses": answers}}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "fleet_rlm_jupyter",
            "version": fleet_rlm_jupyter.__version__,
            "description": "Sessions, runs and sandboxes in a Jupyter server. Every error is a problem document.",
        },
        "servers": [{"url": API}],
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "schemas": _schemas(table),
            "responses": {"Problem": problem},
            "securitySchemes": {
                "token": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "Authorization",
                    "description": "`token …` with the Jupyter server's token; its cookie with X-XSRFToken does too",
                }
            },
        },
    }


def _operation(route: Endpoint) -> dict[str, Any]:
    found: dict[str, Any] = {"operationId": route.call.__name__, "summary": route.summary}
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        for name in route.names
    ]
    if "query" in route.hints:
        parameters += _query(route.hints["query"])
    if parameters:
        found["parameters"] = parameters
    if "body" in route.hints:
        found["requestBody"] = {"required": True, **_json(route.hints["body"])}
    if "raw" in route.hints or "upload" in route.hints:
        found["requestBody"] = {"required": True, "content": {"application/octet-stream": {"schema": {}}}}
    answer: dict[str, Any] = {"description": "What was asked for." if route.returns else "Done."}
    if route.returns is Raw:
        answer["content"] = {"*/*": {"schema": {}}}
    elif route.returns not in (None, type(None)):
        answer |= _json(route.returns)
    found["responses"] = {str(route.status): answer, "default": {"$ref": "#/components/responses/Problem"}}
    return found


def _contexts() -> dict[str, Any]:
    """Streamed, and so beside the table."""
    digest = {
        "name": "sha256",
        "in": "path",
        "required": True,
        "schema": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
    }
    answers = {
        "200": {"description": "How much of it is here.", **_json(Upload)},
        "default": {"$ref": "#/components/responses/Problem"},
    }
    body = {"required": True, "content": {"application/octet-stream": {"schema": {}}}}
    return {
        "get": {
            "operationId": "context",
            "summary": "How much of a context is here.",
            "parameters": [digest],
            "responses": answers,
        },
        "put": {
            "operationId": "upload_context",
            "summary": "Upload a context under the SHA-256 of its bytes, or go on where an upload broke off.",
            "parameters": [digest, *_query(UploadQuery)],
            "requestBody": body,
            "responses": answers,
        },
    }


def _query(model: type[BaseModel]) -> list[dict[str, Any]]:
    schema = model.model_json_schema()
    found: list[dict[str, Any]] = []
    for name, field in schema["properties"].items():
        description = field.pop("description", None)
        field.pop("title", None)
        said = {"description": description} if description else {}
        is_required = name in schema.get("required", [])
        found.append({"name": name, "in": "query", "required": is_required, "schema": field, **said})
    return found


def _json(kind: Any, content_type: str = "application/json") -> dict[str, Any]:
    schema = TypeAdapter(kind).json_schema(ref_template=_REF, mode="serialization")
    schema.pop("$defs", None)
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        schema = {"$ref": _REF.format(model=kind.__name__)}
    return {"content": {content_type: {"schema": schema}}}


def _schemas(routes: Iterable[Endpoint]) -> dict[str, Any]:
    kinds: dict[str, type[BaseModel]] = {kind.__name__: kind for kind in (Problem, Upload, *OPS)}
    for route in routes:
        for kind in (route.hints.get("body"), route.returns, *getattr(route.returns, "__args__", ())):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                kinds[kind.__name__] = kind
    _, schema = models_json_schema([(kind, "validation") for kind in kinds.values()], ref_template=_REF)
    return schema["$defs"]
