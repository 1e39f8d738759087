"""What a responses request means, and how each mistake in one is named."""

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clinvk.errors import BadRequestError
from clinvk.turn import (
    AudioPart,
    FilePart,
    ImagePart,
    Limits,
    Message,
    OutputFormat,
    PriorCall,
    Role,
    TextPart,
    ToolChoice,
    ToolMode,
    ToolSpec,
    Turn,
)
from clinvk.wire.openai_responses import Answerable, OpenAIResponses

HI = Message(Role.USER, (TextPart("hi"),))
WIRE = OpenAIResponses()


def encoded(**fields: Any) -> bytes:
    return json.dumps({"model": "m", "input": "hi", **fields}).encode()


def turn(**fields: Any) -> Turn:
    return WIRE.parse(encoded(**fields)).turn


def understood(**fields: Any) -> Answerable:
    return WIRE.understand(WIRE.read(encoded(**fields)))


def refusal(body: bytes) -> BadRequestError:
    with pytest.raises(BadRequestError) as caught:
        WIRE.parse(body)
    return caught.value


def test_the_smallest_request() -> None:
    parsed = understood()
    assert parsed.turn == Turn("m", (HI,))
    assert (parsed.stream, parsed.store) == (False, True)


def test_instructions_come_first() -> None:
    assert turn(instructions="be brief").messages == (
        Message(Role.SYSTEM, (TextPart("be brief"),)),
        HI,
    )


def test_messages_need_no_type() -> None:
    messages = [
        {"role": "system", "content": "a"},
        {"role": "developer", "content": "b"},
        {"role": "user", "content": [{"type": "input_text", "text": "c"}]},
        {"type": "message", "role": "assistant", "content": "d"},
        {
            "type": "message",
            "role": "assistant",
            "id": "msg_1",
            "status": "completed",
            "content": [
                {"type": "output_text", "text": "e", "annotations": []},
                {"type": "refusal", "refusal": "f"},
            ],
        },
    ]
    assert turn(input=messages).messages == (
        Message(Role.SYSTEM, (TextPart("a"),)),
        Message(Role.DEVELOPER, (TextPart("b"),)),
        Message(Role.USER, (TextPart("c"),)),
        Message(Role.ASSISTANT, (TextPart("d"),)),
        Message(Role.ASSISTANT, (TextPart("e"), TextPart("f"))),
    )


def test_parts_are_kept_as_sent() -> None:
    parts = [
        {"type": "input_image", "image_url": "data:image/png;base64,AA==", "detail": "low"},
        {"type": "input_file", "filename": "a.pdf", "file_data": "AA=="},
        {"type": "input_file", "file_id": "file-1"},
        {"type": "input_image", "file_id": "file-2"},
        {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}},
        {"type": "text", "text": "x"},
    ]
    assert turn(input=[{"role": "user", "content": parts}]).messages[0].parts == (
        ImagePart(url="data:image/png;base64,AA=="),
        FilePart("a.pdf", None, "AA==", None),
        FilePart(None, None, None, "file-1"),
        ImagePart(file_id="file-2"),
        AudioPart("wav", "AA=="),
        TextPart("x"),
    )


def test_calls_belong_to_what_the_assistant_said_before() -> None:
    items = [
        {"role": "user", "content": "hi"},
        {"type": "reasoning", "id": "rs_1", "summary": []},
        {"role": "assistant", "content": "wait"},
        {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
        {"type": "reasoning", "id": "rs_2", "summary": []},
        {"type": "function_call", "call_id": "c2", "name": "g", "arguments": '{"a":1}'},
        {"type": "function_call_output", "call_id": "c1", "output": "one"},
        {
            "type": "function_call_output",
            "call_id": "c2",
            "output": [{"type": "input_text", "text": "two"}],
        },
        {"type": "function_call", "call_id": "c3", "name": "f", "arguments": "{}"},
    ]
    assert turn(input=items).messages == (
        HI,
        Message(
            Role.ASSISTANT,
            (TextPart("wait"),),
            (PriorCall("c1", "f", "{}"), PriorCall("c2", "g", '{"a":1}')),
        ),
        Message(Role.TOOL, (TextPart("one"),), call_id="c1"),
        Message(Role.TOOL, (TextPart("two"),), call_id="c2"),
        Message(Role.ASSISTANT, calls=(PriorCall("c3", "f", "{}"),)),
    )


def test_items_of_other_kinds_have_no_effect() -> None:
    items = [
        {"role": "user", "content": "hi"},
        {"type": "custom_tool_call", "call_id": "c", "name": "x", "input": "y"},
        {"type": "custom_tool_call_output", "call_id": "c", "output": "z"},
        {"type": "web_search_call", "id": "ws_1"},
        {"type": "not_yet_known", "content": 7},
    ]
    assert turn(input=items).messages == (HI,)


def test_tools() -> None:
    schema = {"type": "object", "properties": {}}
    asked = turn(
        tools=[
            {"type": "function", "name": "f", "parameters": schema, "strict": True},
            {"type": "function", "name": "g", "description": "does g"},
            {"type": "web_search"},
            {"type": "namespace", "name": "x", "tools": []},
            {"type": "custom", "name": "y"},
        ],
        parallel_tool_calls=False,
    )
    assert asked.tools == (ToolSpec("f", None, schema, strict=True), ToolSpec("g", "does g"))
    assert asked.parallel_calls is False
    assert asked.ignored == ("tools.web_search", "tools.namespace", "tools.custom")


@pytest.mark.parametrize(
    ("choice", "meant"),
    [
        ("none", ToolChoice(ToolMode.NONE)),
        ("auto", ToolChoice()),
        ("required", ToolChoice(ToolMode.REQUIRED)),
        ({"type": "function", "name": "f"}, ToolChoice(ToolMode.REQUIRED, "f")),
        ({"type": "web_search"}, ToolChoice()),
        (None, ToolChoice()),
    ],
)
def test_tool_choice(choice: object, meant: ToolChoice) -> None:
    assert turn(tool_choice=choice).tool_choice == meant


def test_allowed_tools_leave_the_others_out() -> None:
    asked = turn(
        tools=[{"type": "function", "name": "f"}, {"type": "function", "name": "g"}],
        tool_choice={
            "type": "allowed_tools",
            "mode": "required",
            "tools": [{"type": "function", "name": "g"}],
        },
    )
    assert [tool.name for tool in asked.tools] == ["g"]
    assert asked.tool_choice == ToolChoice(ToolMode.REQUIRED)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ({}, None),
        ({"format": {"type": "text"}}, None),
        ({"format": None, "verbosity": None}, None),
        ({"format": {"type": "json_object"}}, OutputFormat()),
        (
            {"format": {"type": "json_schema", "name": "n", "schema": {"a": 1}, "strict": True}},
            OutputFormat({"a": 1}, "n", strict=True),
        ),
    ],
)
def test_the_form_of_the_answer(text: object, meant: OutputFormat | None) -> None:
    assert turn(text=text).format == meant


def test_limits_effort_and_what_has_no_effect() -> None:
    asked = turn(
        max_output_tokens=7,
        reasoning={"effort": "low", "summary": "auto"},
        temperature=0,
        top_p=1,
        include=["reasoning.encrypted_content"],
        truncation="auto",
        prompt_cache_key="k",
        client_metadata={"a": 1},
        stream_options={"include_obfuscation": False},
        text={"verbosity": "low"},
        metadata={"a": "b"},
        background=False,
        something_new=[1],
        nothing=None,
    )
    assert asked.limits == Limits(max_tokens=7)
    assert asked.effort == "low"
    assert asked.ignored == (
        *("temperature", "top_p", "include", "truncation", "stream_options"),
        *("prompt_cache_key", "client_metadata", "something_new", "verbosity"),
    )


def test_null_is_absent() -> None:
    names: tuple[str, ...]
    names = ("instructions", "tools", "tool_choice", "text", "reasoning", "metadata", "store")
    names += ("previous_response_id", "conversation", "prompt", "background", "max_output_tokens")
    assert turn(**dict.fromkeys(names)) == turn()


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": ""}, "model"),
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": 7}, "input"),
        ({"input": [7]}, "input[0]"),
        ({"input": [{}]}, "input[0]"),
        ({"input": [{"type": 7}]}, "input[0]"),
        ({"input": [{"type": "reasoning", "summary": []}]}, "input"),
        ({"input": [{"type": "reasoning"}], "instructions": "x"}, "input"),
        ({"input": [{"role": "king", "content": "a"}]}, "input[0].role"),
        ({"input": [{"role": "user"}]}, "input[0].content"),
        ({"input": [{"role": "user", "content": 7}]}, "input[0].content"),
        ({"input": [{"role": "user", "content": [{}]}]}, "input[0].content[0]"),
        (
            {"input": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "input[0].content[0]",
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "input_text"}]}]},
            "input[0].content[0].text",
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "detail": "low"}]}]},
            "input[0].content[0].image_url",
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "input_file", "file_url": "u"}]}]},
            "input[0].content[0].file_data",
        ),
        ({"input": [{"type": "function_call", "name": "f"}]}, "input[0].call_id"),
        ({"input": [{"type": "function_call_output", "output": "x"}]}, "input[0].call_id"),
        (
            {"input": [{"type": "function_call_output", "call_id": "c", "output": 7}]},
            "input[0].output",
        ),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0].id"),
        ({"input": [{"id": "msg_1"}]}, "input[0].id"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"instructions": 7}, "instructions"),
        ({"tools": [{"name": "f"}]}, "tools[0]"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"tools": [{"type": "function", "name": "f", "parameters": 1}]}, "tools[0].parameters"),
        ({"tool_choice": "maybe"}, "tool_choice"),
        ({"tool_choice": {"type": "function"}}, "tool_choice.name"),
        ({"tool_choice": 7}, "tool_choice"),
        ({"text": {"format": {"type": "xml"}}}, "text.format"),
        ({"text": {"format": {"type": "json_schema", "name": "n"}}}, "text.format.schema"),
        ({"reasoning": {"effort": "huge"}}, "reasoning.effort"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"metadata": {"a": 1}}, "metadata.a"),
        ({"background": True}, "background"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt"),
        ({"stream": "yes"}, "stream"),
        ({"temperature": "hot"}, "temperature"),
    ],
)
def test_a_mistake_is_named_by_its_field(fields: dict[str, Any], param: str) -> None:
    exc = refusal(encoded(**fields))
    assert exc.param == param
    status, body = WIRE.error(exc)
    assert status == 400
    assert body["error"].keys() == {"message", "type", "param", "code"}


def test_a_missing_field_is_told_as_missing() -> None:
    exc = refusal(b'{"model": "m"}')
    assert (exc.code, exc.param) == ("missing_required_parameter", "input")


def test_a_response_that_is_not_kept_has_a_code_of_its_own() -> None:
    assert refusal(encoded(previous_response_id="r")).code == "previous_response_not_found"


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
FIELDS = ["model", "input", "tools", "tool_choice", "text", "reasoning", "metadata", "type"]


@given(st.dictionaries(st.sampled_from(FIELDS), ANYTHING))
def test_nothing_but_a_turn_or_a_400_comes_out(body: dict[str, Any]) -> None:
    with contextlib.suppress(BadRequestError):
        WIRE.parse(json.dumps(body).encode())


def test_an_allowed_tool_whose_name_is_none_allows_nothing() -> None:
    choice = {"type": "allowed_tools", "mode": "auto", "tools": [{"name": ["f"]}, {}]}
    tools = [{"type": "function", "name": "f", "parameters": {}}]
    assert turn(tools=tools, tool_choice=choice).tools == ()
