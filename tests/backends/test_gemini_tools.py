"""The caller's functions as gemini's model gets them."""

from dataclasses import replace
from typing import Any

import pytest

from clinvk.backends.gemini_tools import (
    as_seen,
    check_tools,
    must_call,
    offered_tools,
    outer_names,
)
from clinvk.errors import BadRequestError
from clinvk.toolserver import Tool
from clinvk.turn import Message, PriorCall, Role, ToolChoice, ToolMode, ToolSpec, Turn


def asked(*tools: ToolSpec, choice: ToolChoice | None = None) -> Turn:
    return Turn("gemini", (), tools=tools, tool_choice=choice or ToolChoice())


def schema(parameters: dict[str, Any] | None) -> dict[str, Any]:
    tool = ToolSpec("f", None, parameters)
    check_tools(asked(tool))
    return offered_tools(asked(tool))[0].schema


def test_a_tool_without_a_schema_is_one_of_no_arguments() -> None:
    empty = {"type": "object", "properties": {}}
    assert offered_tools(asked(ToolSpec("f"))) == (Tool("f", "", empty),)


@pytest.mark.parametrize(
    ("sent", "carried"),
    [
        ({"properties": {"a": True}}, {"type": "object", "properties": {"a": {}}}),
        ({"properties": {"a": False}}, {"type": "object", "properties": {"a": {"not": {}}}}),
        (
            {"$ref": "#/$defs/p", "$defs": {"p": {"required": ["a"]}}},
            {
                "type": "object",
                "properties": {},
                "required": ["a"],
                "$defs": {"p": {"required": ["a"]}},
            },
        ),
        (
            {"$ref": "#/$defs/p", "$defs": {"p": True}},
            {
                "type": "object",
                "properties": {},
                "$ref": "#/$defs/p",
                "$defs": {"p": True},
            },
        ),
    ],
)
def test_what_a_list_of_tools_cannot_hold_is_written_otherwise(
    sent: dict[str, Any], carried: dict[str, Any]
) -> None:
    assert schema(sent) == carried


@pytest.mark.parametrize(
    ("tools", "param", "words"),
    [
        ([ToolSpec("a b")], "tools[0].function.name", "'a b'"),
        ([ToolSpec("x" * 65)], "tools[0].function.name", "up to 64"),
        ([ToolSpec("a"), ToolSpec("a")], "tools[1].function.name", "more than one"),
        ([ToolSpec("a", None, {"type": "array"})], "tools[0].function.parameters", "'array'"),
        ([ToolSpec("a", None, {"type": 1})], "tools[0].function.parameters", "no JSON Schema"),
        (
            [ToolSpec("a", None, {"properties": {"wait_for_previous": {}}})],
            "tools[0].function.parameters",
            "'wait_for_previous'",
        ),
    ],
)
def test_what_cannot_be_offered_is_refused_by_its_place(
    tools: list[ToolSpec], param: str, words: str
) -> None:
    with pytest.raises(BadRequestError) as caught:
        check_tools(asked(*tools))
    assert caught.value.param == param
    assert words in caught.value.message


@pytest.mark.parametrize(
    "choice", [ToolChoice(ToolMode.REQUIRED, "g"), ToolChoice(ToolMode.REQUIRED)]
)
def test_a_choice_of_what_is_not_there_is_refused(choice: ToolChoice) -> None:
    tools = (ToolSpec("f"),) if choice.name else ()
    with pytest.raises(BadRequestError) as caught:
        check_tools(asked(*tools, choice=choice))
    assert caught.value.param == "tool_choice"


def test_the_choice_decides_what_is_offered() -> None:
    tools = (ToolSpec("f"), ToolSpec("g"))
    named = asked(*tools, choice=ToolChoice(ToolMode.REQUIRED, "g"))
    assert [tool.name for tool in offered_tools(named)] == ["g"]
    assert must_call(named)
    assert not must_call(asked(*tools))
    assert offered_tools(asked(*tools, choice=ToolChoice(ToolMode.NONE))) == ()


def test_strictness_is_told_as_ignored() -> None:
    assert check_tools(asked(ToolSpec("f", strict=True))) == ("tools[].function.strict",)
    assert check_tools(asked(ToolSpec("f"))) == ()


def test_long_names_are_short_for_the_model_and_differ() -> None:
    names = ["n" * 57, "n" * 58, "n" * 63 + "a", "n" * 63 + "b"]
    seen = outer_names(asked(*map(ToolSpec, names)))
    assert list(seen.values()) == names
    assert all(len(name) <= 63 for name in seen)


def test_calls_are_told_by_the_names_that_the_model_sees() -> None:
    calls = (PriorCall("1", "f", "{}"), PriorCall("2", "gone", "{}"))
    said = Message(Role.ASSISTANT, (), calls)
    turn = replace(asked(ToolSpec("f")), messages=(said,))
    [told] = as_seen(turn).messages
    assert [call.name for call in told.calls] == ["mcp_x_f", "gone"]
    plain = replace(turn, tools=())
    assert as_seen(plain) is plain
