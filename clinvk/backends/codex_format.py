"""The form of an answer as codex can promise it: pure.

Codex sends a schema to its model API as a strict one, whatever it is (observed with codex
0.169.0), and the API takes for strict only a part of JSON Schema. So what is not meant as strict
is sent only if it can be made so without letting anything through that it forbids; all else is
asked for in words, which is not done here.
"""

from typing import Any

from clinvk.turn import OutputFormat

Schema = dict[str, Any]

_KEPT = frozenset(
    {
        *("type", "properties", "required", "additionalProperties", "items", "enum", "const"),
        *("anyOf", "$ref", "$defs", "definitions", "description", "title", "pattern", "format"),
        *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
        *("minLength", "maxLength", "minItems", "maxItems"),
    }
)
_NOTES = frozenset(
    {"$schema", "$comment", "default", "examples", "deprecated", "readOnly", "writeOnly"}
)
_SAID_BY = frozenset({"type", "enum", "const", "anyOf", "$ref"})


class _NotStrictError(Exception):
    """It cannot be said in the strict part of JSON Schema."""


def output_schema(form: OutputFormat | None) -> Schema | None:
    """Return the schema that codex is to hold its model to, if it can."""
    if form is None or form.schema is None:
        return None
    if form.strict:
        return form.schema
    try:
        schema = _strict(form.schema)
    except (_NotStrictError, RecursionError):
        return None
    return schema if schema.get("type") == "object" and "anyOf" not in schema else None


def _strict(node: object) -> Schema:
    """The schema with every object closed; what it allows, `node` allows, too."""
    if not isinstance(node, dict) or not _SAID_BY & node.keys():
        raise _NotStrictError
    strict: Schema = {}
    for key, value in node.items():
        if key in _NOTES:
            continue
        if key not in _KEPT:
            raise _NotStrictError
        if key in ("properties", "$defs", "definitions"):
            strict[key] = {name: _strict(inner) for name, inner in value.items()}
        elif key == "anyOf":
            strict[key] = [_strict(inner) for inner in value]
        elif key == "items":
            strict[key] = _strict(value)
        else:
            strict[key] = value
    kinds = strict.get("type")
    kinds = kinds if isinstance(kinds, list) else [kinds]
    if "object" in kinds:
        _close(strict)
    if "array" in kinds and "items" not in strict:
        raise _NotStrictError
    if "$ref" in strict and node.keys() & {"description", "title"}:
        strict = {k: v for k, v in strict.items() if k not in ("description", "title")}
    return strict


def _close(schema: Schema) -> None:
    named = schema.get("properties")
    if named is None or schema.get("additionalProperties", False) is not False:
        raise _NotStrictError
    if set(schema.get("required", ())) != named.keys():
        raise _NotStrictError  # what may be left out must be there under the strict rules
    schema["additionalProperties"] = False
