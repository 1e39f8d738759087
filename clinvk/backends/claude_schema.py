"""A caller's JSON Schemas as Claude's API and Claude Code take them. Pure.

Owns what a tool's parameters and the form of an answer must look like. Observed with
claude 2.1.197: the API wants an object at the root, without alternatives there; the CLI leaves
out, without a word, a tool whose root says otherwise. Its own check of answers knows JSON Schema
draft 7 and no more: a keyword beyond it, or any `format`, and it asks for no JSON at all. What
that check does not know is told to the model in the description.
"""

import json
import re
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any

from clinvk.errors import BadRequestError
from clinvk.schema import resolved_root, schema_fault

Schema = dict[str, Any]

_KEY = re.compile(r"[a-zA-Z0-9_.-]{1,64}")
_ALTERNATIVES = ("anyOf", "oneOf", "allOf")
_MAPS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems")
_SINGLES = (
    *("additionalProperties", "items", "contains", "propertyNames"),
    *("not", "if", "then", "else"),
)
_CHECKED = {
    *("$comment", "$defs", "$id", "$ref", "$schema", "additionalItems", "additionalProperties"),
    *("allOf", "anyOf", "const", "contains", "contentEncoding", "contentMediaType", "default"),
    *("definitions", "dependencies", "deprecated", "description", "else", "enum", "examples"),
    *("exclusiveMaximum", "exclusiveMinimum", "if", "items", "maxItems", "maxLength"),
    *("maxProperties", "maximum", "minItems", "minLength", "minProperties", "minimum"),
    *("multipleOf", "not", "nullable", "oneOf", "pattern", "patternProperties", "properties"),
    *("propertyNames", "readOnly", "required", "then", "title", "type", "uniqueItems"),
    "writeOnly",
}


def parameters(schema: Schema | None, param: str) -> Schema:
    """Return the schema of a tool's parameters, of which none is an object without any.

    Raises:
        BadRequestError: with `param`, if it is no schema or none that can be offered.
    """
    found = _rooted(schema or {}, param)
    for value in _constants(found):
        # The CLI normalizes what it is told of tools, and the model would answer with that.
        if isinstance(value, str) and not unicodedata.is_normalized("NFKC", value):
            raise BadRequestError(
                f"the value {value!r} would reach the model as "
                f"{unicodedata.normalize('NFKC', value)!r}; write it so",
                param=param,
            )
    properties = found.get("properties", {})
    return {**found, "properties": {key: _opened(value) for key, value in properties.items()}}


def answer(schema: Schema | None, param: str) -> Schema:
    """Return the schema of an answer, of which none is any object.

    Raises:
        BadRequestError: with `param`, if it is no schema or none that can be asked for.
    """
    found: Schema = _told(_rooted(schema or {}, param))
    return found


def _rooted(schema: Schema, param: str) -> Schema:
    """Check a schema and return it with `type: object` at its root."""
    if fault := schema_fault(schema):
        raise BadRequestError(f"the schema is no JSON Schema: {fault}", param=param)
    found = resolved_root(schema)
    if found.get("type", "object") != "object":
        raise BadRequestError(
            f"the root of the schema is {json.dumps(found['type'])}; Claude takes only objects: "
            f"wrap it in one",
            param=param,
        )
    for name in _ALTERNATIVES:
        if name in found:
            raise BadRequestError(
                f"Claude takes no {name!r} at the root of a schema; move it into a property",
                param=param,
            )
    for key in found.get("properties", {}):
        if not _KEY.fullmatch(key):
            raise BadRequestError(
                f"Claude takes no property named {key!r}; "
                f"use up to 64 of a-z, A-Z, 0-9, _, . and -",
                param=param,
            )
    return {**found, "type": "object"}


def _parts(schema: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Give the schemas right below one, each with its name."""
    for name in _MAPS:
        if isinstance(schema.get(name), dict):
            yield from schema[name].items()
    for name in (*_LISTS, *_SINGLES):
        if name in schema:
            parts = schema[name] if isinstance(schema[name], list) else [schema[name]]
            yield from ((name, part) for part in parts)


def _constants(schema: object) -> Iterator[Any]:
    if isinstance(schema, dict):
        yield from schema.get("enum", [])
        yield schema.get("const")
        for _, part in _parts(schema):
            yield from _constants(part)


def _opened(schema: object) -> object:
    """A schema that is a mere true or false, as an object."""
    if isinstance(schema, bool):
        return {} if schema else {"not": {}}
    return schema


def _told(schema: Any) -> Any:  # noqa: ANN401 - JSON
    """Move the keywords that the CLI's check does not know into the description."""
    if not isinstance(schema, dict):
        return schema
    found = {name: value for name, value in schema.items() if name in _CHECKED}
    found.pop("$schema", None)
    for name in _MAPS:
        if isinstance(found.get(name), dict):
            found[name] = {key: _told(value) for key, value in found[name].items()}
    for name in (*_LISTS, *_SINGLES):
        if name in found:
            value = found[name]
            found[name] = list(map(_told, value)) if isinstance(value, list) else _told(value)
    unknown = {name: value for name, value in schema.items() if name not in _CHECKED}
    if unknown:
        said = str(found.get("description") or "")
        told = json.dumps(unknown, ensure_ascii=False)
        found["description"] = f"{said}\n\n{told}" if said else told
    return found
