"""The OpenAPI 3.1 document of endpoints, made of their pydantic models; knows no endpoint."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel


@dataclass(frozen=True, slots=True)
class Operation:
    """One endpoint: what it takes, what it gives, and how it tells a failure.

    `query` are the names and JSON Schemas of what may stand behind the path; `streams` is said
    of the stream that it gives if asked to.
    """

    method: str
    path: str
    tag: str
    summary: str
    reply: type[BaseModel]
    error: type[BaseModel]
    request: type[BaseModel] | None = None
    query: tuple[tuple[str, dict[str, Any]], ...] = ()
    streams: str | None = None
    sent_as: str = "application/json"
    told_as: str = "application/json"


def document(
    operations: Iterable[Operation], *, title: str, version: str, description: str
) -> dict[str, Any]:
    """Return the document; every model's schemas are components, named by its tag."""
    schemas: dict[str, Any] = {}
    paths: dict[str, Any] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method] = _operation(operation, schemas)
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": version, "description": description},
        "paths": paths,
        "components": {"schemas": dict(sorted(schemas.items()))},
    }


def _operation(operation: Operation, schemas: dict[str, Any]) -> dict[str, Any]:
    def content(model: type[BaseModel], kind: str = "application/json") -> dict[str, Any]:
        return {kind: {"schema": _component(model, operation.tag, schemas)}}

    replies = content(operation.reply, operation.told_as)
    if operation.streams is not None:
        schema = {"type": "string", "description": operation.streams}
        replies["text/event-stream"] = {"schema": schema}
    described: dict[str, Any] = {
        "tags": [operation.tag],
        "operationId": _operation_id(operation),
        "summary": operation.summary,
        "responses": {
            "200": {"description": operation.reply.__doc__, "content": replies},
            "default": {
                "description": operation.error.__doc__,
                "content": content(operation.error),
            },
        },
    }
    if operation.request is not None:
        described["requestBody"] = {
            "required": True,
            "content": content(operation.request, operation.sent_as),
        }
    names = re.findall(r"{(\w+)}", operation.path)
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in names
    ]
    parameters += [
        {"name": name, "in": "query", "required": False, "schema": schema}
        for name, schema in operation.query
    ]
    return {**described, "parameters": parameters} if parameters else described


def _operation_id(operation: Operation) -> str:
    words = re.findall(r"\w+", operation.path)
    return "_".join((operation.method, *words)).replace("-", "_")


def _component(model: type[BaseModel], tag: str, schemas: dict[str, Any]) -> dict[str, str]:
    prefix = f"{tag}.".replace(" ", "_")
    schema = model.model_json_schema(ref_template=f"#/components/schemas/{prefix}{{model}}")
    found = {**schema.pop("$defs", {}), model.__name__: schema}
    schemas |= {prefix + name: _any_of(made) for name, made in found.items()}
    return {"$ref": f"#/components/schemas/{prefix}{model.__name__}"}


def _any_of(schema: Any) -> Any:  # noqa: ANN401 - JSON
    """A function of code tells the kinds apart; by their shapes alone several may fit."""
    if isinstance(schema, list):
        return [_any_of(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        "anyOf" if key == "oneOf" else key: _any_of(value)
        for key, value in schema.items()
        if key != "discriminator"
    }
