"""What codex can hold its model to."""

from typing import Any

import pytest

from clinvk.backends.codex_format import output_schema
from clinvk.turn import OutputFormat

STRING = {"type": "string"}


def closed(**properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def open_to_more(**properties: Any) -> dict[str, Any]:
    return {k: v for k, v in closed(**properties).items() if k != "additionalProperties"}


def test_a_strict_schema_goes_as_it_is() -> None:
    schema = {"type": "object", "properties": {"a": STRING}}
    form = OutputFormat(schema, strict=True)
    assert output_schema(form) is schema


@pytest.mark.parametrize(
    ("schema", "strict"),
    [
        (closed(a=STRING), closed(a=STRING)),
        (open_to_more(a=STRING), closed(a=STRING)),
        (
            open_to_more(a={"type": "array", "items": open_to_more(b=STRING), "minItems": 1}),
            closed(a={"type": "array", "items": closed(b=STRING), "minItems": 1}),
        ),
        (
            {
                "$schema": "http://json-schema.org/draft-07/schema#",
                **open_to_more(a={"$ref": "#/$defs/A", "description": "d"}, default=STRING),
                "$defs": {"A": {"anyOf": [open_to_more(), {"type": "null", "default": None}]}},
            },
            {
                **closed(a={"$ref": "#/$defs/A"}, default=STRING),
                "$defs": {"A": {"anyOf": [{**closed(), "required": []}, {"type": "null"}]}},
            },
        ),
    ],
)
def test_a_schema_that_can_be_closed_is(schema: dict[str, Any], strict: dict[str, Any]) -> None:
    form = OutputFormat(schema)
    assert output_schema(form) == strict


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"type": "object"},
        {"type": "array", "items": STRING},
        {"type": "object", "properties": {"a": STRING}},
        {**closed(a=STRING), "additionalProperties": True},
        {**closed(a=STRING), "additionalProperties": STRING},
        closed(a={}),
        closed(a=True),
        closed(a={"type": "array"}),
        closed(a={"allOf": [STRING]}),
        closed(a={"type": ["object", "null"]}),
        {"anyOf": [closed(a=STRING)]},
        {**closed(a=STRING), "anyOf": [closed(a=STRING)]},
    ],
)
def test_what_cannot_be_strict_is_not_sent(schema: dict[str, Any]) -> None:
    form = OutputFormat(schema)
    assert output_schema(form) is None


def test_where_there_is_no_schema_none_is_sent() -> None:
    assert output_schema(OutputFormat()) is None
    assert output_schema(None) is None
