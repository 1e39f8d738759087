"""The caller's tools as codex takes them."""

from typing import Any

import pytest

from clinvk.backends.caller_tools import offered
from clinvk.backends.codex_tools import (
    check_tools,
    demand,
    dynamic_tools,
    inner_name,
    outer_name,
)
from clinvk.errors import BadRequestError
from clinvk.turn import ToolChoice, ToolMode, ToolSpec, Turn

AUTO = ToolChoice()
REQUIRED = ToolChoice(ToolMode.REQUIRED)
NAMED = ToolChoice(ToolMode.REQUIRED, "g")


def turn(*tools: ToolSpec, choice: ToolChoice = AUTO) -> Turn:
    return Turn("codex", (), tools=tools, tool_choice=choice)


def carried(schema: dict[str, Any]) -> Any:
    [tool] = dynamic_tools(turn(ToolSpec("f", "d", schema)))
    return tool["inputSchema"]


def test_a_tool_is_its_name_its_description_and_its_schema() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
    assert dynamic_tools(turn(ToolSpec("f", "does it", schema), ToolSpec("g"))) == [
        {"type": "function", "name": "f", "description": "does it", "inputSchema": schema},
        {
            "type": "function",
            "name": "g",
            "description": "",
            "inputSchema": {"type": "object", "properties": {}},
        },
    ]


@pytest.mark.parametrize(
    ("choice", "names"),
    [(AUTO, "fg"), (REQUIRED, "fg"), (NAMED, "g"), (ToolChoice(ToolMode.NONE), "")],
)
def test_the_choice_decides_what_is_offered(choice: ToolChoice, names: str) -> None:
    asked = turn(ToolSpec("f"), ToolSpec("g"), choice=choice)
    assert [tool.name for tool in offered(asked)] == list(names)
    check_tools(asked)


def test_what_must_be_called_is_said_in_one_sentence() -> None:
    assert demand(AUTO) is None
    assert demand(ToolChoice(ToolMode.NONE)) is None
    assert demand(REQUIRED) == "Your next reply must be a call of at least one of your tools."
    assert demand(NAMED) == "Your next reply must be a call of the tool g."


@pytest.mark.parametrize(
    ("tools", "choice", "param"),
    [
        ([ToolSpec("f"), ToolSpec("a b")], AUTO, "tools[1].function.name"),
        ([ToolSpec("")], AUTO, "tools[0].function.name"),
        ([ToolSpec("x" * 65)], AUTO, "tools[0].function.name"),
        ([ToolSpec("\u00e9")], AUTO, "tools[0].function.name"),
        ([ToolSpec("f\n")], AUTO, "tools[0].function.name"),
        ([ToolSpec("f"), ToolSpec("f")], AUTO, "tools[1].function.name"),
        ([ToolSpec("f", None, {"type": "array"})], AUTO, "tools[0].function.parameters"),
        (
            [ToolSpec("f", None, {"properties": {"a": {"type": "bogus"}}})],
            AUTO,
            "tools[0].function.parameters",
        ),
        ([ToolSpec("f")], NAMED, "tool_choice"),
    ],
)
def test_what_codex_or_its_api_would_refuse_is_refused_by_name(
    tools: list[ToolSpec], choice: ToolChoice, param: str
) -> None:
    with pytest.raises(BadRequestError) as caught:
        check_tools(turn(*tools, choice=choice))
    assert caught.value.param == param


def test_strict_cannot_be_carried_and_is_named() -> None:
    assert check_tools(turn(ToolSpec("f", strict=True))) == ("tools[].function.strict",)
    assert check_tools(turn(ToolSpec("f"))) == ()


@pytest.mark.parametrize("name", ["mcp", "mcp__a__b", "mcp_a", "MCP__a", "f", "caller_f"])
def test_names_that_codex_keeps_go_by_another_and_come_back(name: str) -> None:
    inner = inner_name(name)
    assert not inner.startswith("mcp__")
    assert outer_name(inner) == name


STRING = {"type": "string"}


@pytest.mark.parametrize(
    ("schema", "plain"),
    [
        ({"a": True}, {"a": {}}),
        ({"a": {"const": 5}}, {"a": {"type": "integer", "enum": [5]}}),
        ({"a": {"enum": [1.5, None]}}, {"a": {"type": ["null", "number"], "enum": [1.5, None]}}),
        ({"a": {"enum": [True]}}, {"a": {"type": "boolean", "enum": [True]}}),
        ({"a": {"type": "string", "const": "x"}}, {"a": {"type": "string", "enum": ["x"]}}),
        (
            {"a": {"type": "array", "items": True}},
            {"a": {"type": "array", "items": {}}},
        ),
        (
            {"a": {"anyOf": [{"const": "x"}, STRING]}},
            {"a": {"anyOf": [{"type": "string", "enum": ["x"]}, STRING]}},
        ),
        ({"a": {"type": "array"}}, {"a": {"type": "array", "items": {}}}),
        ({"a": {"type": ["array", "null"]}}, {"a": {"type": ["array", "null"], "items": {}}}),
        (
            {"a": {"type": "array", "prefixItems": [STRING, {"const": 1}], "minItems": 2.0}},
            {
                "a": {
                    "type": "array",
                    "items": {"anyOf": [STRING, {"type": "integer", "enum": [1]}]},
                    "minItems": 2,
                }
            },
        ),
        ({"a": {"type": "array", "items": [STRING]}}, {"a": {"type": "array", "items": STRING}}),
        (
            {"const": STRING, "enum": STRING, "items": STRING},
            {"const": STRING, "enum": STRING, "items": STRING},
        ),
    ],
)
def test_what_codex_would_make_wrong_is_said_in_its_terms(
    schema: dict[str, Any], plain: dict[str, Any]
) -> None:
    assert carried({"type": "object", "properties": schema}) == {
        "type": "object",
        "properties": plain,
    }


def test_the_root_is_always_an_object() -> None:
    assert carried({}) == {"type": "object", "properties": {}}
    closed = {"type": "object", "properties": {}, "additionalProperties": False}
    assert carried({"additionalProperties": False}) == closed
    assert carried({"$defs": {"A": {"const": 1}}}) == {
        "type": "object",
        "properties": {},
        "$defs": {"A": {"type": "integer", "enum": [1]}},
    }
