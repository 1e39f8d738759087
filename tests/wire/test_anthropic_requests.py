"""What a request of Anthropic's Messages API means, and how each mistake in one is named."""

import base64
import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clinvk.errors import BadRequestError
from clinvk.turn import (
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
from clinvk.wire.anthropic_messages import AnthropicMessages

HI = {"role": "user", "content": "hi"}
TOOL = {"name": "f", "description": "d", "input_schema": {"type": "object"}}


def body(**fields: Any) -> bytes:
    return json.dumps({"model": "m", "max_tokens": 9, "messages": [HI], **fields}).encode()


def turn(**fields: Any) -> Turn:
    return AnthropicMessages().parse(body(**fields)).turn


def blocks(*content: dict[str, Any], role: str = "user") -> tuple[Message, ...]:
    return turn(messages=[{"role": role, "content": list(content)}]).messages


def image(**source: str) -> dict[str, Any]:
    return {"type": "image", "source": source}


def document(**source: Any) -> dict[str, Any]:
    return {"type": "document", "title": "t", "context": "c", "source": source}


def test_the_smallest_request() -> None:
    assert turn() == Turn(
        "m", (Message(Role.USER, (TextPart("hi"),)),), limits=Limits(max_tokens=9)
    )


def test_the_system_prompt_comes_first_each_block_on_its_own() -> None:
    first = {"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}
    assert turn(system="a").messages[0] == Message(Role.SYSTEM, (TextPart("a"),))
    assert turn(system=[first, {"type": "text", "text": "b"}]).instructions == "a\n\nb"
    assert turn(system=[]).messages == turn(system=None).messages == turn().messages
    assert blocks({"type": "text", "text": "c"}, role="system")[0].role is Role.SYSTEM


def test_roles_blocks_and_their_order_are_kept() -> None:
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "a", "citations": None}]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": ""},
                {"type": "redacted_thinking", "data": "AA=="},
                {"type": "text", "text": "b"},
                {"type": "tool_use", "id": "c1", "name": "f", "input": {"x": "é"}},
                {"type": "tool_use", "id": "c2", "name": "g", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "c1", "content": "one"},
                {
                    "type": "tool_result",
                    "tool_use_id": "c2",
                    "is_error": True,
                    "content": [
                        {"type": "text", "text": "two"},
                        image(type="base64", media_type="image/png", data="AA=="),
                    ],
                },
                {"type": "text", "text": "go on"},
                {"type": "tool_result", "tool_use_id": "c3"},
            ],
        },
    ]
    assert turn(messages=messages).messages == (
        Message(Role.USER, (TextPart("a"),)),
        Message(
            Role.ASSISTANT,
            (TextPart("b"),),
            (PriorCall("c1", "f", '{"x": "é"}'), PriorCall("c2", "g", "{}")),
        ),
        Message(Role.TOOL, (TextPart("one"),), call_id="c1"),
        Message(
            Role.TOOL,
            (TextPart("error: "), TextPart("two"), ImagePart(None, "image/png", "AA==")),
            call_id="c2",
        ),
        Message(Role.USER, (TextPart("go on"),)),
        Message(Role.TOOL, (), call_id="c3"),
    )


def test_a_message_of_thinking_alone_is_empty() -> None:
    thought = {"type": "thinking", "thinking": "hm", "signature": "s"}
    assert blocks(thought, role="assistant") == (Message(Role.ASSISTANT),)
    assert blocks() == (Message(Role.USER),)


def test_images_by_content_and_by_address() -> None:
    assert blocks(
        image(type="base64", media_type="image/png", data="AA=="),
        image(type="url", url="http://x/i.png"),
        image(type="file", file_id="file-1"),
    )[0].parts == (
        ImagePart(None, "image/png", "AA=="),
        ImagePart(url="http://x/i.png"),
        ImagePart(file_id="file-1"),
    )


def test_documents() -> None:
    assert blocks(
        document(type="base64", media_type="application/pdf", data="AA=="),
        document(type="text", media_type="text/plain", data="né"),
        document(type="file", file_id="file_1"),
        document(type="content", content="plain"),
        document(
            type="content",
            content=[{"type": "text", "text": "piece"}, image(type="url", url="http://x")],
        ),
    )[0].parts == (
        FilePart("t", "application/pdf", "AA=="),
        FilePart("t", "text/plain", base64.b64encode("né".encode()).decode()),
        FilePart("t", file_id="file_1"),
        TextPart("plain"),
        TextPart("piece"),
        ImagePart(url="http://x"),
    )


def test_tools_of_the_caller_are_offered_and_those_of_servers_ignored() -> None:
    asked = turn(
        tools=[
            TOOL,
            {"type": "web_search_20250305", "name": "web_search", "max_uses": 5},
            {**TOOL, "type": "custom", "name": "g", "strict": True, "cache_control": None},
            {"type": "mcp_toolset", "mcp_server_name": "s"},
            {"type": "mcp_toolset", "mcp_server_name": "t"},
        ]
    )
    assert asked.tools == (
        ToolSpec("f", "d", {"type": "object"}),
        ToolSpec("g", "d", {"type": "object"}, strict=True),
    )
    assert asked.ignored == ("web_search_20250305", "mcp_toolset", "mcp_toolset")


@pytest.mark.parametrize(
    ("choice", "meant", "parallel"),
    [
        (None, ToolChoice(), True),
        ({"type": "auto"}, ToolChoice(), True),
        ({"type": "auto", "disable_parallel_tool_use": True}, ToolChoice(), False),
        ({"type": "any"}, ToolChoice(ToolMode.REQUIRED), True),
        (
            {"type": "tool", "name": "f", "disable_parallel_tool_use": False},
            ToolChoice(ToolMode.REQUIRED, "f"),
            True,
        ),
        ({"type": "none"}, ToolChoice(ToolMode.NONE), True),
    ],
)
def test_tool_choices(choice: Any, meant: ToolChoice, parallel: bool) -> None:
    asked = turn(tools=[TOOL], tool_choice=choice)
    assert (asked.tool_choice, asked.parallel_calls) == (meant, parallel)


def test_limits() -> None:
    assert turn(stop_sequences=["x", "y"]).limits == Limits(9, ("x", "y"))
    assert turn(stop_sequences=None).limits == turn(stop_sequences=[]).limits == Limits(9)


@pytest.mark.parametrize(
    ("fields", "effort"),
    [
        ({}, None),
        ({"output_config": {"effort": "xhigh", "task_budget": {}}}, "xhigh"),
        ({"output_config": {"effort": None}}, None),
        ({"thinking": {"type": "disabled"}}, "none"),
        ({"thinking": {"type": "disabled"}, "output_config": {"effort": "low"}}, "low"),
        ({"thinking": {"type": "enabled", "budget_tokens": 2000}}, None),
    ],
)
def test_effort(fields: dict[str, Any], effort: str | None) -> None:
    assert turn(**fields).effort == effort


def test_an_asked_for_schema_is_the_form_of_the_answer() -> None:
    form = {"type": "json_schema", "schema": {"type": "object"}}
    meant = OutputFormat({"type": "object"}, strict=True)
    assert turn(output_config={"format": form}).format == meant
    assert turn(output_format=form).format == meant
    assert turn(output_config={"format": None}, output_format=None).format is None


def test_what_has_no_effect_is_named() -> None:
    asked = turn(
        temperature=1,
        top_p=0.5,
        top_k=5,
        metadata={"user_id": "u"},
        service_tier="auto",
        context_management={"edits": []},
        container=None,
        a_new_field={"x": 1},
    )
    assert asked.ignored == (
        *("temperature", "top_p", "top_k", "metadata", "service_tier"),
        *("a_new_field", "context_management"),
    )


def test_null_is_the_same_as_absent() -> None:
    optional = (
        *("system", "tools", "tool_choice", "thinking", "output_config", "output_format"),
        *("stream", "stop_sequences", "temperature", "top_p", "top_k", "metadata"),
        *("service_tier", "container", "context_management"),
    )
    assert turn(**dict.fromkeys(optional)) == turn()


def test_a_count_needs_no_max_tokens() -> None:
    asked = json.dumps({"model": "m", "messages": [HI], "system": "s", "tools": [TOOL]})
    counted = AnthropicMessages().parse_count(asked.encode())
    assert counted.limits == Limits()
    assert counted.tools == (ToolSpec("f", "d", {"type": "object"}),)
    assert counted.instructions == "s"


def in_message(*content: Any, role: str = "user") -> dict[str, Any]:
    return {"messages": [HI, {"role": role, "content": list(content)}]}


MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"model": None}, "model"),
    ({"model": ""}, "model"),
    ({"max_tokens": None}, "max_tokens"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": "9"}, "max_tokens"),
    ({"messages": []}, "messages"),
    ({"messages": None}, "messages"),
    ({"messages": ["hi"]}, "messages[0]"),
    ({"messages": [{"role": "tool", "content": ""}]}, "messages[0].role"),
    ({"messages": [{"role": "user"}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
    (in_message("hi"), "messages[1].content[0]"),
    (in_message({"type": "video"}), "messages[1].content[0]"),
    (in_message({"type": ["text"]}), "messages[1].content[0]"),
    (in_message({"type": "text"}), "messages[1].content[0].text"),
    (in_message({"type": "image"}), "messages[1].content[0].source"),
    (in_message(image(type="file")), "messages[1].content[0].source.file_id"),
    (in_message(image(type="base64", data="")), "messages[1].content[0].source.media_type"),
    (in_message(document(type="url", url="http://x")), "messages[1].content[0].source"),
    (
        in_message(document(type="content", content=[{"type": "tool_use"}])),
        "messages[1].content[0].source.content[0]",
    ),
    (in_message({"type": "tool_use", "id": "i", "name": "f"}), "messages[1].content[0].input"),
    (
        in_message({"type": "tool_use", "id": "", "name": "f", "input": {}}),
        "messages[1].content[0].id",
    ),
    (in_message({"type": "tool_result"}), "messages[1].content[0].tool_use_id"),
    (
        in_message({"type": "tool_result", "tool_use_id": "c", "content": 1}),
        "messages[1].content[0].content",
    ),
    (
        in_message({"type": "tool_result", "tool_use_id": "c", "content": [{"type": "x"}]}),
        "messages[1].content[0].content[0]",
    ),
    ({"system": 5}, "system"),
    ({"system": [image(type="url", url="x")]}, "system[0].type"),
    ({"stream": "yes"}, "stream"),
    ({"stop_sequences": "x"}, "stop_sequences"),
    ({"stop_sequences": [""]}, "stop_sequences[0]"),
    ({"tools": {}}, "tools"),
    ({"tools": ["f"]}, "tools[0]"),
    ({"tools": [{"name": "f"}]}, "tools[0].input_schema"),
    ({"tools": [{**TOOL, "name": ""}]}, "tools[0].name"),
    ({"tools": [{"type": 5}]}, "tools[0].type"),
    ({"tools": [TOOL, {"type": "bash_20250124", "name": "f"}]}, "tools[1].name"),
    ({"tools": [TOOL, TOOL]}, "tools[1].name"),
    ({"tools": [TOOL], "tool_choice": "auto"}, "tool_choice"),
    ({"tools": [TOOL], "tool_choice": {"type": "required"}}, "tool_choice.type"),
    ({"tools": [TOOL], "tool_choice": {"type": "tool"}}, "tool_choice.name"),
    ({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "g"}}, "tool_choice.name"),
    ({"tool_choice": {"type": "any"}}, "tool_choice"),
    ({"thinking": {"type": "deep"}}, "thinking.type"),
    ({"output_config": {"effort": "huge"}}, "output_config.effort"),
    ({"output_config": {"format": {"type": "json"}}}, "output_config.format.type"),
    ({"output_format": {"type": "json_schema"}}, "output_format.schema"),
    ({"temperature": "hot"}, "temperature"),
    ({"top_k": 1.5}, "top_k"),
    ({"metadata": "u"}, "metadata"),
]


@pytest.mark.parametrize(("fields", "param"), MISTAKES, ids=lambda v: v if type(v) is str else "")
def test_a_mistake_is_named(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequestError) as caught:
        AnthropicMessages().parse(body(**fields))
    assert caught.value.param == param
    status, told = AnthropicMessages().error(caught.value)
    assert (status, told["error"]["type"]) == (400, "invalid_request_error")
    assert param in told["error"]["message"]


@pytest.mark.parametrize("raw", [b"", b"[]", b"[" * 100_000, b'{"model": "\\ud800"}'])
def test_a_body_that_cannot_be_read_is_refused(raw: bytes) -> None:
    with pytest.raises(BadRequestError):
        AnthropicMessages().parse(raw)
    with pytest.raises(BadRequestError):
        AnthropicMessages().parse_count(raw)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)


@given(
    st.dictionaries(
        st.sampled_from(
            ["system", "messages", "tools", "tool_choice", "thinking", "output_config", "stream"]
        ),
        JSON | st.lists(st.fixed_dictionaries({"type": JSON, "content": JSON}), max_size=2),
        max_size=3,
    )
)
def test_whatever_is_sent_is_parsed_or_refused(fields: dict[str, Any]) -> None:
    with contextlib.suppress(BadRequestError):
        AnthropicMessages().parse(body(**fields))
