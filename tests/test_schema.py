from typing import Any

import pytest

from clinvk.errors import CliCrashedError, InvalidAnswerError
from clinvk.events import (
    Event,
    Failed,
    Finished,
    FinishReason,
    ReasoningDelta,
    Started,
    TextDelta,
    ToolCall,
    Usage,
)
from clinvk.schema import AnswerCheck, answer_fault, schema_fault, unfenced
from clinvk.turn import OutputFormat

CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
DEEP: dict[str, Any] = {}
for _ in range(2000):
    DEEP = {"properties": {"p": DEEP}}


@pytest.mark.parametrize(
    "schema",
    [
        {},
        CITY,
        {"$ref": "#/$defs/A", "$defs": {"A": {"properties": {"a": {"$ref": "#/$defs/A"}}}}},
        {"$schema": "http://json-schema.org/draft-07/schema#", "items": [{"type": "string"}]},
        {"$schema": "urn:unheard-of", "type": "object"},
        {"type": "array", "items": [{"type": "string"}]},
        {"type": "integer", "minimum": 0, "exclusiveMinimum": True},
        {"type": "string", "pattern": r"^\p{L}+$"},
    ],
)
def test_a_schema_is_taken(schema: dict[str, Any]) -> None:
    assert schema_fault(schema) is None


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"type": "bogus"}, "'bogus' is not valid"),
        ({"type": "object", "properties": 5}, "at $.properties"),
        ({"$ref": "#/$defs/A"}, "'#/$defs/A', which is not in it"),
        ({"$ref": "#/enum/a", "enum": ["b"]}, "'#/enum/a', which is not in it"),
        ({"$ref": "#/enum/0/a", "enum": [None]}, "'#/enum/0/a', which is not in it"),
        ({"$ref": "#/enum/0", "enum": ["b"]}, "'#/enum/0', which is not in it"),
        (
            {"$ref": "#/$defs/a", "$defs": {"a": {"type": {"x": 1}}}, "items": [{}]},
            "in its '$defs' is no schema",
        ),
        ({"$ref": "#/x", "x": {"type": 5}, "items": [{}]}, "'#/x', which is not in it"),
        ({"items": [{}], "properties": {"a": {"prefixItems": [5]}}}, "in its 'prefixItems' is no"),
        ({"items": [{}], "dependentSchemas": []}, "in its 'dependentSchemas' is no"),
        ({"$ref": "http://127.0.0.1:1/schema.json"}, "which is not in it"),
        ({"$schema": 7}, "$schema"),
        (DEEP, "too deep"),
    ],
)
def test_what_is_no_schema_is_told(schema: dict[str, Any], said: str) -> None:
    assert said in (schema_fault(schema) or "")


@pytest.mark.parametrize(
    ("text", "schema", "said"),
    [
        ('{"city": "Rome"}', CITY, None),
        ('{"city": 1}', CITY, "1 is not of type 'string' (at $.city)"),
        ("{}", CITY, "'city' is a required property (at $)"),
        ('{"city": "Ro', CITY, "it is not JSON"),
        ("", None, "it is not JSON"),
        ('{"a": NaN}', None, "NaN is not JSON"),
        ("{}", None, None),
        ("[]", None, "it is not a JSON object"),
        ("[" * 100_000, None, "too deep"),
        ("{}", {"$ref": "#"}, "too deep"),
        ("0", {"minimum": 0, "exclusiveMinimum": True}, "0 is less than or equal to"),
        ("[1]", {"items": [{"type": "string"}]}, "1 is not of type 'string' (at $[0])"),
        ('"a"', {"pattern": r"^\p{L}+$"}, None),
        (f'"{"a" * 60}!"', {"items": {}, "pattern": "^(a+)+$"}, None),
        (f'{{"{"a" * 60}!": 1}}', {"patternProperties": {"^(a+)+$": False}}, None),
        (f'["{"a" * 60}!"]', {"items": {"pattern": "^(a|a)*$"}}, None),
        ('["ab"]', {"items": {"pattern": "^[a-z]$"}}, "does not match"),
        ("1", {"$ref": []}, "cannot be applied"),
        (f'"{"x" * 1000}"', {"type": "object"}, "…"),
    ],
)
def test_an_answer_is_held_against_its_schema(
    text: str, schema: dict[str, Any] | None, said: str | None
) -> None:
    fault = answer_fault(text, schema)
    assert fault is None if said is None else said in (fault or "")


@pytest.mark.parametrize(
    "text", ['{"a": 1}', ' {"a": 1}\n', '```json\n{"a": 1}\n```', "```\n{}```"]
)
def test_what_stands_around_json_is_taken_off(text: str) -> None:
    assert unfenced(text) in ('{"a": 1}', "{}")
    assert unfenced("``` {}") == "``` {}"


STOP = Finished(FinishReason.STOP)
USAGE = Usage(1, 2)


def passed(events: list[Event]) -> list[Event]:
    check = AnswerCheck(OutputFormat(CITY))
    return [check.feed(event) for event in events]


def test_an_answer_of_the_form_passes_as_it_comes() -> None:
    events: list[Event] = [
        Started("m"),
        ReasoningDelta("hm"),
        TextDelta('{"city":'),
        TextDelta('"x"}'),
        USAGE,
        STOP,
    ]
    assert passed(events) == events


def test_a_broken_answer_never_stops_as_if_it_were_whole() -> None:
    *before, last = passed([Started("m"), TextDelta("Sorry"), USAGE, STOP])
    assert before == [Started("m"), TextDelta("Sorry"), USAGE]
    assert isinstance(last, Failed)
    assert isinstance(last.error, InvalidAnswerError)
    assert "it is not JSON" in last.error.message


@pytest.mark.parametrize(
    "end",
    [
        [Finished(FinishReason.LENGTH)],
        [Finished(FinishReason.CONTENT_FILTER)],
        [ToolCall("c", "f", "{}"), USAGE, Finished(FinishReason.TOOL_CALLS)],
        [Failed(CliCrashedError("gone"))],
    ],
)
def test_an_answer_that_says_it_is_none_is_not_checked(end: list[Event]) -> None:
    events = [TextDelta("Let me"), *end]
    assert passed(events) == events
